"""Components out of this tree: registered by a module that `plugins=` or an installed package names.

A flat config names the module of every such component beside it (``mask=checker mask.plugin=my_lab.masks``), so that a
stored config finds its plugins by itself: in workers, in jobs of a cluster, and in whatever opens a trained run.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from core import plugin_source
from core.configuring.layers import refuse
from core.configuring.run import GROUPS, ConfigError, Flat, Judge, Run
from core.data import DATA
from core.evals import EVALS
from core.losses import LOSSES
from core.masks import MASKS
from core.models import ENCODERS, PREDICTORS
from core.objectives import OBJECTIVES
from core.targets import TARGETS
from core.types import Data, Encoder, Evaluation, Loss, Mask, Objective, Predictor, Target

REGISTRIES: dict[type, tuple[str, dict[str, Any]]] = {
    Mask: ("mask", MASKS),
    Target: ("target", TARGETS),
    Loss: ("loss", LOSSES),
    Encoder: ("encoder", ENCODERS),
    Predictor: ("predictor", PREDICTORS),
    Data: ("data", DATA),
    Evaluation: ("evals", EVALS),
    Objective: ("objective", OBJECTIVES),
}
KEY = "plugin"  # the option that names a component's module
JUDGING_GROUPS = ("eval_data",)  # beside evaluations: what no weight depends on, unless it chooses the step
_OWNERS: dict[type, str] = {}  # the module of each registered component
_BROKEN: dict[str, str] = {}  # installed plugins that could not be imported, and why
Variant = TypeVar("Variant", bound=type)


def register(name: str) -> Callable[[Variant], Variant]:
    """Make a dataclass a component of its base class's kind, chosen by `name`: ``@register("checker")``.

    Raises ValueError where it is no component, its options lack defaults, or the name is another's.
    """
    module = str(sys._getframe(1).f_globals["__name__"])

    def put(variant: Variant) -> Variant:
        kind, registry = _registry_of(variant)
        _refuse_wrong(variant, kind, name, module)
        if (other := registry.get(name)) is not None and _OWNERS.get(other) != module:
            whose = f"plugin {_OWNERS[other]}'s" if other in _OWNERS else "built in"
            raise ValueError(f"{module}: {kind}={name} is {whose}; register yours under another name")
        registry[name] = variant
        _OWNERS[variant] = module
        return variant

    return put


def _registry_of(variant: type) -> tuple[str, dict[str, Any]]:
    for base, found in REGISTRIES.items():
        if isinstance(variant, type) and issubclass(variant, base):
            return found
    bases = ", ".join(base.__name__ for base in REGISTRIES)
    raise ValueError(f"{getattr(variant, '__name__', variant)}: a component is a subclass of one of {bases}")


def _refuse_wrong(variant: type, kind: str, name: str, module: str) -> None:
    where = f"{module}: {kind}={name}"
    if not re.fullmatch(r"[a-z]\w*", name):
        raise ValueError(f"{where}: a name is letters, digits and _, the first a small letter")
    if module == "__main__":
        raise ValueError(f"{where}: workers cannot import a script or notebook; put it into a module of its own")
    if "__dataclass_params__" not in vars(variant):
        raise ValueError(f"{where}: {variant.__name__} is no dataclass; write @register above @dataclass")
    if KEY in (names := [field.name for field in dataclasses.fields(variant)]):
        raise ValueError(f"{where}: {KEY} cannot be an option's name, got {', '.join(names)}")
    try:
        variant()
    except TypeError as error:
        raise ValueError(f"{where}: every option needs a default: {error}") from error


def owner(component: object) -> str | None:
    """The module that registered a component's class; None for one of this tree."""
    return _OWNERS.get(type(component))


# ---- loading -----------------------------------------------------------------------------------------------------


def known() -> tuple[str, ...]:
    """The modules whose components can be chosen now."""
    return tuple(sorted({*_OWNERS.values()}))


def load(names: Sequence[str]) -> None:
    """Import these modules. Raises ConfigError naming the one that is missing, fails or registers nothing."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a stranger's module raises as it is imported
            raise ConfigError(f"plugins={name}: {_reason(name, error)}") from error
        top = name.partition(".")[0]
        if not any(module.partition(".")[0] == top for module in known()):
            raise ConfigError(f"plugins={name}: registers no component; see docs/plugins.md")


def _reason(name: str, error: Exception) -> str:
    missing = isinstance(error, ModuleNotFoundError) and error.name is not None
    if missing and f"{name}.".startswith(f"{error.name}."):  # type: ignore[attr-defined]
        return (
            "no such module here: install it, or put its folder on PYTHONPATH. What its runs recorded can be shown, "
            "asked for and exported without it"
        )
    if isinstance(error, SyntaxError):  # found while the file is read: its own place, not the importer's
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text} ({at.filename}:{at.lineno})"


@functools.cache
def load_installed() -> None:
    """Import what installed packages offer. One that fails stops nobody who does not ask for it: see `hint`."""
    for module in plugin_source.installed().values():
        try:
            load(plugin_source.names_in([module], f"entry point {plugin_source.GROUP}"))
        except ValueError as error:
            _BROKEN[module] = str(error)


def hint() -> str:
    """For a message about a name that is not known: installed plugins that could not be loaded."""
    return "".join(f"; an installed plugin could not be loaded: {reason}" for reason in _BROKEN.values())


def loaded(settings: Mapping[str, Any], wrong: Sequence[str] = ()) -> Flat:
    """`settings` without the words that name plugins, which are loaded by then.

    Raises ConfigError for one that cannot be had, after what is `wrong` already; not for the names that it would give.
    """
    names: list[str] = []
    rest: Flat = {}
    for key, value in settings.items():
        if key != "plugins" and not is_key(key):
            rest[key] = value
        elif value is not None:
            try:
                names += plugin_source.names_in(value, key)
            except ValueError as error:
                refuse([*wrong, str(error)])
    load_installed()
    try:
        load(list(dict.fromkeys(names)))
    except ConfigError as error:
        refuse([*wrong, str(error)])
    return rest


def is_key(key: str) -> bool:
    """Whether a flat config says under `key` which plugin a component is of: mask.plugin, evals.spread.plugin."""
    group, _, option = key.rpartition(".")
    return option == KEY and (group in GROUPS or (group.startswith("evals.") and group.count(".") == 1))


# ---- what a run uses ---------------------------------------------------------------------------------------------


def used(run: Run) -> Iterator[tuple[str, bool]]:
    """Each module that the run has a component of, and whether its weights depend on it; once or twice each."""
    for group in GROUPS:
        if (module := owner(getattr(run, group))) is not None:
            yield module, group not in JUDGING_GROUPS or run.judge is Judge.best
    for evaluation in run.evals.values():
        if (module := owner(evaluation)) is not None:
            yield module, False


def fingerprints(run: Run) -> dict[str, str]:
    """The hash of each plugin's source, by ``plugin.MODULE``, or ``eval_plugin.MODULE`` where it only judges."""
    training = {module: is_training for module, is_training in sorted(used(run))}  # True comes last
    found = {f"{'plugin' if trains else 'eval_plugin'}.{module}": _hash(module) for module, trains in training.items()}
    return {key: value for key, value in found.items() if value is not None}


def facts(run: Run) -> dict[str, Any]:
    """{"plugins": name, version and hash of each}, for whoever reads the run's record; {} without plugins."""
    told = [
        " ".join(filter(None, [module, plugin_source.version(module), _hash(module)]))
        for module in sorted({module for module, _ in used(run)})
    ]
    return {"plugins": told} if told else {}


@functools.cache
def _hash(module: str) -> str | None:
    """Once a process, which runs what it imported whatever becomes of the file."""
    return plugin_source.source_hash(module)
