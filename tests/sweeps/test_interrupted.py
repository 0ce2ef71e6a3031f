"""Ctrl-C while a command is still importing: one line, code 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
