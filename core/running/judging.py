"""Judging an encoder: each evaluation on its frozen features, with what that cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from core.configuring.config import Run
from core.configuring.fitting import load_split
from core.data.augment import Augment, augment, draw, normalise
from core.evals.collapse import Spread, compared
from core.evals.frozen.encoding import Used
from core.evals.frozen.feature_cache import FeatureCache
from core.evals.frozen.features import FrozenFeatures
from core.evals.frozen.shared import Share
from core.measuring.cost import ENCODING_COSTS
from core.measuring.phases import Costs, Phase
from core.models.resized import for_frames
from core.running.tuning import Bench
from core.types import Dataset, DataSpec, EncoderModule, Evaluation, Learner, Look, Pooling, Tuning, Workshop

NUM_COLLAPSE_CLIPS = 128  # that tell whether the encoder collapsed: a hundredth of what a small run trains on


class Judgement(NamedTuple):
    """What an evaluation found, and what it used itself: encoding the data is a phase of its own."""

    results: dict[str, float]
    costs: Costs


def judged_sets(run: Run, train_set: Dataset, test_set: Dataset) -> tuple[Dataset, Dataset]:
    """The splits that the evaluations are about, where these are not the ones trained on."""
    if run.eval_data is None or not run.evals:
        return train_set, test_set
    return load_split(run, "train", "eval_data"), load_split(run, "test", "eval_data")


def frozen_features(
    run: Run,
    learner: Learner,
    train_set: Dataset,
    test_set: Dataset,
    spec: DataSpec,
    device: torch.device,
    precision: torch.dtype | None,
    *,
    cached: bool = False,
    pools: Collection[Pooling] = (),
    share: Share | None = None,
) -> FrozenFeatures:
    """The features that every evaluation shares, of the learner's judged encoder, extracted as they are asked for; and
    its estimates of flow, of an objective that gives some.

    `spec` is the data that the encoder was built for, which need not be what it is judged on. With `cached` they are
    kept on disk (`runtime.features_gib`): worth it for an encoder that will be judged again. `pools` will be asked for
    besides those of the run's own evaluations. With a `share` other processes encode some of it.
    """
    keep = cached and run.runtime.features_gib > 0
    return FrozenFeatures(
        learner.judged_encoder,
        train_set,
        test_set,
        prepare=normalise,
        device=device,
        batch_size=128 if device.type == "cpu" else 512,  # on a CPU larger batches leave its caches
        autocast_dtype=precision,
        built_for=spec,
        max_gib=run.runtime.tokens_gib,
        cache=FeatureCache(Path(run.runtime.cache) / "features", run.runtime.features_gib) if keep else None,
        shown_as=repr(run.encoder),
        change=changed,
        estimator=learner if "flow" in run.objective.gives else None,
        pools=pools_of(run) | set(pools),
        share=share,
        resize=lambda encoder, frames: for_frames(encoder, run.encoder, frames),
    )


def pools_of(run: Run) -> set[Pooling]:
    """Over which parts of a clip the run's evaluations want its tokens averaged; the mean, should none say."""
    return {Pooling.mean}.union(*(evaluation.pools() for evaluation in run.evals.values()))


def collapse(
    trained: EncoderModule,
    untrained: EncoderModule,
    clips: Dataset,
    spec: DataSpec,
    device: torch.device,
    precision: torch.dtype | None,
) -> dict[str, Any]:
    """See `core.evals.collapse.compared`: of a few clips, the same for every run on this data."""

    def spread(encoder: EncoderModule) -> Spread:
        features = FrozenFeatures(
            encoder, clips, clips, prepare=normalise, device=device, batch_size=NUM_COLLAPSE_CLIPS,
            autocast_dtype=precision, max_train=NUM_COLLAPSE_CLIPS, built_for=spec,
        )  # fmt: skip
        return Spread.of(features.pooled("train"))

    return compared(spread(trained), spread(untrained))


def changed(clips: Tensor, spec: DataSpec, look: Look, generator: Generator, passed: int = 0) -> Tensor:
    """uint8 clips cropped and mirrored as `look` says, and normalised; `passed` others have their draws before them."""
    draw(passed, generator)
    return augment(clips, Augment(scale_min=look.crop_min, flip=look.flip), spec, generator=generator)


def judge(evaluation: Evaluation, features: FrozenFeatures, seed: int, workshop: Workshop | None = None) -> Judgement:
    """Run one evaluation; what it made the encoder compute is counted by `features`, not here.

    One that trains a copy of the encoder needs a `workshop`; its costs are those since it last went on.
    """
    before = features.used
    with Phase(features.device) as phase:
        if isinstance(evaluation, Tuning):
            assert workshop is not None
            results = evaluation.tune(workshop, seed)
        else:
            results = evaluation.run(features, seed)
    assert phase.costs is not None
    after = features.used
    return Judgement(
        results, phase.costs.without(after.seconds - before.seconds, after.cpu_seconds - before.cpu_seconds)
    )


def evaluate(run: Run, features: FrozenFeatures) -> dict[str, Judgement]:
    """Every evaluation of the run that leaves the encoder as it is, by name; other processes that encode are then let
    go."""
    frozen = sorted(name for name, evaluation in run.evals.items() if not isinstance(evaluation, Tuning))
    try:
        return {name: judge(run.evals[name], features, run.seed) for name in frozen}
    finally:
        features.dismiss()


def tune(run: Run, features: FrozenFeatures, bench: Bench) -> dict[str, Judgement]:
    """Every evaluation of the run that trains a copy of the encoder, by name. Raises Stopped."""
    found = {}
    for name, evaluation in sorted(run.evals.items()):
        if isinstance(evaluation, Tuning):
            num_processes = bench.begin(name, evaluation)
            results, costs = judge(evaluation, features, run.seed, bench)
            found[name] = Judgement(results, costs._replace(gpu_seconds=costs.gpu_seconds * num_processes))
    return found


def results_of(judgements: Mapping[str, Judgement]) -> dict[str, float]:
    return {metric: value for judgement in judgements.values() for metric, value in judgement.results.items()}


def cost_metrics_of(
    judgements: Mapping[str, Judgement], features: FrozenFeatures, flops_per_clip: float
) -> dict[str, float]:
    """Each evaluation's costs, and those of encoding, which they share: `core.measuring.cost.judging_names`."""
    metrics = encoding_costs(Used(), features, flops_per_clip)
    for name, judgement in judgements.items():
        metrics |= judgement.costs.metrics(f"eval_{name}")
    return metrics


def encoding_costs(before: Used, features: FrozenFeatures, flops_per_clip: float) -> dict[str, float]:
    """What `features` used since `before`: reading, encoding and averaging the data."""
    seconds, cpu_seconds, clips = (now - then for now, then in zip(features.used, before, strict=True))
    gpu_seconds = seconds * features.num_processes if features.device.type == "cuda" else 0.0
    values = (seconds, cpu_seconds, gpu_seconds, clips * flops_per_clip / 1e9)
    return dict(zip(ENCODING_COSTS, map(float, values), strict=True))
