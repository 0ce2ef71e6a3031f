"""A run that was trained, opened again: its encoder from its newest checkpoint, and the answers it gives."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.configuring.config import (
    ConfigError,
    Run,
    flatten,
    identity,
    judged,
)
from core.configuring.fitting import choose_device, fingerprints, load_split
from core.configuring.places import located
from core.evals.frozen.features import FrozenFeatures
from core.measuring.cost import encoding_flops
from core.measuring.phases import Costs
from core.objectives.supervised import Supervised
from core.running import checkpoint
from core.running.asking import BACK, OLDER, Asked, digest
from core.running.building import build_learner, choose_precision, seen, start_from_weights
from core.running.checkpoint import CheckpointError
from core.running.judging import encoding_costs, frozen_features, judge, pools_of
from core.running.tuning import Bench
from core.types import Dataset, DataSpec, EncoderModule, Learner, Tuning


class Answer(NamedTuple):
    """What an evaluation found, under its own metrics' names, and what it cost."""

    results: dict[str, float]  # with cost/eval_<name>_...
    costs: Costs
    step: int  # of the checkpoint


@dataclass
class Stored:
    """A trained run with its judged encoder, ready for evaluations."""

    run: Run
    learner: Learner
    spec: DataSpec  # of the data it was trained on
    saw: Mapping[str, str]  # its fingerprint then, by group; empty: unknown
    device: torch.device
    precision: torch.dtype | None
    step: int
    folder: Path  # of its checkpoints
    instead: str = checkpoint.JUDGE_ON_THEM  # what can be done where the files of its training were replaced

    @functools.cached_property
    def train_set(self) -> Dataset:
        """What it was trained on. Raises CheckpointError where the files have been replaced, ConfigError if gone."""
        now = fingerprints(self.run, groups=("data",))
        checkpoint.refuse_other_data(self.folder, self.saw, now, instead=self.instead)
        train_set = load_split(self.run, "train")
        train_set.spec = self.spec
        return train_set

    @property
    def encoder(self) -> EncoderModule:
        return self.learner.judged_encoder


def open_stored(run: Run, folder: Path) -> Stored:
    """The encoder of `run` from the newest checkpoint in `folder`.

    A run of no steps needs none: its seed decides it, or the weights that it starts from.

    Raises CheckpointError when there is none or it was made by another architecture.
    """
    device = choose_device(run.runtime.device)
    if run.runtime.threads:
        torch.set_num_threads(run.runtime.threads)
    path, state = folder, dict[str, Any]()
    if run.optim.steps:
        if (found := checkpoint.newest(folder)) is None:
            raise CheckpointError(f"{folder} holds no checkpoint that can be read")
        path, state = found
    spec = checkpoint.data_spec(state) or _spec_by_files(run)
    learner = build_learner(run, spec)
    if run.optim.steps:
        chosen = (state.get("best") or {}).get("learner")  # the best till then, of a run that has not ended
        load_weights(learner, chosen or state["learner"], path)
    else:
        start_from_weights(run, learner, spec)
    return Stored(
        run,
        learner.to(device).eval(),
        spec,
        state.get("data", {}),
        device,
        choose_precision(run.precision, device),
        int(state.get("step", 0)),
        folder,
    )


def _spec_by_files(run: Run) -> DataSpec:
    """What the run's data is like, as its files tell; where they are gone, the shape that its options tell.

    Raises ConfigError where only files tell it, or the labels that the learner is built for.
    """
    try:
        return seen(run, load_split(run, "train").spec)
    except (ConfigError, OSError) as error:
        shape: DataSpec | None = located(run).data.shape() if run.optim.steps else None
        if shape is None and not run.optim.steps:
            raise
        if shape is None or isinstance(run.objective, Supervised):
            lacking = "the shape of its data's clips" if shape is None else "the labels that it learned"
            raise ConfigError(f"{error}; {OLDER} {lacking}: {BACK}") from error
        return seen(run, shape)


@contextmanager
def told_where_data_was(config: Mapping[str, Any], folder: Path, data_root: str = ".") -> Iterator[None]:
    """ConfigErrors of a run with this flat `config` say more where its files are not found: see `where_data_was`."""
    try:
        yield
    except (ConfigError, CheckpointError) as error:
        if not (more := where_data_was(config, folder, data_root)):
            raise
        raise ConfigError(f"{error}; {more}") from error


def where_data_was(config: Mapping[str, Any], folder: Path, data_root: str) -> str:
    """Below which folder a run read files that are not found now, and what to type; "" where they are found, or no
    checkpoint in `folder` tells. They are looked for below `data_root`.
    """
    keys = [f"{group}.{name}" for group in ("data", "flow_data", "eval_data") for name in ("path", "test_path")]
    root = Path(data_root).expanduser()
    gone = [path for key in keys if (path := config.get(key)) and not (root / Path(path).expanduser()).exists()]
    found = checkpoint.newest(folder) if gone else None
    if found is None or (before := found[1].get("data_root")) is None:
        return ""
    if not all((Path(before) / path).exists() for path in gone):
        return f"the run read {gone[0]} below {before}, where it is not any more"
    return f"the run read {gone[0]} below {before}: give {shlex.quote(f'runtime.data_root={before}')}"


def spec_in(folder: Path) -> DataSpec | None:
    """What the data was like that the run in `folder` learned from; None where no checkpoint tells."""
    found = checkpoint.newest(folder)
    return None if found is None else checkpoint.data_spec(found[1])


def groups_read(run: Run) -> tuple[str, ...]:
    """The data that judging a trained `run` reads, by its groups."""
    if run.eval_data is None:
        return ("data",)
    also_data = any(
        isinstance(evaluation, Tuning) and evaluation.reads_pretraining for evaluation in run.evals.values()
    )
    return ("data", "eval_data") if also_data or shares_files(run) else ("eval_data",)


def shares_files(run: Run) -> bool:
    """Whether it is judged on files that it learned from, cut to another size say."""
    sets = located(run).data, located(judged(run)).data
    data, other = ({path for name in ("path", "test_path") if (path := getattr(part, name, ""))} for part in sets)
    return bool({Path(path).resolve() for path in data} & {Path(path).resolve() for path in other})


def refuse_replaced(where: Path, saw: Mapping[str, str], now: Mapping[str, str], *, is_own_set: bool) -> None:
    """Raises CheckpointError, with both fingerprints, where a run would be judged on what has taken the place of the
    data that it `saw`, or by other source of its plugins. `now` is what judging it reads: data that is only beside
    that may be gone. Where it `is_own_set`, the run's own `eval_data` is judged on, and not another."""
    for group in sorted(saw.keys() & now.keys()):
        if saw[group] != now[group] and (is_own_set or group != "eval_data"):
            instead = checkpoint.JUDGE_ON_THEM if group == "data" else f"name the new ones: {group}.version=WORD"
            raise CheckpointError(checkpoint.other_data(f"{where} was made", group, saw[group], now[group], instead))


def load_weights(learner: Learner, weights: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError naming the first tensor that is missing, unknown or of another shape."""
    own = learner.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        have = list(own[name].shape) if name in own else "none"
        stored = list(weights[name].shape) if name in weights else "none"
        if have != stored:
            raise CheckpointError(
                f"{path} is of another architecture: {name} is {stored} there and {have} in this run's configuration"
            )
    learner.load_state_dict(dict(weights))


class Aside:
    """The recorder of an evaluation that is made later: its checkpoints go to `folder`, its series nowhere.

    It is never asked to stop. Whoever kills it loses the steps since its last checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def saw(self, data: Mapping[str, str]) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def checkpointed(self, step: int, path: Path) -> None: ...

    def should_stop(self) -> bool:
        return False

    def keep(self, name: str, kind: str, content: bytes) -> None: ...

    def finish(self, outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None: ...


class Judge:
    """Answers evaluations of one stored run; those on the same data share their features.

    Of the `questions` that will be asked it knows what to average while it encodes, so that it does so once.
    """

    def __init__(self, stored: Stored, questions: Sequence[Asked] = ()) -> None:
        self.stored = stored
        self._questions = questions
        self._features: dict[str, FrozenFeatures] = {}

    def answer(self, asked: Asked) -> Answer:
        """Raises ValueError when the data does not suit the evaluation, FloatingPointError for a diverged encoder."""
        features = self._features_for(asked.run)
        asked.run.evals[asked.kind].check_labels(features.labels("train"), features.labels("test"), features.spec)
        before = features.used
        judgement = judge(asked.run.evals[asked.kind], features, asked.run.seed, self._bench(asked))
        results = {asked.metric(name): value for name, value in judgement.results.items()}
        results |= judgement.costs.metrics(f"eval_{asked.name}")
        # 0 where an earlier evaluation, or the cache, had the features.
        has_encoded = features.used.clips > before.clips
        encoding = encoding_costs(before, features, self._flops if has_encoded else 0.0)
        results |= {name.replace("cost/", f"cost/eval_{asked.name}_"): value for name, value in encoding.items()}
        return Answer(results, judgement.costs, self.stored.step)

    @functools.cached_property
    def _flops(self) -> float:
        """Of encoding one clip. Counted once it is needed: that takes as long as opening a small run."""
        return encoding_flops(self.stored.encoder, self.stored.spec)

    def encoding_seconds(self) -> float:
        """CPU-seconds that encoding data took so far, for all evaluations together."""
        return sum(features.used.cpu_seconds for features in self._features.values())

    def _bench(self, asked: Asked) -> Bench | None:
        """For an evaluation that trains a copy of the encoder, with a folder of its own for checkpoints."""
        if not isinstance(asked.run.evals[asked.kind], Tuning):
            return None
        stored = self.stored
        whole = {**identity(flatten(asked.run)), **asked.settings, "seed": asked.run.seed, "step": stored.step}
        return Bench(
            asked.run,
            stored.encoder,
            self._splits(asked),
            Aside(stored.folder / "evaluations" / digest(whole)),
            built_for=stored.spec,
            step=stored.step,
            device=stored.device,
            precision=stored.precision,
        )

    def _splits(self, asked: Asked) -> dict[str, Dataset]:
        """What a workshop has; the data that the encoder learned from only where it is asked for."""
        sets = dict(zip(("train", "test"), self._sets(asked.run), strict=True))
        evaluation = asked.run.evals[asked.kind]
        is_asked = isinstance(evaluation, Tuning) and evaluation.reads_pretraining
        return sets | ({"pretrain": self.stored.train_set} if is_asked else {})

    def _sets(self, run: Run) -> tuple[Dataset, Dataset]:
        if run.eval_data is None:
            return self.stored.train_set, load_split(run, "test")
        return load_split(run, "train", "eval_data"), load_split(run, "test", "eval_data")

    def _features_for(self, run: Run) -> FrozenFeatures:
        stored, key = self.stored, repr(judged(run).data)
        if key not in self._features:
            sets = self._sets(run)
            pools = set().union(*(pools_of(asked.run) for asked in self._questions))
            self._features[key] = frozen_features(
                run, stored.learner, *sets, stored.spec, stored.device, stored.precision, cached=True, pools=pools
            )
        return self._features[key]
