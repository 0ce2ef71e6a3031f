"""Features on disk are those of these weights and these pixels, and no others."""

import os
import subprocess
import sys
import time

import pytest
import torch

from core.data.augment import normalise
from core.evals.frozen.feature_cache import GIB, FeatureCache, data_digest, weights_digest
from core.evals.frozen.features import FrozenFeatures
from core.types import Sampling
from tests.core.evals.frozen.test_features import Stripes, TinyEncoder


class Inverted(Stripes):
    """The same clips but for one pixel of one of them."""

    def fetch(self, indices):
        batch = super().fetch(indices)
        batch.clips[indices == 3, ..., 0, 0] ^= 255
        return batch


def frozen(folder, encoder=None, train=None, *, max_gib=1.0, **options):
    return FrozenFeatures(
        encoder or TinyEncoder(), train or Stripes(24), Stripes(10), prepare=normalise, device="cpu", batch_size=8,
        cache=FeatureCache(folder, max_gib), **options,
    )  # fmt: skip


def encoded(features, split="train", num_layers=1):
    """How many clips went through the encoder for these features."""
    features.pooled(split, num_layers)
    return features.used.clips


def test_the_second_time_nothing_is_encoded_and_every_bit_is_the_same(tmp_path):
    first, second = frozen(tmp_path), frozen(tmp_path)
    for split, layers in (("train", 1), ("test", 2)):
        assert torch.equal(first.pooled(split, layers), second.pooled(split, layers))
    assert (first.used.clips, second.used.clips) == (34, 0)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_tokens_come_back_as_they_were_in_half_precision(tmp_path, dtype):
    first, second = (frozen(tmp_path, autocast_dtype=dtype) for _ in range(2))
    before, after = first.tokens("test"), second.tokens("test")
    assert before.values.dtype == after.values.dtype == (dtype or torch.float16)
    assert torch.equal(before.values, after.values)
    assert torch.equal(before.labels["column"], after.labels["column"])
    assert second.used.clips == 0 and encoded(second, "test") == 0  # their averages were kept beside them


def test_a_changed_weight_gives_other_features(tmp_path):
    before = frozen(tmp_path).pooled("train")
    changed = TinyEncoder()
    with torch.no_grad():
        changed.embed.weight[0, 0] += 0.25
    features = frozen(tmp_path, changed)
    assert encoded(features) == 24 and not torch.equal(features.pooled("train"), before)


def test_a_changed_pixel_gives_other_features(tmp_path):
    before = frozen(tmp_path).pooled("train")
    features = frozen(tmp_path, train=Inverted(24))
    assert encoded(features) == 24
    assert torch.equal((features.pooled("train") != before).any(dim=1), torch.arange(24) == 3)


@pytest.mark.parametrize(
    "options", [{"autocast_dtype": torch.bfloat16}, {"max_train": 12}, {"shown_as": "other heads"}], ids=str
)
def test_another_way_of_looking_finds_nothing(tmp_path, options):
    encoded(frozen(tmp_path))
    assert encoded(frozen(tmp_path, **options)) > 0


def test_layers_and_samplings_are_kept_apart(tmp_path):
    features = frozen(tmp_path)
    features.pooled("train")
    features.pooled("train", 2)
    features.tokens("train", Sampling(max_train=5))
    assert features.used.clips == 24 + 24 + 5
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_the_folder_never_holds_more_than_its_bound_and_keeps_what_was_used_last(tmp_path):
    cache = FeatureCache(tmp_path, 3.5 * 2**20 / GIB)
    megabyte = torch.zeros(2**18)
    for number, key in enumerate("abc"):
        cache.put(key, megabyte)
        os.utime(cache.path(key), (number, number))
    assert cache.get("a") is not None  # touched: b is the oldest now
    cache.put("d", megabyte)
    assert sorted(path.stem for path in tmp_path.glob("*.safetensors")) == ["a", "c", "d"]
    cache.put("e", torch.zeros(2**20))  # larger than the whole bound
    assert cache.get("e") is None and cache.get("d") is not None


def test_a_file_that_goes_away_leaves_whoever_reads_it_with_the_features(tmp_path):
    cache = FeatureCache(tmp_path, 1.0)
    cache.put("a", torch.arange(1000.0))
    mapped = cache.get("a")
    cache.path("a").unlink()
    assert torch.equal(mapped, torch.arange(1000.0)) and cache.get("a") is None


def test_writing_to_what_was_read_leaves_the_file_as_it_is(tmp_path):
    cache = FeatureCache(tmp_path, 1.0)
    cache.put("a", torch.ones(10))
    cache.get("a").zero_()
    assert torch.equal(cache.get("a"), torch.ones(10))


def test_a_torn_file_is_made_again(tmp_path, caplog):
    encoded(frozen(tmp_path))
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    assert encoded(frozen(tmp_path)) == 24
    assert "cannot be read" in caplog.text
    assert encoded(frozen(tmp_path)) == 0


def test_two_processes_may_fill_one_folder_at_once(tmp_path):
    program = (
        "import sys, torch; from pathlib import Path; from core.evals.frozen.feature_cache import FeatureCache\n"
        "cache = FeatureCache(Path(sys.argv[1]), 2.5 * 2**12 / 2**30)\n"
        "for number in range(40):\n"
        "    value = torch.full((1024,), float(number % 5))\n"
        "    found = cache.get(str(number % 5))\n"
        "    assert found is None or torch.equal(found, value)\n"
        "    cache.put(str(number % 5), value)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(2)]
    deadline = time.monotonic() + 240
    assert [worker.wait(timeout=deadline - time.monotonic()) for worker in workers] == [0, 0]
    assert len(list(tmp_path.glob("*.safetensors"))) <= 2 and not list(tmp_path.glob(".*.tmp"))


def test_a_lazy_data_set_that_does_not_say_what_it_holds_is_not_cached(tmp_path):
    lazy = Stripes(24)
    lazy.is_lazy = True
    assert data_digest(lazy) is None
    for _ in range(2):
        assert encoded(frozen(tmp_path, train=lazy)) == 24


def test_a_digest_tells_weights_by_name_and_value():
    encoder, other = TinyEncoder(), TinyEncoder()
    assert weights_digest(encoder) == weights_digest(other)
    with torch.no_grad():
        other.blocks[1].bias[0] += 1
    assert weights_digest(encoder) != weights_digest(other)
