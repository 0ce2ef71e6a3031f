"""From the command line to one flat dict of settings: the presets, and what was typed laid over them.

Layers, later ones win: the scale (`presets/scales/<scale>.yaml`), the method (`presets/<method>.yaml`: its `base`, then
its part for the scale), the caller's overrides. A layer that chooses another variant of a component drops the options
which earlier layers gave to the old variant.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException

from core.configuring.run import DEFAULT_METHOD, DEFAULT_SCALE, GROUPS, OPTIONAL, ConfigError, Flat
from core.objectives import OBJECTIVES

PRESETS = Path(__file__).parents[1] / "presets"


def parse(overrides: Sequence[str], found: list[str] | None = None) -> Flat:
    """``["mask.ratio=0.9", "evals=[knn,ridge]"]`` as a dict, values typed by Hydra's grammar.

    Where `found` is given, what cannot be read is added to it, and left out.
    """
    wrong: list[str] = [] if found is None else found
    settings: Flat = {}
    for text in overrides:
        with collected(wrong):
            key, value = parsed(text)
            settings[key] = copy.deepcopy(value)
    if found is None:
        refuse(wrong)
    return settings


@functools.lru_cache(maxsize=10_000)
def parsed(text: str) -> tuple[str, Any]:
    """Key and value of one word, which costs milliseconds: the cells of a study share most of theirs."""
    if text.find("=") < 1:
        raise ConfigError(f"{text!r} is not of the form key=value")
    try:
        override = OverridesParser.create().parse_override(quoted(text))
    except HydraException as error:
        raise ConfigError(
            f"{text!r} cannot be read as key=value: {first_line(error)}; quotes around a value take it as it is: "
            f"\"{text.partition('=')[0]}='...'\""
        ) from error
    if override.type != OverrideType.CHANGE or override.is_sweep_override():
        is_sweep = override.type == OverrideType.CHANGE
        key, _, value = text.partition("=")
        a_list = f"; a list is written {key}=[{value}]" if is_sweep and "(" not in value else ""
        raise ConfigError(f"{text!r}: only plain key=value is understood here, one value a key{a_list}")
    return override.key_or_group, override.value()


@contextlib.contextmanager
def collected(wrong: list[str]) -> Iterator[None]:
    """What is wrong here is added to `wrong`, so that the rest is looked at too."""
    try:
        yield
    except ConfigError as error:
        wrong += str(error).splitlines()


def refuse(wrong: Sequence[str]) -> None:
    """Raises one ConfigError of all that is wrong, each in a line of its own."""
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))


def quoted(text: str) -> str:
    """``key=value`` with quotes around a value that has letters which Hydra's grammar does not know: für_alle, ~/a."""
    key, _, value = text.partition("=")
    is_known = value.isascii() and not set(value) & set("~#&!;<>^`")
    return text if is_known or set(value) & set("'\"[]{}\\") else f"{key}='{value}'"


def layered(settings: Flat) -> Flat:
    """`settings` on top of the presets they name."""
    method, scale = settings.get("method", DEFAULT_METHOD), settings.get("scale", DEFAULT_SCALE)
    wrong: list[str] = []
    method_preset, scale_preset = dict[str, Any](), dict[str, Any]()
    with collected(wrong):
        method_preset = read_preset("method", str(method), PRESETS)
    with collected(wrong):
        scale_preset = read_preset("scale", str(scale), PRESETS / "scales")
    refuse(wrong)
    layers = [
        scale_preset,
        method_preset.get("base", {}),
        method_preset.get("scales", {}).get(scale, {}),
        settings,
    ]
    merged: Flat = {"method": method, "scale": scale}
    for layer in layers:
        chosen = merged.get("data")
        for group in GROUPS:
            if group in layer and layer[group] != merged.get(group):
                merged = {key: value for key, value in merged.items() if not key.startswith(f"{group}.")}
        if layer.get("data", merged.get("data")) != chosen and "eval_data" not in layer:
            # What an earlier layer judges on was chosen for its own data.
            merged = {key: value for key, value in merged.items() if key.split(".")[0] != "eval_data"}
        merged |= layer
    return drop_unused_parts(without_idle_evals(merged, explicit=settings), explicit=settings)


def without_idle_evals(merged: Flat, *, explicit: Flat) -> Flat:
    """Drop what presets say of evaluations that the run does not have, so that they may fit one to their scale."""
    names = merged.get("evals", [])
    chosen = names if isinstance(names, list) else [names]  # what is no list of names, build() refuses
    idle = [
        key for key in merged if key.startswith("evals.") and key not in explicit and key.split(".")[1] not in chosen
    ]
    return {key: value for key, value in merged.items() if key not in idle}


def drop_unused_parts(merged: Flat, *, explicit: Flat) -> Flat:
    """Null the components that the objective does not use, unless the caller asked for one: then say so."""
    objective = merged.get("objective")
    if objective not in list(OBJECTIVES):  # it may be what cannot be looked up, such as a list
        return merged  # build() names the allowed ones
    wrong = []
    for group in OPTIONAL:
        if group in OBJECTIVES[objective].uses:
            continue
        asked = [key for key in explicit if key == group or key.startswith(f"{group}.")]
        if asked and explicit[asked[0]] is not None:
            wrong.append(
                f"{asked[0]}={explicit[asked[0]]}: objective={objective} uses no {group}; leave {asked[0]} out"
            )
        merged = {key: value for key, value in merged.items() if not key.startswith(f"{group}.")} | {group: None}
    refuse(wrong)
    if "flow" not in OBJECTIVES[objective].gives and "flow_data" not in explicit:
        merged = {key: value for key, value in merged.items() if key.split(".")[0] != "flow_data"}
    return merged


@functools.cache
def read_preset(kind: str, name: str, folder: Path) -> dict[str, Any]:
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(unknown(kind, name, names))
    return yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) or {}


def unknown(kind: str, value: Any, allowed: Any, *, meant: Sequence[str] = ()) -> str:
    """``mask=tubee: unknown; did you mean tube? Allowed: block, multiblock, ...``; `meant` is near, if anything is."""
    near = [*meant] or _of_near_root(str(value), list(allowed))
    near = near or difflib.get_close_matches(str(value), list(allowed), n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    name = f"{kind}={value}" if kind else str(value)
    return f"{name}: unknown{hint} Allowed: {', '.join(sorted(allowed))}"


def _of_near_root(key: str, allowed: Sequence[str]) -> list[str]:
    """``maks.ratio`` with the beginning that was meant, where it begins with no option's."""
    root, dot, rest = key.partition(".")
    roots = [name for name in allowed if "." not in name]
    near = difflib.get_close_matches(root, roots, n=1) if dot and root not in roots else []
    return [f"{name}.{rest}" for name in near]


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
