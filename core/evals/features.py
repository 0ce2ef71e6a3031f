"""Frozen features of a data set: every sample goes through the encoder once, and every evaluation shares the result.

An evaluation that re-encoded the data each epoch would spend nearly all of its time in a network that never changes;
here a probe's cost is the probe's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.types import Dataset, DataSpec, EncoderModule, generator_for


class FrozenFeatures:
    """Features of the splits "train" and "test" as `encoder` sees them now, kept as float32 on the CPU.

    `prepare` turns stored uint8 clips into what the encoder takes (`core.data.augment.normalise`).

    A split is encoded on first use, in evaluation mode without gradient and under autocast when `autocast_dtype` is
    given; the encoder's modes are put back afterwards. Make a new object after the encoder was trained further.
    `max_train` limits the train split to a random subset that depends on its length alone, so that every run on the
    same data is judged on the same samples.

    Source: average-pooled patches of the last or the last four layers: I-JEPA (Assran et al., 2023,
    arXiv:2301.08243), appendix A.2.
    """

    def __init__(
        self,
        encoder: EncoderModule,
        train: Dataset,
        test: Dataset,
        *,
        prepare: Callable[[Tensor, DataSpec], Tensor],
        device: torch.device | str,
        batch_size: int,
        autocast_dtype: torch.dtype | None = None,
        max_train: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"the batch size of feature extraction must be at least 1, got {batch_size}")
        if max_train is not None and max_train < 1:
            raise ValueError(f"max_train must be at least 1, or None for every train sample, got {max_train}")
        self.spec: DataSpec = train.spec
        self._prepare = prepare
        self._encoder = encoder
        self._datasets = {"train": train, "test": test}
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._autocast_dtype = autocast_dtype
        self._indices = {"train": _subset(len(train), max_train), "test": torch.arange(len(test))}
        self._pooled: dict[tuple[str, int], Tensor] = {}

    def pooled(self, split: str, num_layers: int = 1) -> Tensor:
        """Average-pooled patch tokens (no class token) of the last `num_layers` blocks: [N, num_layers * D] float32.

        Blocks are concatenated shallow to deep. The tensor is shared between callers: do not write to it.
        Raises FloatingPointError when the encoder gives a value that is not finite.
        """
        if (split, num_layers) not in self._pooled:
            self._pooled[split, num_layers] = self._extract(split, num_layers)
        return self._pooled[split, num_layers]

    def labels(self, split: str) -> dict[str, Tensor]:
        """Name -> [N] int64, in the order of `pooled`; -1 means not labelled."""
        indices = self._indices[split]
        return {name: values[indices] for name, values in self._datasets[split].labels().items()}

    def _extract(self, split: str, num_layers: int) -> Tensor:
        dataset, indices = self._datasets[split], self._indices[split]
        # Made outside inference mode, so that a probe may use it under autograd; on the device, so that a GPU is
        # waited for once and not after every batch.
        pooled = torch.empty(len(indices), num_layers * self._encoder.width, device=self._device)
        modes = [(module, module.training) for module in self._encoder.modules()]
        self._encoder.eval()
        try:
            with torch.inference_mode(), self._autocast():
                for start in range(0, len(indices), self._batch_size):
                    batch = dataset.fetch(indices[start : start + self._batch_size])
                    clips = self._prepare(batch.clips.to(self._device, non_blocking=True), dataset.spec)
                    layers = self._encoder.intermediate(clips, num_layers)
                    # Averaged in float32: a bfloat16 mean over many tokens keeps three digits.
                    means = [tokens.mean(dim=1, dtype=torch.float32) for tokens in layers]
                    pooled[start : start + self._batch_size] = torch.cat(means, dim=1)
        finally:
            for module, training in modes:
                module.training = training
        if not pooled.isfinite().all():
            raise FloatingPointError(f"the encoder's features of the {split} split are not finite")
        return pooled.cpu()

    def _autocast(self) -> torch.autocast:
        dtype = self._autocast_dtype
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)


def _subset(num_samples: int, max_samples: int | None) -> Tensor:
    if max_samples is None or max_samples >= num_samples:
        return torch.arange(num_samples)
    # Not the first ones: folders come sorted by class.
    order = torch.randperm(num_samples, generator=generator_for(0, "features", num_samples))
    return order[:max_samples].sort().values  # in order, so that a lazy data set reads its files once each
