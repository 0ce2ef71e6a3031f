"""A run as one flat dict of dotted keys: from the command line to a `Run` of components, and back.

Layers, later ones win: the scale (`presets/scales/<scale>.yaml`), the method (`presets/<method>.yaml`: its `base`, then
its part for the scale), the caller's overrides. A layer that chooses another variant of a component drops the options
which earlier layers gave to the old variant. Hydra composes the chosen variants once per distinct choice (about 50 ms);
scalar options are then set with OmegaConf, which checks their types.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.cost import COST_METRICS, judging_names
from core.data import DATA
from core.data.augment import Augment
from core.evals import EVALS
from core.evals.clips import plan
from core.losses import LOSSES
from core.masks import MASKS
from core.masks.realised import NAMES as SHARES
from core.models import ENCODERS, PREDICTORS
from core.objectives import OBJECTIVES
from core.optim import Optim
from core.targets import TARGETS
from core.types import DataSpec, Sampling
from core.weights import WEIGHTS

PRESETS = Path(__file__).parent / "presets"
JUDGING = ("evals", "eval_data")  # parts of a config that no weight depends on
GROUPS: dict[str, Mapping[str, type]] = {
    "objective": OBJECTIVES,
    "data": DATA,
    "eval_data": DATA,
    "encoder": ENCODERS,
    "weights": WEIGHTS,
    "mask": MASKS,
    "target": TARGETS,
    "predictor": PREDICTORS,
    "loss": LOSSES,
}
OPTIONAL = ("mask", "target", "predictor", "loss")  # null where the objective does not use them
NULLABLE = (*OPTIONAL, "eval_data", "weights")
DEFAULT_METHOD, DEFAULT_SCALE = "mae", "cpu"
PRESENTATION = ("method", "scale")  # names for what the other keys say in full
Flat = dict[str, Any]
SPECS: dict[str, DataSpec] = {}  # what spec_of() has read


class ConfigError(ValueError):
    """The caller asked for something that is not to be had; the message says what is."""


class Precision(Enum):
    """Arithmetic of the training step; `auto` is bf16 autocast where the device has fast bf16, else float32."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


@dataclass
class Runtime:
    """What may not change numbers: where and how a run is computed. Not part of a run's identity."""

    dir: str = "runs/last"  # checkpoints, TensorBoard events, pictures
    cache: str = ".cache"  # decoded and generated data
    data_root: str = "."  # a relative data.path starts here
    device: str = "auto"  # auto, cpu, cuda
    threads: int = 0  # of torch on the CPU; 0 leaves torch's choice
    workers: int = 0  # loader processes, for data that does not fit in memory
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    eval_every: int = 0  # steps; 0 evaluates at the end only, as what trains the encoder further always does
    compile: bool = False
    tensorboard: bool = True
    tokens_gib: float = 8.0  # memory that an evaluation on patch tokens may take for a split's
    features_gib: float = 8.0  # disk that the features of runs that are judged again may take in `cache`; 0 keeps none

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"runtime.{name} must be at least 1, got {getattr(self, name)}")
        if self.tokens_gib <= 0:
            raise ValueError(f"runtime.tokens_gib must be above 0, got {self.tokens_gib}")
        for name in ("threads", "workers", "eval_every", "features_gib"):
            if getattr(self, name) < 0:
                raise ValueError(f"runtime.{name} must be at least 0, got {getattr(self, name)}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"runtime.device must be auto, cpu or cuda, got {self.device!r}")


@dataclass
class Run:
    """A choice of components plus a seed: all that decides one training run."""

    # Components are `Any` because OmegaConf accepts no union of dataclasses; GROUPS says what each may be.
    objective: Any = None
    data: Any = None
    eval_data: Any = None  # what the evaluations judge on; null is the data that is trained on
    encoder: Any = None
    weights: Any = None  # what the encoder starts from; null draws it at random
    mask: Any = None  # the four that an objective may do without are null then
    target: Any = None
    predictor: Any = None
    loss: Any = None
    evals: Any = field(default_factory=dict)  # name -> Evaluation
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    runtime: Runtime = field(default_factory=Runtime)
    method: str = ""  # the presets it was made from; empty for a run rebuilt from its stored options
    scale: str = ""
    seed: int = 0
    precision: Precision = Precision.auto


SECTIONS = ("augment", "optim", "runtime")
TOP_LEVEL = ("method", "scale", "seed", "precision")


# ---- from overrides to a run ------------------------------------------------------------------------------------


def load(overrides: Sequence[str]) -> Run:
    """The run that ``key=value`` strings ask for, on top of its method's and its scale's presets.

    Raises ConfigError naming key, value and what is allowed.
    """
    return build(layered(parse(overrides)))


def from_flat(flat: Mapping[str, Any], *, seed: int, runtime: Mapping[str, Any] | None = None) -> Run:
    """The run of a stored flat config: no preset is consulted, so a preset edited later changes nothing stored."""
    settings = {key: value for key, value in flat.items() if not key.startswith("runtime.")}
    settings |= {"seed": seed} | {f"runtime.{key}": value for key, value in (runtime or {}).items()}
    return build(settings)


def parse(overrides: Sequence[str]) -> Flat:
    """``["mask.ratio=0.9", "evals=[knn,ridge]"]`` as a dict, values typed by Hydra's grammar."""
    parser, settings = OverridesParser.create(), {}
    for text in overrides:
        if "=" not in text:
            raise ConfigError(f"{text!r} is not of the form key=value")
        try:
            override = parser.parse_override(text)
        except OverrideParseException as error:
            raise ConfigError(f"{text!r} cannot be read as key=value: {first_line(error)}") from error
        if override.type != OverrideType.CHANGE or override.is_sweep_override():
            raise ConfigError(f"{text!r}: only plain key=value is understood here, one value a key")
        settings[override.key_or_group] = override.value()
    return settings


def layered(settings: Flat) -> Flat:
    """`settings` on top of the presets they name."""
    method, scale = settings.get("method", DEFAULT_METHOD), settings.get("scale", DEFAULT_SCALE)
    method_preset = read_preset("method", str(method), PRESETS)
    layers = [
        read_preset("scale", str(scale), PRESETS / "scales"),
        method_preset.get("base", {}),
        method_preset.get("scales", {}).get(scale, {}),
        settings,
    ]
    merged: Flat = {"method": method, "scale": scale}
    for layer in layers:
        for group in GROUPS:
            if group in layer and layer[group] != merged.get(group):
                merged = {key: value for key, value in merged.items() if not key.startswith(f"{group}.")}
        merged |= layer
    return drop_unused_parts(without_idle_evals(merged, explicit=settings), explicit=settings)


def without_idle_evals(merged: Flat, *, explicit: Flat) -> Flat:
    """Drop what presets say of evaluations that the run does not have, so that they may fit one to their scale."""
    names = merged.get("evals", [])
    chosen = [names] if isinstance(names, str) else names
    idle = [
        key for key in merged if key.startswith("evals.") and key not in explicit and key.split(".")[1] not in chosen
    ]
    return {key: value for key, value in merged.items() if key not in idle}


def drop_unused_parts(merged: Flat, *, explicit: Flat) -> Flat:
    """Null the components that the objective does not use, unless the caller asked for one: then say so."""
    objective = merged.get("objective")
    if objective not in OBJECTIVES:
        return merged  # build() names the allowed ones
    for group in OPTIONAL:
        if group in OBJECTIVES[objective].uses:
            continue
        asked = [key for key in explicit if key == group or key.startswith(f"{group}.")]
        if asked and explicit[asked[0]] is not None:
            raise ConfigError(
                f"{asked[0]}={explicit[asked[0]]}: objective={objective} uses no {group}; leave {asked[0]} out"
            )
        merged = {key: value for key, value in merged.items() if not key.startswith(f"{group}.")} | {group: None}
    return merged


@functools.cache
def read_preset(kind: str, name: str, folder: Path) -> dict[str, Any]:
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(unknown(kind, name, names))
    return yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) or {}


def build(settings: Mapping[str, Any]) -> Run:
    """The run of a complete flat config."""
    choices = {group: settings.get(group) for group in GROUPS}
    for group, choice in choices.items():
        if choice is None and group in NULLABLE:
            continue
        if choice not in GROUPS[group]:
            raise ConfigError(unknown(group, choice, GROUPS[group]))
    evals = chosen_evals(settings.get("evals", []))
    template, allowed = composed(tuple(choices.items()), evals)
    config = copy.deepcopy(template)
    for key, value in settings.items():
        if key not in GROUPS and key != "evals":
            if key not in allowed:
                raise ConfigError(no_such_key(key, value, key.split(".")[0], choices, evals, list(allowed)))
            assign(config, key, value)
    try:
        run = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert isinstance(run, Run)
    run = with_content(run)
    check(run)
    return run


def with_content(run: Run) -> Run:
    """The run with the hash of its weights' file: a path alone does not say what a run started from."""
    if run.weights is None:
        return run
    try:
        return dataclasses.replace(run, weights=run.weights.with_digest(Path(run.runtime.data_root)))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def chosen_evals(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ConfigError(f"evals={value}: must be a list of {', '.join(EVALS)}")
    for name in names:
        if name not in EVALS:
            raise ConfigError(unknown("evals", name, EVALS))
    return tuple(sorted(set(names)))


@functools.cache
def composed(choices: tuple[tuple[str, str | None], ...], evals: tuple[str, ...]) -> tuple[DictConfig, dict[str, None]]:
    """The chosen variants with their evaluations, every option at its default; and the options' keys, in order."""
    config = copy.deepcopy(components(choices))
    OmegaConf.set_struct(config, False)
    for name in evals:
        config.evals[name] = OmegaConf.structured(EVALS[name])
    OmegaConf.set_struct(config, True)
    return config, dict.fromkeys(flat_keys(config))


@functools.cache
def components(choices: tuple[tuple[str, str | None], ...]) -> DictConfig:
    """Hydra's composition of the chosen variants: 80 ms each, and shared by runs that differ in their evaluations."""
    store_components()
    GlobalHydra.instance().clear()
    with initialize(version_base=None):
        return compose("run", overrides=[f"{group}={name}" for group, name in choices if name is not None])


@functools.cache
def store_components() -> None:
    """Hydra groups from the component tables."""
    store = ConfigStore.instance()
    for group, variants in GROUPS.items():
        for name, variant in variants.items():
            store.store(group=group, name=name, node=variant)
    defaults: list[Any] = [{group: None} for group in GROUPS]
    store.store(name="run_schema", node=Run)
    store.store(name="run", node={"defaults": ["run_schema", *defaults, "_self_"]})


def assign(config: DictConfig, key: str, value: Any) -> None:
    """Set one option, or say why it cannot have that value."""
    try:
        OmegaConf.update(config, key, value, merge=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={value}: {first_line(error)}") from error


def no_such_key(
    key: str, value: Any, section: str, choices: Mapping[str, Any], evals: Sequence[str], allowed: Sequence[str]
) -> str:
    siblings = [name for name in allowed if name.startswith(f"{section}.")]
    if section in GROUPS:
        option = key.removeprefix(f"{section}.")
        owners = [n for n, variant in GROUPS[section].items() if option in vars(variant())]
        if owners and choices[section] is None:
            return f"{key}={value}: this run has {section}=null; {section}={owners[0]} has that option"
        if owners:
            return (
                f"{key}={value}: that is an option of {section}={' or '.join(owners)}; this run has"
                f" {section}={choices[section]}, whose options are {', '.join(siblings) or 'none'}"
            )
    if section == "evals" and len(key.split(".")) > 1 and key.split(".")[1] in EVALS:
        name = key.split(".")[1]
        if name not in evals:
            return f"{key}={value}: evals does not include {name}; this run has evals=[{', '.join(evals)}]"
    pool = siblings or [*TOP_LEVEL, *GROUPS, *SECTIONS, "evals"]
    return unknown("", key, pool)


def flat_keys(config: DictConfig, prefix: str = "") -> Sequence[str]:
    keys: list[str] = []
    for name in map(str, config):
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none():
            keys += flat_keys(node, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def unknown(kind: str, value: Any, allowed: Any) -> str:
    """``mask=tubee: unknown; did you mean tube? Allowed: block, multiblock, ...``"""
    near = difflib.get_close_matches(str(value), list(allowed), n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    name = f"{kind}={value}" if kind else str(value)
    return f"{name}: unknown{hint} Allowed: {', '.join(sorted(allowed))}"


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


# ---- checks across components ------------------------------------------------------------------------------------


def check(run: Run) -> DataSpec:
    """Whether the parts fit each other and the data, before anything trains or is written.

    Raises ConfigError: a missing `data.path`, a patch size that does not divide the clip, a mask that cannot be drawn
    on the grid, an objective without its parts.
    """
    for group in OPTIONAL:
        if (getattr(run, group) is None) == (group in run.objective.uses):
            wanted = "needs a" if group in run.objective.uses else "uses no"
            raise ConfigError(f"{group}: objective={name_of('objective', run.objective)} {wanted} {group}")
    if run.target is not None and run.target.gives_classes != run.loss.takes_classes:
        target, loss = name_of("target", run.target), name_of("loss", run.loss)
        fitting = [name for name, variant in LOSSES.items() if variant.takes_classes == run.target.gives_classes]
        raise ConfigError(
            f"loss={loss}: target={target} is a {'class' if run.target.gives_classes else 'vector'} for each patch; "
            f"losses for that: {', '.join(fitting)}"
        )
    chosen = name_of("objective", run.objective)
    for name, evaluation in run.evals.items():
        for need in set(evaluation.needs) - set(run.objective.gives):
            giving = ", ".join(key for key, variant in OBJECTIVES.items() if need in variant.gives) or "none"
            raise ConfigError(f"evals={name}: objective={chosen} gives no {need}; objectives that do: {giving}")
    if run.optim.batch_size % run.augment.repeats:
        sizes = f"{run.augment.repeats} and {run.optim.batch_size}"
        raise ConfigError(f"augment.repeats must divide optim.batch_size, which counts every repeat; got {sizes}")
    try:
        spec = spec_of(run)
        grid = run.encoder.grid(spec)
        if run.mask is not None:
            run.mask.check(grid)
        if run.weights is not None:
            run.weights.check(run.encoder, spec, Path(run.runtime.data_root))
        if run.evals:
            judged_on = spec_of_judged(run)
            if not all(evaluation.sees_whole_frames for evaluation in run.evals.values()):
                plan(judged_on, spec, Sampling())
            for evaluation in run.evals.values():
                evaluation.check(run.encoder, spec, judged_on)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return spec


def spec_of(run: Run) -> DataSpec:
    """The shape and labels of the run's data; the files of a data set are listed once per process, not once a cell."""
    data = located(run).data
    if repr(data) not in SPECS:
        SPECS[repr(data)] = data.spec()
    return SPECS[repr(data)]


def spec_of_judged(run: Run) -> DataSpec:
    """`spec_of` the data that the run is judged on; an error names eval_data where that is other data."""
    try:
        return spec_of(judged(run))
    except ValueError as error:
        told = str(error) if run.eval_data is None else re.sub(r"\bdata\.", "eval_data.", str(error))
        raise ValueError(told) from error


def located(run: Run) -> Run:
    """The run with a relative `data.path`, `data.test_path` and `target.path` resolved against `runtime.data_root`.

    Identity keeps the path as it was given, so a study may be continued on a machine that keeps its data elsewhere.
    """
    root = Path(run.runtime.data_root).expanduser()

    def found(part: Any) -> Any:
        given = {name: path for name in ("path", "test_path") if (path := getattr(part, name, None))}
        moved = {name: str(root / Path(path).expanduser()) for name, path in given.items()}
        return dataclasses.replace(part, **moved) if given else part

    return dataclasses.replace(run, data=found(run.data), target=found(run.target))


def judged(run: Run) -> Run:
    """The run with the data that it is judged on in the place of the data that it is trained on."""
    return run if run.eval_data is None else dataclasses.replace(run, data=run.eval_data)


def metric_names(run: Run) -> list[str]:
    """Every result that this run will record, known before it trains."""
    spec = spec_of(judged(run))
    names = [name for evaluation in run.evals.values() for name in evaluation.metrics(spec)]
    if run.mask is not None:
        names += [f"mask/{name}" for name in SHARES]
    return [*names, *COST_METRICS, *judging_names(run.evals)]


def is_recorded_later(metric: str) -> bool:
    """Whether `core.evaluate` gives such names: ``linear@num_layers=4/digit_top1``. Its data may have any labels."""
    kind, at, rest = metric.removeprefix("cost/eval_").partition("@")
    return bool(at) and kind in EVALS and ("/" in rest or metric.startswith("cost/"))


# ---- from a run to its flat config ---------------------------------------------------------------------------------


def flatten(run: Run) -> Flat:
    """Every choice and option of a run under its dotted key, as plain values; `load` of it gives the run again."""
    flat: Flat = {key: plain(getattr(run, key)) for key in TOP_LEVEL}
    for group in GROUPS:
        component = getattr(run, group)
        flat[group] = None if component is None else name_of(group, component)
        if component is not None:
            flat |= options(component, group)
    flat["evals"] = sorted(run.evals)
    for name in flat["evals"]:
        flat |= options(run.evals[name], f"evals.{name}")
    for section in SECTIONS:
        flat |= options(getattr(run, section), section)
    return flat


def options(component: Any, prefix: str) -> Flat:
    return {f"{prefix}.{f.name}": plain(getattr(component, f.name)) for f in dataclasses.fields(component)}


def plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{value} is not a number that a table can hold")
    return value


def name_of(group: str, component: object) -> str:
    return next(name for name, variant in GROUPS[group].items() if type(component) is variant)


def identity(flat: Mapping[str, Any]) -> Flat:
    """What two runs must share to be the same experiment: all but the seed, the machine and the presets' names."""
    outside = ("seed", *PRESENTATION)
    return {key: value for key, value in flat.items() if key not in outside and not key.startswith("runtime.")}
