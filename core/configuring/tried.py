"""Parts of plugins, built once before anything trains: what is wrong with a stranger's code is better known then."""

from __future__ import annotations

import sys
import traceback

import torch

from core.configuring import plugins
from core.configuring.places import located
from core.configuring.run import ConfigError, Run
from core.masks.drawn import drawn
from core.types import DataSpec, Parts

_BUILT: set[str] = set()  # all that decides a learner's building


def check_built(run: Run, spec: DataSpec) -> None:
    """Raises ConfigError, naming the plugin and its line, where the run's learner cannot be built with its plugins'
    parts. What training only then would find in one, as it is called, is not found here."""
    modules = [module for module, is_training in plugins.used(run) if is_training]
    parts = Parts(run.encoder, run.mask, located(run).target, run.predictor, run.loss)
    if not modules or (key := repr((run.objective, parts, spec))) in _BUILT:
        return
    try:
        with torch.device("meta"):  # shapes only, for a ViT-H too
            run.objective.build(parts._replace(mask=drawn(run.mask)), spec, run.seed)
    except Exception:  # a stranger's code may look at a tensor's values, which that device has not: so for real
        try:
            run.objective.build(parts, spec, run.seed)
        except OSError:
            raise  # of a teacher's file, say
        except Exception as error:
            raise ConfigError(_told(error, modules)) from error
    _BUILT.add(key)


def _told(error: Exception, modules: list[str]) -> str:
    """In one line: what was raised, and the last line of a plugin's that led there."""
    frames = [(frame.f_globals.get("__name__"), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    inner = [(name, line) for name, line in frames if name in plugins.known()]
    module, line = inner[-1] if inner else (modules[0], None)
    file = getattr(sys.modules[str(module)], "__file__", None)
    text = " ".join(str(error).split())
    said = text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
    return f"plugins={module}: {said}" + (f" ({file}:{line})" if line is not None else "")
