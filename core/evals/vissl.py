"""The papers' linear protocol: several representations, with and without batch norm, a grid of settings for each.

What is reported is the head that is best on train samples held out for that, fitted again on all of them. The papers
report the best on the test split instead; that number has a name of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.evals.frozen.pooling import PooledEvaluation, check_pool
from core.evals.frozen.samples import (
    Samples,
    check_classes,
    check_heldout,
    check_layers,
    draw_per_class,
    hold_out,
    test_samples,
    top1,
    train_samples,
)
from core.evals.grids.linear_grid import Head, scores_of, steps, train_heads
from core.types import DataSpec, Encoder, Features, Look, Optimizer, Pooling, generator_for, refuse_others, takes


class Amount(NamedTuple):
    """How many labels of each class are given: a share of them, or the same number of each."""

    share: float = 1.0
    shots: int = 0

    @property
    def name(self) -> str:
        """What the metric is called by: "" for every label, "1pct_", "5shot_"."""
        if self.shots:
            return f"{self.shots}shot_"
        return "" if self.share == 1 else f"{100 * self.share:g}pct_"


EVERY = Amount()


class Choice(NamedTuple):
    """One cell of the grid."""

    num_layers: int
    batch_norm: bool
    lr: float
    weight_decay: float


@dataclass
class Vissl(PooledEvaluation):
    """Top-1 of the best of `layers` x `batch_norm` x `lrs` x `weight_decays` linear heads.

    A head is trained on average-pooled patches of the last n blocks, concatenated, or with `pool=cls` on their class
    tokens. The learning rate multiplies a mean
    cross-entropy, is per 256 samples of a batch, and falls to a tenth after each `decay_every` epochs. `shares` and
    `shots` are how many labels of each class are given, one metric each: `vissl/digit_top1` for all of them,
    `vissl/digit_1pct_top1`, `vissl/digit_5shot_top1`; what is less than all is drawn `num_draws` times and averaged.

    Ties go to the head with the lower cross-entropy; a head that diverged is never chosen. With `best_on_test` there is
    also `vissl/digit_top1_best_on_test`: the heads are the same, and the test split says which of them counts. It is
    never below the other and is for comparison with printed numbers alone.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), appendix A.2, after the defaults of VISSL: LARS, a batch of
    16,384, 50 epochs, a tenth every 15, three learning rates and two weight decays. Its augmentation is random crops
    and flips, for counting and distance flips alone (`crop_min` = 1), as crops cut objects off. Departures: features
    are extracted once, so an augmented picture comes back after `looks` epochs; selection on held-out train samples.
    """

    needs_labels: ClassVar[bool] = True

    layers: list[int] = field(default_factory=lambda: [1, 4])  # numbers of last blocks whose features are tried
    batch_norm: list[bool] = field(default_factory=lambda: [False, True])  # of the features, without scale and shift
    optimizer: Optimizer = field(default=Optimizer.lars, metadata=takes(Optimizer.lars, Optimizer.sgd))
    lrs: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.001])
    weight_decays: list[float] = field(default_factory=lambda: [0.0005, 0.0])
    epochs: int = 50
    decay_every: int = 15  # epochs
    min_steps: int = 0  # epochs are made more, and all schedules longer, until this many are taken
    batch_size: int = 16384
    heldout: float = 0.1  # fraction of the given samples that the head is chosen by
    shares: list[float] = field(default_factory=lambda: [1.0])  # of each class's labels, given
    shots: list[int] = field(default_factory=list)  # labels of each class, given
    num_draws: int = 1
    looks: int = 0  # augmented copies of each train picture, one an epoch in turn; 0 = as it is
    crop_min: float = 0.08  # of the looks: smallest share of the area of a random crop; 1 = the whole picture
    flip: bool = True  # of the looks: mirror left and right with probability 0.5
    best_on_test: bool = False
    pool: Pooling = Pooling.mean  # features are the means of these parts of a clip, concatenated, or its class token

    def __post_init__(self) -> None:
        refuse_others(self, "evals.vissl")

        def require(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"evals.vissl.{name} must be {allowed}, got {getattr(self, name)}")

        for name in ("layers", "shots"):
            values = getattr(self, name)
            holds = all(value >= 1 for value in values) and len(set(values)) == len(values)
            require(holds, name, "different whole numbers, each at least 1")
        require(bool(self.layers), "layers", "one or more numbers, each at least 1")
        require(bool(self.batch_norm), "batch_norm", "[true], [false] or both")
        require(len(set(self.batch_norm)) == len(self.batch_norm), "batch_norm", "[true], [false] or both")
        require(bool(self.lrs) and min(self.lrs) > 0, "lrs", "one or more numbers above 0")
        require(
            bool(self.weight_decays) and min(self.weight_decays) >= 0, "weight_decays", "one or more numbers, none < 0"
        )
        require(0 < self.heldout < 1, "heldout", "in (0, 1)")
        require(all(0 < share <= 1 for share in self.shares), "shares", "numbers in (0, 1]")
        require(len(set(self.shares)) == len(self.shares), "shares", "different numbers")
        require(bool(self.shares or self.shots), "shares", "one or more numbers, or evals.vissl.shots")
        require(self.batch_size >= 2, "batch_size", "at least 2")  # batch norm needs two
        require(0 < self.crop_min <= 1, "crop_min", "in (0, 1]")
        require(self.looks >= 0, "looks", "at least 0")
        require(self.min_steps >= 0, "min_steps", "at least 0")
        for name in ("epochs", "decay_every", "num_draws"):
            require(getattr(self, name) >= 1, name, "at least 1")

    @property
    def amounts(self) -> list[Amount]:
        return [*(Amount(share=share) for share in self.shares), *(Amount(shots=shots) for shots in self.shots)]

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers("evals.vissl.layers", max(self.layers), encoder)
        check_pool("evals.vissl.pool", self.pool, encoder, built_for, spec)

    def check_labels(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor], spec: DataSpec) -> None:
        for label, known in check_classes(train, test, spec).items():
            for amount in self.amounts:
                check_heldout(self._num_given(known, label, spec.classes[label], amount), "evals.vissl.heldout")

    def metrics(self, spec: DataSpec) -> list[str]:
        names = [f"vissl/{label}_{amount.name}top1" for label in spec.classes for amount in self.amounts]
        return [found for name in names for found in ([name, f"{name}_best_on_test"] if self.best_on_test else [name])]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        results = {}
        for label in features.spec.classes:
            for amount in self.amounts:
                name = f"vissl/{label}_{amount.name}top1"
                draws = [self._draw(features, label, amount, draw, seed) for draw in range(self._num_draws(amount))]
                results[name] = mean(chosen for chosen, _ in draws)
                if self.best_on_test:
                    results[f"{name}_best_on_test"] = mean(best for _, best in draws)
        return results

    def _num_draws(self, amount: Amount) -> int:
        return 1 if amount == EVERY else self.num_draws

    def _draw(self, features: Features, label: str, amount: Amount, draw: int, seed: int) -> tuple[float, float]:
        """Test top-1 of the chosen head, and of the head that is best on the test split."""
        choice = self.choose(features, label, seed, amount=amount, draw=draw)
        given = self._given(features, label, amount, draw, seed)
        scores: dict[Choice, float] = {}
        for choices, grid in self._grids(features, label, given, seed, None if self.best_on_test else choice):
            test = test_samples(features, label, choices[0].num_layers, self.pool)
            found = scores_of(grid, test.features.to(features.device))
            truth = test.labels.to(features.device)
            scores |= {other: top1(of_head, truth) for other, of_head in zip(choices, found, strict=True)}
        return scores[choice], max(scores.values())

    def choose(self, features: Features, label: str, seed: int, *, amount: Amount = EVERY, draw: int = 0) -> Choice:
        """The cell of the grid that is best on held-out samples of the given ones; reads the train split only.

        Raises ValueError when every head diverged.
        """
        given = self._given(features, label, amount, draw, seed)
        truth = train_samples(features, label, max(self.layers), self.pool).labels[given]
        generator = generator_for(seed, "vissl", label, amount.name, draw, "heldout")
        fit, heldout = hold_out(truth, self.heldout, generator, key="evals.vissl.heldout")
        truth = truth[heldout].to(features.device)
        quality: dict[Choice, tuple[float, float]] = {}
        for choices, grid in self._grids(features, label, given[fit], seed, None):
            unseen = train_samples(features, label, choices[0].num_layers, self.pool).features[given[heldout]]
            for choice, scores in zip(choices, scores_of(grid, unseen.to(features.device)), strict=True):
                if scores.isfinite().all():
                    quality[choice] = (top1(scores, truth), -F.cross_entropy(scores, truth).item())
        if not quality:
            raise ValueError(
                f"evals.vissl.lrs: every head diverged for label {label!r}, got {self.lrs}; use smaller ones"
            )
        return max(quality, key=lambda choice: quality[choice])

    def _given(self, features: Features, label: str, amount: Amount, draw: int, seed: int) -> Tensor:
        """Which train samples' labels are given: indices among those that have `label`."""
        # Of the most layers: whoever asks for fewer afterwards has no clip encoded again.
        labels, num_classes = (
            train_samples(features, label, max(self.layers), self.pool).labels,
            features.spec.classes[label],
        )
        if amount == EVERY:
            return torch.arange(len(labels))
        num_given = self._num_given(labels, label, num_classes, amount)
        # Drawn for all layers alike: which samples these are depends on the labels only.
        given, _ = draw_per_class(labels, num_given, generator_for(seed, "vissl", label, amount.name, draw))
        return given

    def _num_given(self, labels: Tensor, label: str, num_classes: int, amount: Amount) -> Tensor:
        """How many labels of each class are given, [K]. Raises ValueError for more shots than a class has samples."""
        counts = labels.bincount(minlength=num_classes)
        if not amount.shots:
            return (counts * amount.share).round().long().clamp(min=1).minimum(counts)
        small = ((counts > 0) & (counts < amount.shots)).nonzero().flatten().tolist()
        if small:
            raise ValueError(
                f"evals.vissl.shots must be at most the train samples of every class, got {amount.shots}; "
                f"label {label!r} has fewer in classes {small}"
            )
        return torch.full_like(counts, amount.shots)

    def _grids(
        self, features: Features, label: str, given: Tensor, seed: int, only: Choice | None
    ) -> Iterator[tuple[list[Choice], list[Head]]]:
        """A trained head for each cell of the grid, or for one of them; those of one norm and layers together."""
        for num_layers, batch_norm in itertools.product(sorted(self.layers, reverse=True), self.batch_norm):
            if only is not None and (num_layers, batch_norm) != (only.num_layers, only.batch_norm):
                continue
            train = train_samples(features, label, num_layers, self.pool)
            samples = Samples(train.features[given].to(features.device), train.labels[given].to(features.device))
            cells = itertools.product([num_layers], [batch_norm], self.lrs, self.weight_decays)
            choices = [Choice(*cell) for cell in cells] if only is None else [only]
            looks = self._looks(features, label, num_layers, given)
            yield choices, self._grid(samples, looks, choices, features, label, seed)

    def _looks(self, features: Features, label: str, num_layers: int, given: Tensor) -> list[Tensor]:
        """The augmented features of the given samples, [N, num_layers * D] each."""
        has_label = features.labels("train")[label] >= 0
        found = []
        for number in range(self.looks):
            # Of the most layers, shallow to deep, so that fewer are its last columns.
            most = features.augmented(Look(number, self.crop_min, self.flip), max(self.layers), self.pool)
            width = most.shape[1] // max(self.layers)
            found.append(most[has_label][given, -num_layers * width :])  # each on the device when its epoch comes
        return found

    def _grid(
        self,
        samples: Samples,
        looks: list[Tensor],
        cells: list[Choice],
        features: Features,
        label: str,
        seed: int,
    ) -> list[Head]:
        """A head for each of `cells`, which have the same features and the same norm."""
        num_batches = max(1, len(samples.labels) // self.batch_size)
        times = max(1, math.ceil(self.min_steps / (self.epochs * num_batches)))
        share = len(samples.labels) / num_batches / 256
        return train_heads(
            samples,
            features.spec.classes[label],
            settings=[(cell.lr * share, cell.weight_decay) for cell in cells],
            epochs=times * self.epochs,
            batch_size=self.batch_size,
            batch_norm=cells[0].batch_norm,
            seed=seed,
            purpose=f"vissl {label}",
            rate=steps(times * self.decay_every),
            optimizer=self.optimizer,
            looks=looks,
        )
