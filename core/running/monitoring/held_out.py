"""How often a linear probe is right along a run, on labelled training clips that it was not fitted on.

The test split is never read. Nothing of it is part of what a run is, unless the run is judged at its best step
(`judge=best`), which this chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor

from core.configuring.config import ConfigError, Judge, Run
from core.data.arrays import ArrayDataset
from core.data.augment import normalise
from core.evals.frozen.features import FrozenFeatures
from core.evals.frozen.samples import Samples, hold_out, labelled, subset, top1
from core.evals.ridge import fit_ridge, standardiser
from core.running.monitoring.few_clips import held, most_clips
from core.types import Dataset, DataSpec, EncoderModule, generator_for

CLIPS, PER_CLASS = 512, 4  # clips, or so many for each class where that is more
SHARE = 0.5  # of them held out
ALPHA = 0.1  # the ridge's penalty a fitted clip: one, so that nothing is chosen on what is held out
BATCH = 128


class HeldOut:
    """Labelled clips of the split `train` that is judged on, half of them held out: the same for every run on it.

    `names` are the labels that can be probed; empty where no class of any has two clips.
    """

    def __init__(
        self, train: Dataset, built_for: DataSpec, device: torch.device, precision: torch.dtype | None
    ) -> None:
        self._train, self._built_for, self._device, self._precision = train, built_for, device, precision
        self._spec = replace(train.spec, clips_per_video=1)
        per_video = train.spec.clips_per_video
        wanted = max([CLIPS, *(PER_CLASS * num for num in train.spec.classes.values())])
        self._indices = subset(len(train) // per_video, min(wanted, most_clips(train.spec))) * per_video
        self._clips: ArrayDataset | None = None
        self._parts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # known clips, of these to fit on, and held out
        for name in train.spec.classes:
            labels = {name: train.labels()[name][self._indices]}
            known = labelled(labels, "train", name, train.spec).nonzero().flatten()
            counts = labels[name][known].bincount()
            if (counts > 1).any() and (counts > 0).sum() > 1:
                generator = generator_for(0, "held out", name)
                self._parts[name] = (known, *hold_out(labels[name][known], SHARE, generator, key="held out"))

    @property
    def names(self) -> list[str]:
        return list(self._parts)

    def top1(self, encoder: EncoderModule) -> dict[str, float]:
        """{"monitor/probe_digit_top1": percent, ...}. Raises FloatingPointError for features that are not finite."""
        if self._clips is None:
            self._clips = held(self._train, self._indices, self._spec)
        features = FrozenFeatures(
            encoder, self._clips, self._clips, prepare=normalise, device=self._device, batch_size=BATCH,
            autocast_dtype=self._precision, built_for=self._built_for,
        ).pooled("train")  # fmt: skip
        found = {}
        for name, (known, fit, held_out) in self._parts.items():
            values, labels = features[known], self._train.labels()[name][self._indices][known]
            samples = Samples(values[fit], labels[fit])
            (head,) = fit_ridge(standardiser(samples.features), samples, self._spec.classes[name], [ALPHA * len(fit)])
            found[f"monitor/probe_{name}_top1"] = top1(head(values[held_out]), labels[held_out])
        return found


def held_out_of(
    run: Run, judged_on: Dataset, spec: DataSpec, device: torch.device, precision: torch.dtype | None
) -> HeldOut | None:
    """What a probe along the run is made with, of the split `train` that it is judged on; None where none is asked for.

    Raises ConfigError for a run that is to be judged at its best step, where no labelled clips can be held out.
    """
    is_chosen = run.judge is Judge.best
    if not (is_chosen or "probe" in run.runtime.also_monitor):
        return None
    held_out = HeldOut(judged_on, spec, device, precision)
    if is_chosen and not held_out.names:
        raise ConfigError(
            "judge=best: the train split that the run is judged on has no label of two classes with two clips each, so "
            "that none can be held out to choose by; set judge=last"
        )
    return held_out


def score(seen: Mapping[str, float]) -> float | None:
    """What steps are compared by: the mean over labels of what a probe of held-out clips logged, if it did."""
    told = [value for name, value in seen.items() if name.startswith("monitor/probe_")]
    return mean(told) if told else None
