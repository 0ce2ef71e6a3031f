"""What holds for every set of pictures that is read as it is downloaded, and for shards."""

import shutil

import pytest
import torch

from core.configuring.config import ConfigError, check_here, load
from core.data import DATA
from core.data.fingerprint import fingerprint
from core.data.loader import StepLoader
from core.running.trainer import train
from core.testing import check_dataset
from tests.core.data.making_sets import KINDS, made
from tests.core.running.test_trainer import TINY, Notebook

LAZY = ("imagenette", "tiny_imagenet", "parquet", "webdataset")  # those that may not fit in memory


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_contract_of_data_sets_asks(kind, tmp_path):
    name, options = made(kind, tmp_path / "set")
    check_dataset(DATA[name](**options), tmp_path / "cache")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_known_before_a_picture_is_decoded(kind, split, tmp_path):
    name, options = made(kind, tmp_path / "set")
    data = DATA[name](**options)
    known, loaded = data.known_labels(split), data.load(split, tmp_path / "cache").labels()
    assert known.keys() == loaded.keys() and all(torch.equal(known[label], loaded[label]) for label in known)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_files_elsewhere_have_one_fingerprint_and_a_changed_byte_another(kind, tmp_path):
    name, options = made(kind, tmp_path / "set")
    before = fingerprint(DATA[name](**options), tmp_path / "cache")
    shutil.copytree(tmp_path / "set", tmp_path / "moved", copy_function=shutil.copy)
    moved = DATA[name](**options | {"path": str(tmp_path / "moved")})
    assert fingerprint(moved, tmp_path / "cache") == before
    file = moved.sources()[0][1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert fingerprint(moved, tmp_path / "cache") != before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("parquet", "webdataset")])
def test_the_set_s_own_folder_may_be_named_itself(kind, tmp_path):
    name, options = made(kind, tmp_path / "set")
    [folder] = (tmp_path / "set").iterdir()
    above, itself = DATA[name](**options), DATA[name](**options | {"path": str(folder)})
    assert fingerprint(above, tmp_path) == fingerprint(itself, tmp_path)
    assert len(above.load("test", tmp_path)) == len(itself.load("test", tmp_path))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("parquet", "webdataset")])
def test_without_files_it_says_what_to_get_where(kind, tmp_path):
    words = ["method=mae", "scale=smoke", f"data={kind}", "data.path=sets", f"runtime.data_root={tmp_path}"]
    with pytest.raises(ConfigError, match=rf"got '{tmp_path}/sets', which does not exist: download .* from .* into "):
        check_here(load(words))


@pytest.mark.parametrize("kind", LAZY)
def test_what_does_not_fit_in_memory_gives_the_same_pictures_with_and_without_workers(kind, tmp_path):
    name, options = made(kind, tmp_path / "set")
    held = DATA[name](**options).load("train", tmp_path / "cache")
    lazy = DATA[name](**options, memory_gb=0.0).load("train", tmp_path / "cache")
    assert lazy.is_lazy and not held.is_lazy
    wanted = dict(StepLoader(held, batch_size=6, seed=1, num_steps=4))
    for workers, start in ((0, 0), (2, 2)):  # begun later, as a resumed run does
        for step, batch in StepLoader(lazy, batch_size=6, seed=1, start_step=start, num_steps=4, num_workers=workers):
            assert torch.equal(batch.clips, wanted[step].clips)
            assert torch.equal(batch.labels["class"], wanted[step].labels["class"])


@pytest.mark.parametrize(("kind", "more"), [("cifar10", []), ("webdataset", ["data.memory_gb=0", "runtime.workers=1"])])
def test_a_run_on_it_that_was_stopped_ends_as_one_that_was_not(kind, more, tmp_path):
    name, options = made(kind, tmp_path / "set")
    given = [f"data={name}", *(f"data.{key}={value}" for key, value in options.items())]
    words = [*TINY, "method=mae", *given, *more, f"runtime.cache={tmp_path / 'cache'}"]
    whole, first, second = (Notebook(tmp_path / folder) for folder in ("whole", "parts", "parts"))
    train(load(words), whole)
    first.stop_after = 3
    train(load(words), first)
    assert first.outcome != "done"
    train(load(words), second)
    assert second.outcome == whole.outcome == "done" and second.results == whole.results
