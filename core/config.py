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
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.evals import EVALS
from core.fitting import (
    check,
    check_device,
    check_known_labels,
    check_later,
    fingerprints,
    is_left_to_others,
    is_recorded_later,
    judged,
    located,
    metric_names,
    spec_of,
)
from core.objectives import OBJECTIVES
from core.run import (
    DEFAULT_METHOD,
    DEFAULT_SCALE,
    GROUPS,
    JUDGING,
    MOST_THREADS,
    NULLABLE,
    OPTIONAL,
    PRESENTATION,
    SECTIONS,
    TOP_LEVEL,
    ConfigError,
    Flat,
    Precision,
    Run,
    Runtime,
    name_of,
)

__all__ = [
    "DEFAULT_METHOD",
    "DEFAULT_SCALE",
    "GROUPS",
    "JUDGING",
    "MOST_THREADS",
    "PRESETS",
    "SECTIONS",
    "TOP_LEVEL",
    "ConfigError",
    "Flat",
    "Precision",
    "Run",
    "Runtime",
    "build",
    "check",
    "check_device",
    "check_known_labels",
    "check_later",
    "fingerprints",
    "flatten",
    "from_flat",
    "identity",
    "is_left_to_others",
    "is_recorded_later",
    "judged",
    "load",
    "located",
    "metric_names",
    "name_of",
    "spec_of",
]

PRESETS = Path(__file__).parent / "presets"


# ---- from overrides to a run ------------------------------------------------------------------------------------


def load(overrides: Sequence[str], *, checked: bool = True) -> Run:
    """The run that ``key=value`` strings ask for, on top of its method's and its scale's presets.

    Raises ConfigError naming key, value and what is allowed. Not `checked`, it need not fit its data, nor that be here.
    """
    return build(layered(parse(overrides)), checked=checked)


def from_flat(
    flat: Mapping[str, Any], *, seed: int, runtime: Mapping[str, Any] | None = None, is_trained: bool = False
) -> Run:
    """The run of a stored flat config: no preset is consulted, so a preset edited later changes nothing stored.

    Of one that `is_trained` the files that it learned from are not looked at: they may be gone.
    """
    settings = {key: value for key, value in flat.items() if not key.startswith("runtime.")}
    settings |= {"seed": seed} | {f"runtime.{key}": value for key, value in (runtime or {}).items()}
    return build(settings, is_trained=is_trained)


def parse(overrides: Sequence[str]) -> Flat:
    """``["mask.ratio=0.9", "evals=[knn,ridge]"]`` as a dict, values typed by Hydra's grammar."""
    parser, wrong = OverridesParser.create(), list[str]()
    settings: Flat = {}
    for text in overrides:
        if text.find("=") < 1:
            wrong.append(f"{text!r} is not of the form key=value")
            continue
        try:
            override = parser.parse_override(quoted(text))
        except HydraException as error:
            wrong.append(
                f"{text!r} cannot be read as key=value: {first_line(error)}; quotes around a value take it as it is: "
                f"\"{text.partition('=')[0]}='...'\""
            )
            continue
        if override.type != OverrideType.CHANGE or override.is_sweep_override():
            wrong.append(f"{text!r}: only plain key=value is understood here, one value a key")
            continue
        settings[override.key_or_group] = override.value()
    refuse(wrong)
    return settings


def refuse(wrong: Sequence[str]) -> None:
    """Raises one ConfigError of all that is wrong, each in a line of its own."""
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))


def quoted(text: str) -> str:
    """``key=value`` with quotes around a value that has letters which Hydra's grammar does not know: für_alle."""
    key, _, value = text.partition("=")
    return text if value.isascii() or set(value) & set("'\"[]{}\\") else f"{key}='{value}'"


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
    if objective not in list(OBJECTIVES):  # it may be what cannot be looked up, such as a list
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
    if "flow" not in OBJECTIVES[objective].gives and "flow_data" not in explicit:
        merged = {key: value for key, value in merged.items() if key.split(".")[0] != "flow_data"}
    return merged


@functools.cache
def read_preset(kind: str, name: str, folder: Path) -> dict[str, Any]:
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(unknown(kind, name, names))
    return yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) or {}


def build(settings: Mapping[str, Any], *, checked: bool = True, is_trained: bool = False) -> Run:
    """The run of a complete flat config. What is wrong with its keys is named all at once.

    One that `is_trained` fitted its parts and its data then, and has its weights in its checkpoint.
    """
    choices = {group: settings.get(group) for group in GROUPS}
    wrong = [
        unknown(group, choice, GROUPS[group])
        for group, choice in choices.items()
        if choice not in list(GROUPS[group]) and not (choice is None and group in NULLABLE)
    ]
    evals: tuple[str, ...] = ()
    try:
        evals = chosen_evals(settings.get("evals", []))
    except ConfigError as error:
        wrong.append(str(error))
    refuse(wrong)
    template, allowed = composed(tuple(choices.items()), evals)
    config = copy.deepcopy(template)
    for key, value in settings.items():
        if key in GROUPS or key == "evals":
            continue
        if key not in allowed:
            wrong.append(no_such_key(key, value, key.split(".")[0], choices, evals, list(allowed)))
            continue
        try:
            assign(config, key, value)
        except ConfigError as error:
            wrong.append(str(error))
    refuse(wrong)
    try:
        run = OmegaConf.to_object(config)
    except (OmegaConfBaseException, ValueError) as error:
        refuse(refused_options(config))
        raise ConfigError(first_line(error)) from error
    assert isinstance(run, Run)
    if not checked:
        return run
    if not (is_trained and run.optim.steps):
        run = with_content(run)
    if not is_trained:
        check(run)
    flatten(run)  # an option that is not finite is named here, before anything is written
    return run


def refused_options(config: DictConfig) -> list[str]:
    """What the components say of the values of their options, one line for each component that refuses one."""
    sections = [config[name] for name in (*GROUPS, *SECTIONS)] + [config.evals[name] for name in config.evals]
    wrong = []
    for section in filter(OmegaConf.is_config, sections):  # a group that the run does not have is None
        try:
            OmegaConf.to_object(section)
        except (OmegaConfBaseException, ValueError) as error:
            wrong.append(first_line(error))
    return wrong


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
    refuse([unknown("evals", name, EVALS) for name in names if name not in list(EVALS)])
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
        if isinstance(OmegaConf.select(config, key), ListConfig) and not isinstance(value, list | tuple):
            raise ConfigError(f"{key}={value}: must be a list, such as {key}=[{value}]") from error
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


# ---- from a run to its flat config ---------------------------------------------------------------------------------


def flatten(run: Run) -> Flat:
    """Every choice and option of a run under its dotted key, as plain values; `load` of it gives the run again."""
    flat: Flat = {key: plain(getattr(run, key), key) for key in TOP_LEVEL}
    for group in GROUPS:
        component = getattr(run, group)
        flat[group] = None if component is None else name_of(group, component)
        if component is not None:
            flat |= options(component, group)
        if not flat.get(f"{group}.version", True):  # said only where a set is named: no older config has the key
            del flat[f"{group}.version"]
    flat["evals"] = sorted(run.evals)
    for name in flat["evals"]:
        flat |= options(run.evals[name], f"evals.{name}")
    for section in SECTIONS:
        flat |= options(getattr(run, section), section)
    return flat


def options(component: Any, prefix: str) -> Flat:
    names = [f.name for f in dataclasses.fields(component)]
    return {f"{prefix}.{name}": plain(getattr(component, name), f"{prefix}.{name}") for name in names}


def plain(value: Any, key: str) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [plain(item, key) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: must be a finite number, or null where the option allows it")
    return value


def identity(flat: Mapping[str, Any]) -> Flat:
    """What two runs must share to be the same experiment: all but the seed, the machine and the presets' names."""
    outside = ("seed", *PRESENTATION)
    return {key: value for key, value in flat.items() if key not in outside and not key.startswith("runtime.")}
