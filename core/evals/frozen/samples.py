"""The labelled samples an evaluation works on: who has a label, who is held out, who is drawn for low-shot.

A label of -1 means not labelled and the sample is left out. Test samples are read by a function of their own, so that
whatever chooses a head can be seen not to touch them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from core.types import DataSpec, Encoder, Features, Pooling, generator_for

COPIES = 12  # of features in float32 that a head's training takes at most: ridge has five in float64


class Samples(NamedTuple):
    """The samples of a split that have one given label."""

    features: Tensor  # [N, D] float32
    labels: Tensor  # [N] int64 in 0 .. K - 1

    def to(self, device: torch.device) -> Samples:
        return Samples(self.features.to(device), self.labels.to(device))


def placed(samples: Samples, device: torch.device) -> Samples:
    """Where heads are best trained on them: on `device`, unless it is a GPU without room for what that takes."""
    if device.type == "cuda" and samples.features.device.type != "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        if free < COPIES * samples.features.nbytes:
            return samples
    return samples.to(device)


def top1_names(evaluation: str, spec: DataSpec) -> list[str]:
    """One metric a label of the data set: ["ridge/digit_top1", ...]."""
    return [f"{evaluation}/{label}_top1" for label in spec.classes]


def train_samples(features: Features, label: str, num_layers: int, pool: Pooling = Pooling.mean) -> Samples:
    """The train samples that have `label`.

    Raises ValueError naming the label and the class ids when a class has no train sample. A label that is constant
    is no such case: it is answered by its one class.
    """
    samples = _labelled(features, "train", label, num_layers, pool)
    check_train(samples.labels, label, features.spec)
    return samples


def test_samples(features: Features, label: str, num_layers: int, pool: Pooling = Pooling.mean) -> Samples:
    """The test samples that have `label`.

    Raises ValueError when there is none, or when a class in them has no train sample.
    """
    samples = _labelled(features, "test", label, num_layers, pool)
    check_test(samples.labels, label, features.labels("train")[label])
    return samples


def _labelled(features: Features, split: str, label: str, num_layers: int, pool: Pooling) -> Samples:
    labels, pooled = features.labels(split), features.pooled(split, num_layers, pool)
    has_label = labelled(labels, split, label, features.spec)
    values = labels[label]
    return Samples(pooled, values) if has_label.all() else Samples(pooled[has_label], values[has_label])


def check_layers(key: str, num_layers: int, encoder: Encoder) -> None:
    """Raise ValueError naming the option `key` when the encoder has fewer layers."""
    if num_layers > encoder.num_blocks():
        raise ValueError(
            f"{key} must be at most the encoder's {encoder.num_blocks()} layers (encoder.depth), got {num_layers}"
        )


def labelled(labels: Mapping[str, Tensor], split: str, label: str, spec: DataSpec) -> Tensor:
    """Which samples of `split` have `label`: [N] bool. Raises ValueError for values that are no class."""
    values, num_classes = labels.get(label), spec.classes[label]
    if values is None:
        raise ValueError(f"label {label!r} is announced by the data set but its {split} split does not have it")
    outside = torch.unique(values[(values < -1) | (values >= num_classes)]).tolist()
    if outside:
        raise ValueError(
            f"label {label!r}: {split} values must be in 0 .. {num_classes - 1}, or -1 for not labelled, got {outside}"
        )
    return values >= 0


def check_classes(
    train: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
    spec: DataSpec,
    *,
    heldout: str = "",
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The train labels of each label, or of `names`, that are known, once both splits are fit to be judged on by them.

    Raises ValueError: see `check_train` and `check_test`; and, naming the option `heldout` if it is given, where no
    class has two samples, one to choose by.
    """
    found = {}
    for label in spec.classes if names is None else names:
        has_label = [labelled(labels, split, label, spec) for split, labels in (("train", train), ("test", test))]
        known = train[label][has_label[0]]
        check_train(known, label, spec)
        check_test(test[label][has_label[1]], label, known)
        if heldout:
            check_heldout(known.bincount(), heldout)
        found[label] = known
    return found


def subset(num_samples: int, max_samples: int | None) -> Tensor:
    """Indices of a random subset that depends on the number of samples alone, or of all of them."""
    if max_samples is None or max_samples >= num_samples:
        return torch.arange(num_samples)
    # Not the first ones: folders come sorted by class.
    order = torch.randperm(num_samples, generator=generator_for(0, "features", num_samples))
    return order[:max_samples].sort().values  # in order, so that a lazy data set reads its files once each


def check_heldout(counts: Tensor, key: str) -> None:
    """Raise ValueError naming the option `key` when no class has two samples."""
    if not (counts > 1).any():
        raise ValueError(f"{key}: nothing can be held out to choose by, no class has two train samples")


def check_train(labels: Tensor, label: str, spec: DataSpec) -> None:
    """Raise ValueError when a class of `label` is absent from the train `labels`, unless all but one are."""
    num_classes = spec.classes[label]
    absent = (labels.bincount(minlength=num_classes) == 0).nonzero().flatten().tolist()
    if absent and num_classes - len(absent) != 1:
        raise ValueError(
            f"label {label!r}: classes {absent} of {num_classes} have no train sample, so nothing can learn them; "
            "use more train samples or a data set without these classes"
        )


def check_test(labels: Tensor, label: str, train_labels: Tensor) -> None:
    """Raise ValueError when there is no test label, or one that is not among the train ones."""
    if not len(labels):
        raise ValueError(f"label {label!r}: no test sample has it, so there is nothing to be judged on")
    absent = torch.unique(labels[~torch.isin(labels, torch.unique(train_labels))]).tolist()
    if absent:
        raise ValueError(f"label {label!r}: classes {absent} of the test split have no train sample")


def top1(scores: Tensor, labels: Tensor) -> float:
    """Percent of rows of `scores` [N, K] whose largest value is at the label [N]."""
    return 100 * (scores.argmax(dim=1) == labels).double().mean().item()


def draw_per_class(labels: Tensor, num_drawn: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Indices of `num_drawn[c]` random samples of each class c, and of all others."""
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # grouped by class, shuffled within it
    of_class = labels[order]
    counts = labels.bincount(minlength=len(num_drawn))
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[of_class]  # place of a sample within its class
    is_drawn = rank < num_drawn[of_class]
    return order[is_drawn], order[~is_drawn]


def hold_out(labels: Tensor, share: float, generator: Generator, *, key: str) -> tuple[Tensor, Tensor]:
    """Indices (to fit on, held out): `share` of each class is held out, at least one sample, and never the last.

    Raises ValueError naming the option `key` when no class has two samples.
    """
    counts = labels.bincount()
    check_heldout(counts, key)
    num_heldout = (counts * share).round().long().clamp(min=1).minimum((counts - 1).clamp(min=0))
    heldout, rest = draw_per_class(labels, num_heldout, generator)
    return rest, heldout
