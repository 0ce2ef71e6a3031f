"""A command in a process of its own that need not import torch again: a fork of this one."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

import torch

from core import plugin_source
from tests.lab import ROOT, forgotten


def forked(module: str, *words: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What ``python -m module words`` in `cwd` says, which finds modules in `path` beside ours and no other my_lab.

    For what a process finds, trains and says; not for how one starts, ends or is killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        if (child := os.fork()) == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _become(module, words, cwd, path)
        _, status = os.waitpid(child, 0)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess([module, *words], os.waitstatus_to_exitcode(status), *said)


def _become(module: str, words: tuple[str, ...], cwd: Path, path: Path | None) -> NoReturn:
    code = 70
    try:
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        os.chdir(cwd)
        others = [place for place in sys.path if not (Path(place) / "my_lab").exists()]
        sys.path[:] = [str(cwd), *([str(path)] if path else []), str(ROOT), *others]
        sys.argv = [module, *words]
        torch.set_num_threads(1)  # the threads of the process that this was are not here
        with forgotten():
            pass
        plugin_source.installed.cache_clear()
        sys.modules.pop(module, None)  # as in a process that has not imported yet what it runs
        warnings.simplefilter("ignore")  # pytest makes errors of them
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
