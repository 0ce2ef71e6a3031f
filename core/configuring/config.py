"""A `Run` of components from one flat dict of dotted keys; also the door to all that a config is asked.

OmegaConf checks the types of options, for most runs a component at a time (`direct`). Where something is wrong, all
options are set one by one in the chosen variants' defaults, so that all that is wrong can be told at once.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.configuring import direct, plugins
from core.configuring.fitting import (
    DATA_GROUPS,
    check,
    check_device,
    check_here,
    check_known_labels,
    check_later,
    fingerprints,
    is_left_to_others,
    is_recorded_later,
    judged,
    metric_names,
    named,
    spec_of,
)
from core.configuring.flat import flatten, identity
from core.configuring.layers import PRESETS, collected, first_line, layered, parse, refuse, unknown
from core.configuring.places import located
from core.configuring.plugins import load as load_plugins
from core.configuring.plugins import loaded
from core.configuring.run import (
    DEFAULT_METHOD,
    DEFAULT_SCALE,
    GROUPS,
    JUDGING,
    MOST_THREADS,
    NULLABLE,
    SECTIONS,
    TOP_LEVEL,
    ConfigError,
    Flat,
    Judge,
    Precision,
    Run,
    Runtime,
    name_of,
)
from core.evals import EVALS
from core.types import taken
from core.types.options import VALUES

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
    "Judge",
    "Precision",
    "Run",
    "Runtime",
    "build",
    "check",
    "check_device",
    "check_here",
    "check_known_labels",
    "check_later",
    "fingerprints",
    "flatten",
    "from_flat",
    "identity",
    "is_left_to_others",
    "is_recorded_later",
    "judged",
    "layered",
    "load",
    "load_plugins",
    "located",
    "metric_names",
    "name_of",
    "parse",
    "spec_of",
]


def load(overrides: Sequence[str], *, checked: bool = True) -> Run:
    """The run that ``key=value`` strings ask for, on top of its method's and its scale's presets.

    Raises ConfigError naming key, value and what is allowed, of all that is wrong with the words at once. Not
    `checked`, it need not fit its data, nor that be here.
    """
    wrong: list[str] = []
    settings = loaded(parse(overrides, wrong), wrong)
    with collected(wrong):
        settings = layered(settings)
    return build(settings, checked=checked, found=wrong)


def from_flat(
    flat: Mapping[str, Any], *, seed: int, runtime: Mapping[str, Any] | None = None, is_trained: bool = False
) -> Run:
    """The run of a stored flat config: no preset is consulted, so a preset edited later changes nothing stored.

    Of one that `is_trained` the files that it learned from are not looked at: they may be gone.
    """
    settings = {key: value for key, value in flat.items() if not key.startswith("runtime.")}
    settings |= {"seed": seed} | {f"runtime.{key}": value for key, value in (runtime or {}).items()}
    return build(settings, is_trained=is_trained)


def build(
    settings: Mapping[str, Any], *, checked: bool = True, is_trained: bool = False, found: Sequence[str] = ()
) -> Run:
    """The run of a complete flat config. What is wrong with its keys is named all at once.

    One that `is_trained` fitted its parts and its data then, and has its weights in its checkpoint. `found` is what is
    wrong already: then `settings` may be only what was typed, and what else is wrong with that is told too.
    """
    wrong = list(found)
    settings = loaded(settings, wrong)
    choices, evals, unsettled = known_choices(settings, wrong)
    run = None if wrong else direct.run_of(settings, choices, evals)
    run = told_of(settings, choices, evals, unsettled, wrong) if run is None else run
    if not checked:
        return run
    if not (is_trained and run.optim.steps):
        run = with_content(run)
    if not is_trained:
        check(run)
    flatten(run)  # an option that is not finite is named here, before anything is written
    return run


def told_of(
    settings: Mapping[str, Any],
    choices: Mapping[str, Any],
    evals: tuple[str, ...],
    unsettled: Collection[str],
    found: Sequence[str],
) -> Run:
    """The run by its options set one by one, or all that is wrong with them, after what is `found` already."""
    wrong = list(found)
    template, allowed = composed(tuple(choices.items()), evals)
    config, unassigned = copy.deepcopy(template), set(unsettled)
    for key, value in settings.items():
        if key in GROUPS or key == "evals":
            continue
        root = key.split(".")[0]
        if root in unsettled:
            continue
        if key not in allowed:
            wrong.append(no_such_key(key, value, root, choices, evals, list(allowed)))
            continue
        try:
            assign(config, key, value)
        except ConfigError as error:
            wrong.append(str(error))
            unassigned.add(root)
    if wrong:
        wrong += refused_options(config, but=unassigned)
    refuse(wrong)
    try:
        run = OmegaConf.to_object(config)
    except (OmegaConfBaseException, ValueError) as error:
        refuse(refused_options(config))
        raise ConfigError(first_line(error)) from error
    assert isinstance(run, Run)
    return run


def known_choices(
    settings: Mapping[str, Any], wrong: list[str]
) -> tuple[dict[str, Any], tuple[str, ...], frozenset[str]]:
    """The variant of each group, the evaluations, and the groups of which neither can be known: they are null here.

    What is chosen and does not exist is added to `wrong`; where that has something already, nothing needs be chosen.
    """
    is_whole, unsettled, choices = not wrong, set[str](), dict[str, Any]()
    for group, variants in GROUPS.items():
        choices[group], is_said = settings.get(group), is_whole or group in settings
        if is_said and (choices[group] in list(variants) or (choices[group] is None and group in NULLABLE)):
            continue
        if is_said:
            wrong.append(unknown(group, choices[group], variants) + plugins.hint())
        choices[group] = None
        unsettled.add(group)
    evals, num_wrong = tuple[str, ...](), len(wrong)
    with collected(wrong):
        evals = chosen_evals(settings.get("evals", []))
    if len(wrong) > num_wrong or not (is_whole or "evals" in settings):
        unsettled.add("evals")
    return choices, evals, frozenset(unsettled)


def refused_options(config: DictConfig, but: Collection[str] = ()) -> list[str]:
    """What the components say of the values of their options, one line for each component that refuses one; none of
    those `but`, which do not have the values that they were given."""
    sections = {name: config[name] for name in (*GROUPS, *SECTIONS) if name not in but}
    sections |= {f"evals.{name}": config.evals[name] for name in config.evals if "evals" not in but}
    wrong = []
    for name, section in sections.items():
        if not OmegaConf.is_config(section):  # a group that the run does not have is None
            continue
        try:
            OmegaConf.to_object(section)
        except (OmegaConfBaseException, ValueError) as error:
            wrong.append(named(first_line(error), name) if name in DATA_GROUPS else first_line(error))
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
    refuse([unknown("evals", name, EVALS) + plugins.hint() for name in names if name not in list(EVALS)])
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
    """The chosen variants, every option at its default; shared by runs that differ in their evaluations.

    As Hydra composes them from its defaults list, in a twentieth of its 130 ms.
    """
    config: DictConfig = OmegaConf.structured(Run)
    for group, name in choices:
        if name is not None:
            config[group] = OmegaConf.structured(GROUPS[group][name])
    OmegaConf.set_struct(config, True)
    return config


def assign(config: DictConfig, key: str, value: Any) -> None:
    """Set one option, or say why it cannot have that value."""
    section, _, name = key.rpartition(".")
    allowed = taken(OmegaConf.get_type(OmegaConf.select(config, section)), name) if section else []
    others = f"{key}={value}: Invalid value '{value}', expected one of [{', '.join(one.name for one in allowed)}]"
    try:
        OmegaConf.update(config, key, value, merge=False)
    except OmegaConfBaseException as error:
        if allowed:  # OmegaConf would list what others take of the same enum
            raise ConfigError(others) from error
        if isinstance(OmegaConf.select(config, key), ListConfig) and not isinstance(value, list | tuple):
            raise ConfigError(f"{key}={value}: must be a list, such as {key}=[{value}]") from error
        kind = VALUES.get(OmegaConf.get_type(OmegaConf.select(config, section) if section else config, name))
        typed = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        raise ConfigError(f"{key}={typed}: {f'must be {kind}' if kind else first_line(error)}") from error
    if allowed and OmegaConf.select(config, key) not in allowed:
        raise ConfigError(others)


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
        if not siblings:
            return f"{key}={value}: unknown. {section}={choices[section] or 'null'} has no options"
    if section == "evals" and len(key.split(".")) > 1 and key.split(".")[1] in EVALS:
        name = key.split(".")[1]
        if name not in evals:
            return f"{key}={value}: evals does not include {name}; this run has evals=[{', '.join(evals)}]"
    if siblings:
        return unknown("", key, siblings)
    # `steps=100`: the option is there, by its whole name.
    whole = [name for name in allowed if name.rpartition(".")[2] == key]
    return unknown("", key, [*TOP_LEVEL, *GROUPS, *SECTIONS, "evals"], meant=whole[:1])


def flat_keys(config: DictConfig, prefix: str = "") -> Sequence[str]:
    keys: list[str] = []
    for name in map(str, config):
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none():
            keys += flat_keys(node, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys
