"""Ctrl-C while a command is still importing: one line, code 130, no traceback."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core import terminal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["sweeps.launch", "core.train", "analysis.report"])
def test_ctrl_c_during_imports_is_one_line_and_code_130(module: str, tmp_path: Path) -> None:
    """A module that every command imports early presses Ctrl-C."""
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich/__init__.py").write_text(f"import os; os.kill(os.getpid(), {int(signal.SIGINT)})")
    (tmp_path / "pandas.py").write_text(f"import os; os.kill(os.getpid(), {int(signal.SIGINT)})")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = subprocess.run(
        [sys.executable, "-m", module, "study=nothing"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (130, "interrupted\n", "")


def test_another_error_of_an_import_is_shown_as_ever(tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich/__init__.py").write_text("raise RuntimeError('broken')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = subprocess.run(
        [sys.executable, "-m", "sweeps.launch"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1 and "RuntimeError: broken" in ended.stderr


def test_a_program_that_imports_us_keeps_its_own_ctrl_c() -> None:
    code = "import sys; hook = sys.excepthook; import core, sweeps, analysis; assert sys.excepthook is hook"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def _hears_interrupts(answer: Any) -> None:
    answer.send(signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_workers_that_still_import_hear_no_ctrl_c_as_their_launcher_tells_them() -> None:
    here, there = multiprocessing.Pipe()
    with terminal.interrupts_held():
        process = multiprocessing.get_context("spawn").Process(target=_hears_interrupts, args=(there,))
        process.start()
    assert here.recv() is False
    process.join()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_ctrl_c_while_workers_start_is_told_afterwards() -> None:
    code = (
        "import os, signal; from core import terminal\n"
        "with terminal.interrupts_held():\n    os.kill(os.getpid(), signal.SIGINT); print('started', flush=True)\n"
        "print('not reached')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "started\n" and "KeyboardInterrupt" in ended.stderr
