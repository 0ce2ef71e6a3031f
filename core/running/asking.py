"""What may still be asked of a run that was trained: evaluations, each with all its settings and a name of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from core.configuring.config import (
    GROUPS,
    JUDGING,
    SECTIONS,
    TOP_LEVEL,
    ConfigError,
    Flat,
    Run,
    chosen_evals,
    flatten,
    from_flat,
    parse,
)
from core.configuring.fitting import check_later, spec_of
from core.configuring.flat import options
from core.configuring.layers import collected, layered, refuse, unknown
from core.configuring.places import located
from core.configuring.plugins import loaded
from core.evals import EVALS
from core.terminal import unknown_options
from core.types import DataSpec

LATER = (*JUDGING, "runtime")  # what may be chosen after a run was trained
OLDER = "its checkpoint, of older code, does not hold"
BACK = "put the files back there, or name the folder that its data.path begins from now with runtime.data_root=FOLDER"
LONGEST_TAG = 60
KNOWN = (*GROUPS, *SECTIONS, *TOP_LEVEL, *LATER)  # what a run's options begin with
PLACES = ("run", "study", "as", "db", "results_dir", "plugins")  # of the command itself
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

    Raises ConfigError for a key that training has settled, and for whatever `core.configuring.config` refuses.
    """
    wrong = misspelt(overrides)
    settings = loaded(parse(overrides, wrong), wrong)
    wrong += [
        f"{key}={value}: the run is trained; what can still be chosen is evals, evals.*, eval_data, "
        "eval_data.* and runtime.*"
        for key, value in settings.items()
        if key.split(".")[0] not in LATER and key.split(".")[0] in KNOWN
    ]
    settings = {key: value for key, value in settings.items() if key.split(".")[0] in LATER}
    runtime = {key.removeprefix("runtime."): value for key, value in settings.items() if key.startswith("runtime.")}
    trained, kinds = from_flat(config, seed=seed, is_trained=True), tuple[str, ...]()
    with collected(wrong):
        trained = from_flat(config, seed=seed, runtime=runtime, is_trained=True)
    num_wrong = len(wrong)
    with collected(wrong):
        kinds = chosen_evals(settings.get("evals", sorted(trained.evals)))
    if not kinds and len(wrong) == num_wrong:
        whose = "evals=[]" if "evals" in settings else "evals: the run has none of its own"
        wrong.append(f"{whose}; say which, of {', '.join(EVALS)}")
    if name is not None and not re.fullmatch(r"[\w.+\-]{1,60}", name):
        wrong.append(f"as={name}: must be 1 to 60 letters, digits and _ . + - to stand in a metric's name")
    if kinds:
        wrong += [
            unknown("evals", key.split(".")[1], EVALS) if key.split(".")[1] not in EVALS
            else f"{key}={settings[key]}: evals does not include {key.split('.')[1]}"
            for key in settings
            if key.startswith("evals.") and key.split(".")[1] not in kinds
        ]  # fmt: skip
    asked = []
    trained_on = _trained_on(trained, spec_then) if kinds else None
    for kind in kinds:
        assert trained_on is not None
        with collected(wrong):
            asked.append(_one(trained, trained_on, kind, settings, name, presets))
    refuse(wrong)
    return asked


def misspelt(words: Sequence[str]) -> list[str]:
    """What to say of words that begin with no option's name, of this command or of a run."""
    names = [name for name, equals, _ in (word.partition("=") for word in words) if equals and name]
    strange = [name for name in dict.fromkeys(names) if name.split(".")[0] not in (*KNOWN, *PLACES)]
    allowed = [*PLACES, *LATER]
    return (
        [unknown_options(strange, allowed, near=["runtime.dir"], beside=" and what is below them")] if strange else []
    )


def _trained_on(run: Run, spec_then: Callable[[], DataSpec | None]) -> DataSpec:
    try:
        return spec_of(run)
    except (ValueError, OSError) as error:
        spec: DataSpec | None = spec_then() or located(run).data.shape()
        if spec is None:
            raise ConfigError(f"{error}; {OLDER} the shape of its data's clips: {BACK}") from error
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
