"""A run that was trained, opened again: its encoder from its newest checkpoint, and what may still be asked of it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core import checkpoint
from core.checkpoint import CheckpointError
from core.config import (
    GROUPS,
    JUDGING,
    ConfigError,
    Flat,
    Run,
    chosen_evals,
    flatten,
    from_flat,
    identity,
    judged,
    layered,
    options,
    parse,
)
from core.cost import encoding_flops
from core.evals import EVALS
from core.evals.features import FrozenFeatures
from core.fitting import check_later, choose_device, fingerprints, load_split, located, spec_of
from core.judging import encoding_costs, frozen_features, judge, pools_of
from core.phases import Costs
from core.trainer import build_learner, choose_precision, seen, start_from_weights
from core.tuning import Bench
from core.types import Dataset, DataSpec, EncoderModule, Learner, Tuning

LATER = (*JUDGING, "runtime")  # what may be chosen after a run was trained
LONGEST_TAG = 60
PLAIN = re.compile(r"[\w.+\-\[\]]*")  # what a metric's name may hold of a setting


class Asked(NamedTuple):
    """One evaluation with all its settings, to be made of a trained run."""

    kind: str  # of core.evals.EVALS
    name: str  # what its metrics are called by: "linear", "linear@num_layers=4"
    settings: Flat  # evaluation and data, each option under its dotted key
    run: Run  # the trained run with this one evaluation
    usual: str  # whose the options are that were not asked for: "the run's own", "those of method=mae scale=cpu"

    def is_answered_by(self, recorded: Mapping[str, Any]) -> bool:
        """Whether an evaluation with the `recorded` settings was this one. One of older code lacks newer options:
        it did what their defaults say."""
        usual = options(EVALS[self.kind](), f"evals.{self.kind}")
        if (data := self.settings["eval_data"]) is not None:
            usual |= options(GROUPS["eval_data"][data](), "eval_data")
        return {**usual, **recorded} == self.settings

    @property
    def said(self) -> str:
        return f"{self.name}: options that were not given are {self.usual}"

    def metric(self, told: str) -> str:
        """`linear/digit_top1` as this evaluation's own: `linear@num_layers=4/digit_top1`."""
        return f"{self.name}/{told.removeprefix(f'{self.kind}/')}"


class Presets(NamedTuple):
    """The names that a run's config was made from; it holds all options in full, but those of its evaluations only."""

    method: str
    scale: str

    def of(self, kind: str) -> Flat:
        """What they say of evaluation `kind`. Raises ConfigError for a name that is no preset."""
        merged = layered({"method": self.method, "scale": self.scale, "evals": [kind]})
        return {key: value for key, value in merged.items() if key.startswith(f"evals.{kind}.")}


class Answer(NamedTuple):
    """What an evaluation found, under its own metrics' names, and what it cost."""

    results: dict[str, float]  # with cost/eval_<name>_...
    costs: Costs
    step: int  # of the checkpoint


# ---- what is asked -----------------------------------------------------------------------------------------------


def asked_of(
    config: Mapping[str, Any],
    seed: int,
    overrides: Sequence[str],
    name: str | None = None,
    presets: Presets | None = None,
    spec_then: Callable[[], DataSpec | None] = lambda: None,
) -> list[Asked]:
    """The evaluations that `overrides` ask of the trained run with this flat `config`, each with all its settings.

    Without ``evals=`` they are the run's own. An option that is not given is what the run's own evaluation of that kind
    has; where it has none, what the run's `presets` say, or else the default. ``eval_data`` is the run's own unless it
    is given. The name is the kind where all of this is so, else it says what differs (``linear@num_layers=4``), or what
    `name` says (``linear@name``). `spec_then` is asked what the run learned from where its files are gone.

    Raises ConfigError for a key that training has settled, and for whatever `core.config` refuses.
    """
    settings = parse(overrides)
    for key, value in settings.items():
        if key.split(".")[0] not in LATER:
            raise ConfigError(
                f"{key}={value}: the run is trained; what can still be chosen is evals, evals.*, eval_data, "
                "eval_data.* and runtime.*"
            )
    runtime = {key.removeprefix("runtime."): value for key, value in settings.items() if key.startswith("runtime.")}
    trained = from_flat(config, seed=seed, runtime=runtime, is_trained=True)
    kinds = chosen_evals(settings.get("evals", sorted(trained.evals)))
    if not kinds:
        whose = "evals=[]" if "evals" in settings else "evals: the run has none of its own"
        raise ConfigError(f"{whose}; say which, of {', '.join(EVALS)}")
    if name is not None and not re.fullmatch(r"[\w.+\-]{1,60}", name):
        raise ConfigError(f"as={name}: must be 1 to 60 letters, digits and _ . + - to stand in a metric's name")
    idle = [key for key in settings if key.startswith("evals.") and key.split(".")[1] not in kinds]
    if idle:
        raise ConfigError(f"{idle[0]}={settings[idle[0]]}: evals does not include {idle[0].split('.')[1]}")
    trained_on = _trained_on(trained, spec_then)
    return [_one(trained, trained_on, kind, settings, name, presets) for kind in kinds]


def _trained_on(run: Run, spec_then: Callable[[], DataSpec | None]) -> DataSpec:
    try:
        return spec_of(run)
    except (ValueError, OSError) as error:
        if (spec := spec_then()) is None:
            raise ConfigError(str(error)) from error
        return spec


def _one(
    trained: Run, trained_on: DataSpec, kind: str, settings: Flat, name: str | None, presets: Presets | None
) -> Asked:
    base = flatten(trained)
    mine, is_own = f"evals.{kind}.", kind in trained.evals
    preset = {} if is_own or presets is None else presets.of(kind)
    flat = {key: value for key, value in base.items() if not key.startswith("evals.") or key.startswith(mine)} | preset
    if "eval_data" in settings:
        flat = {key: value for key, value in flat.items() if not key.startswith("eval_data.")}
    flat |= {key: value for key, value in settings.items() if not key.startswith("evals.") or key.startswith(mine)}
    flat |= {"evals": [kind]}
    run = from_flat(flat, seed=trained.seed, runtime=vars(trained.runtime), is_trained=True)
    if run.eval_data is not None and run.eval_data == run.data:
        run = dataclasses.replace(run, eval_data=None)  # said in full what null stands for
    check_later(run, trained_on)
    chosen = settings_of(run, kind)
    if is_own:
        usual, whose = settings_of(trained, kind), "the run's own"
    else:
        # Not built from the presets: what they say may not fit this run, and the caller has said something better.
        usual = settings_of(dataclasses.replace(trained, evals={kind: EVALS[kind]()}), kind) | preset
        whose = "its defaults" if presets is None else f"those of method={presets.method} scale={presets.scale}"
    differing = {key: value for key, value in chosen.items() if key not in usual or usual[key] != value}
    tag = _tag(differing, kind, chosen) if differing else ""
    if name is not None and (differing or not is_own):
        tag = name
    return Asked(kind, f"{kind}@{tag}" if tag else kind, chosen, run, whose)


def settings_of(run: Run, kind: str) -> Flat:
    """Everything that decides what evaluation `kind` of a trained run finds: its options and the data it judges on."""
    flat = flatten(run)
    data = {key: value for key, value in flat.items() if key.split(".")[0] == "eval_data"}
    return {"evals": kind, **options(run.evals[kind], f"evals.{kind}"), **data}


def _tag(differing: Flat, kind: str, chosen: Flat) -> str:
    """``num_layers=4,data=npz``: readable where it is short and of plain letters, else a digest of all settings."""
    shown = dict(differing)
    if "eval_data" in shown and chosen["eval_data"] is not None:
        usual = options(GROUPS["eval_data"][chosen["eval_data"]](), "eval_data")
        shown = {key: value for key, value in shown.items() if key not in usual or usual[key] != value}
    parts = [f"{_short(key, kind)}={_word(value)}" for key, value in sorted(shown.items())]
    text = ",".join(parts)
    return text if len(text) <= LONGEST_TAG and all(map(_is_plain, parts)) else digest(chosen)


def digest(settings: Flat) -> str:
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()


def _short(key: str, kind: str) -> str:
    return key.removeprefix(f"evals.{kind}.").replace("eval_data", "data", 1)


def _word(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_plain(part: str) -> bool:
    return PLAIN.fullmatch(part.partition("=")[2]) is not None


# ---- the answer --------------------------------------------------------------------------------------------------


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

    @functools.cached_property
    def train_set(self) -> Dataset:
        """What it was trained on. Raises CheckpointError where the files have been replaced, ConfigError if gone."""
        now = fingerprints(self.run, groups=("data",))
        checkpoint.refuse_other_data(self.folder, self.saw, now, instead=checkpoint.JUDGE_ON_THEM)
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
    spec = checkpoint.data_spec(state) or seen(run, load_split(run, "train").spec)
    learner = build_learner(run, spec)
    if run.optim.steps:
        load_weights(learner, state["learner"], path)
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


def refuse_replaced(run: Run, where: Path, saw: Mapping[str, str]) -> None:
    """Raises CheckpointError, with both fingerprints, where `run` would be judged on what has taken the place of the
    data that it `saw`. Data that is only beside it may be gone."""
    if "data" in groups_read(run):
        now = fingerprints(run, groups=("data",))
        checkpoint.refuse_other_data(where, saw, now, instead=checkpoint.JUDGE_ON_THEM)


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
