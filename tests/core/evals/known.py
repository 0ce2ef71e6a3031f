"""Features whose right answer is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.types import DataSpec, FlowTruth, Grid, Look, Pooling, Regions, Sampling, Tokens, generator_for


@dataclass
class TensorFeatures:
    """`Features` from given tensors [N, D], or tokens [N, V, n, D]; every layer count gives the same ones."""

    spec: DataSpec
    train: Tensor
    test: Tensor
    train_labels: dict[str, Tensor]
    test_labels: dict[str, Tensor]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    grid: Grid = field(default_factory=lambda: Grid(1, 1, 1))

    def pooled(self, split: str, num_layers: int = 1, pool: Pooling = Pooling.mean) -> Tensor:
        return {"train": self.train, "test": self.test}[split]

    def augmented(self, look: Look, num_layers: int = 1, pool: Pooling = Pooling.mean) -> Tensor:
        """Each look adds its number to every feature."""
        return torch.cat([self.pooled("train")] * num_layers, dim=1) + look.number

    def tokens(self, split: str, sampling: Sampling | None = None, num_layers: int = 1) -> Tokens:
        """One token a sample, where the features are not tokens already."""
        values = self.pooled(split)
        return Tokens(values if values.ndim == 4 else values[:, None, None], self.labels(split))

    def labels(self, split: str) -> dict[str, Tensor]:
        return {"train": self.train_labels, "test": self.test_labels}[split]

    def regions(self, split: str, sampling: Sampling | None = None) -> Regions:
        """One box a sample, its whole frame, of the first label's class."""
        classes = next(iter(self.labels(split).values()))
        frame = torch.tensor([0.0, 0.0, self.spec.width, self.spec.height])
        return Regions(torch.arange(len(classes)), frame.expand(len(classes), 4), classes)

    def maps(self, split: str, frames: Sequence[int], *, level: int = 1, max_train: int | None = None) -> Tensor:
        """One place a sample: its features."""
        return self.pooled(split)[:, None, None, None].expand(-1, len(frames), 1, 1, -1)

    def segments(self, split: str, frames: Sequence[int], *, max_train: int | None = None) -> Tensor:
        """Every pixel shows the first label's class."""
        classes = next(iter(self.labels(split).values())).to(torch.int16)
        shape = (len(classes), len(frames), self.spec.height, self.spec.width)
        return classes[:, None, None, None].expand(shape)

    def flows(
        self, split: str, *, max_samples: int | None, batch_size: int, size: tuple[int, int] | None
    ) -> Iterator[tuple[Tensor, FlowTruth]]:
        """One pair a sample that moves 10 px to the right, its left half occluded; estimated a pixel too low."""
        truth = torch.tensor([10.0, 0.0]).view(1, 1, 2, 1, 1).expand(len(self.pooled(split)), 1, 2, 8, 8)
        valid = torch.ones_like(truth[:, :, 0], dtype=torch.bool)
        yield truth + torch.tensor([0.0, 1.0]).view(2, 1, 1), FlowTruth(truth, valid, (torch.arange(8) < 4) & valid)


def known(
    train: Tensor, train_labels: Mapping[str, Tensor], test: Tensor, test_labels: Mapping[str, Tensor], **classes: int
) -> TensorFeatures:
    num_kinds = next(iter(classes.values()))
    size, kinds = {"height": 8, "width": 8}, {"box_classes": num_kinds, "segment_classes": num_kinds}
    spec = DataSpec(channels=1, frames=1, **size, classes=classes, **kinds, has_occlusion=True)
    return TensorFeatures(spec, train, test, dict(train_labels), dict(test_labels))


def clusters(*, spread: float, num_train: int = 200, num_test: int = 120, num_classes: int = 4, dim: int = 8):
    """One label, `kind`: class c is a cloud of std `spread` around unit vector c, off the origin."""
    generator = generator_for(7, "clusters")

    def split(size: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(size) % num_classes
        return torch.eye(dim)[labels] + 0.5 + spread * torch.randn(size, dim, generator=generator), labels

    (train, train_labels), (test, test_labels) = split(num_train), split(num_test)
    return known(train, {"kind": train_labels}, test, {"kind": test_labels}, kind=num_classes)
