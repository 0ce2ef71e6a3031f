from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.evals.attentive import Attentive
from core.evals.grids.attention_grid import Layout
from core.evals.ridge import Ridge
from core.models.vit import ViT
from core.types import DataSpec, Tokens, generator_for
from tests.core.evals.known import TensorFeatures, clusters, known

SHORT = {"heads": 2, "lrs": [0.03], "weight_decays": [0.01], "epochs": 12, "batch_size": 32}


def one_token_in_many(*, num_tokens=12, width=8) -> TensorFeatures:
    """The label is the content of one marked token; all tokens together have the same mean whatever the label.

    Feature 0 marks the token; features 1 to 4 of the marked one hold the class, and another token the opposite.
    """
    generator = generator_for(3, "one token")

    def split(size: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(size) % 4
        tokens = 0.05 * torch.randn(size, num_tokens, width, generator=generator)
        place = torch.rand(size, num_tokens, generator=generator).argsort(dim=1)[:, :2]
        rows, content = torch.arange(size), F.one_hot(labels, 4).float()
        tokens[rows, place[:, 0], 0] += 2
        tokens[rows, place[:, 0], 1:5] += content
        tokens[rows, place[:, 1], 1:5] -= content
        return tokens[:, None], labels

    (train, train_labels), (test, test_labels) = split(400), split(200)
    return known(train, {"kind": train_labels}, test, {"kind": test_labels}, kind=4)


@pytest.mark.parametrize("layout", ["vjepa", "plain"])
def test_it_reads_a_label_that_one_token_carries_and_the_average_does_not(layout):
    features = one_token_in_many()
    averaged = dataclasses.replace(features, train=features.train.mean(dim=(1, 2)), test=features.test.mean(dim=(1, 2)))
    probe = Attentive(**SHORT | {"layout": type(Attentive().layout)[layout], "epochs": 30})
    assert probe.run(features, seed=0)["attentive/kind_top1"] > 90
    assert Ridge().run(averaged, seed=0)["ridge/kind_top1"] < 50


def test_a_probe_of_two_blocks_reads_it_as_well():
    features = one_token_in_many()
    assert Attentive(**SHORT | {"depth": 2, "epochs": 20}).run(features, seed=0)["attentive/kind_top1"] > 90


def test_a_plain_probe_has_one_block():
    with pytest.raises(
        ValueError, match=r"evals\.attentive\.depth must be 1 with evals\.attentive\.layout=plain, got 2"
    ):
        Attentive(layout=Layout.plain, depth=2)


def test_the_setting_is_chosen_without_the_test_split():
    features = clusters(spread=0.8)
    evaluation = Attentive(**SHORT | {"lrs": [0.0001, 0.03]})
    poisoned = dataclasses.replace(
        features,
        test=torch.full_like(features.test, torch.nan),
        test_labels={"kind": features.test_labels["kind"].flip(0)},
    )
    clean = evaluation.choose(features, "kind", 0)
    assert torch.equal(evaluation.choose(poisoned, "kind", 0).flat, clean.flat)


def test_a_setting_that_does_not_learn_is_not_chosen():
    features = clusters(spread=0.3)
    evaluation = Attentive(**SHORT | {"lrs": [1e-7, 0.03]})
    alone = Attentive(**SHORT).choose(features, "kind", 0)
    assert torch.allclose(evaluation.choose(features, "kind", 0).flat, alone.flat, atol=1e-5)


def test_settings_that_all_diverge_are_an_error_that_names_the_option():
    features = clusters(spread=0.3)
    with pytest.raises(
        ValueError, match=r"evals\.attentive\.lrs: every probe diverged for label 'kind', got \[1e\+30\]"
    ):
        Attentive(**SHORT | {"lrs": [1e30], "clip": None}).run(features, seed=0)


def test_views_are_samples_in_training_and_averaged_in_testing():
    """Half of a video's views say nothing; averaging the probabilities of both answers every video."""
    features = clusters(spread=0.02)

    def with_blank(values: Tensor) -> Tensor:
        return torch.stack([values[:, None], torch.full_like(values, 0.5)[:, None]], dim=1)

    both = dataclasses.replace(features, train=with_blank(features.train), test=with_blank(features.test))
    evaluation = Attentive(**SHORT)
    assert evaluation.run(both, seed=0)["attentive/kind_top1"] == 100
    probe = evaluation.choose(both, "kind", 0)
    tokens = both.tokens("test")
    each = torch.stack([probe(tokens.values[:, view])[0].softmax(dim=-1) for view in range(2)])
    averaged = evaluation._probabilities(probe, tokens, torch.arange(len(features.test)), torch.device("cpu"))
    assert torch.allclose(averaged[0], each.mean(dim=0), atol=1e-6)


def test_tokens_in_half_precision_give_the_numbers_of_their_values():
    features = clusters(spread=0.5)
    rounded = dataclasses.replace(features, train=features.train.half().float(), test=features.test.half().float())

    class Half(TensorFeatures):
        def tokens(self, split, sampling=None, num_layers=1) -> Tokens:
            full = super().tokens(split)
            return full._replace(values=full.values.half())

    half = Half(**{f.name: getattr(features, f.name) for f in dataclasses.fields(features)})
    assert Attentive(**SHORT).run(half, seed=0) == Attentive(**SHORT).run(rounded, seed=0)


SPEC = DataSpec(3, frames=4, height=16, width=16, classes={"kind": 4})


def test_heads_that_do_not_divide_the_width_are_refused_before_training():
    message = (
        r"evals\.attentive\.heads must divide the tokens' width, 32, got 12; up to 32 these do: 1, 2, 4, 8, 16, 32"
    )
    with pytest.raises(ValueError, match=message):
        Attentive().check(ViT(width=32, depth=1, heads=2, patch=4), SPEC, SPEC)
    Attentive(heads=12).check(ViT(width=48, depth=1, heads=2, patch=4), SPEC, SPEC)


def test_clips_that_the_data_does_not_give_are_refused_before_training():
    with pytest.raises(ValueError, match=r"evals\.attentive\.temporal_views 1 times clips 2: the data gives 1 clips"):
        Attentive(heads=2, clips=2).check(ViT(width=32, depth=1, heads=2, patch=4), SPEC, SPEC)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lrs": []}, "lrs must be one or more numbers above 0"),
        ({"weight_decays": [-1.0]}, "weight_decays must be one or more numbers, none below 0"),
        ({"heldout": 1.0}, r"heldout must be in \(0, 1\), got 1.0"),
        ({"clip": 0.0}, "clip must be above 0, or null"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"clips": 0}, "clips must be at least 1, or null for all, got 0"),
        ({"max_train": 0}, "max_train must be at least 1, or null for all, got 0"),
    ],
)
def test_an_option_out_of_range_names_its_key(option, message):
    with pytest.raises(ValueError, match=rf"evals\.attentive\.{message}"):
        Attentive(**option)
