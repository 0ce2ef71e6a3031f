"""Commands that end in a package above, and what is said where that is missing."""

import subprocess
import sys

import pytest

from core import handing_over
from core.handing_over import NotInstalled, hand_over


def test_the_arguments_go_to_the_named_function_and_its_answer_comes_back(monkeypatch) -> None:
    monkeypatch.setitem(handing_over.FUNCTIONS, "core.evaluate", ("math", "gcd"))
    assert hand_over("core.evaluate", 12, 18) == 6


def test_a_package_that_is_missing_is_named_with_the_command(monkeypatch) -> None:
    monkeypatch.setitem(handing_over.FUNCTIONS, "core.evaluate", ("no_such_package.evaluate", "main"))
    with pytest.raises(NotInstalled, match=r"core\.evaluate goes on in no_such_package\.evaluate, which is not here"):
        hand_over("core.evaluate", [])


def test_evaluating_by_id_without_sweeps_is_an_error_of_one_line() -> None:
    without = "import sys; sys.modules['sweeps'] = None; sys.modules['sweeps.evaluate'] = None; "
    code = f"{without}from core.evaluate import main; sys.exit(main(['run=1']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: python -m core.evaluate goes on in sweeps.evaluate, which is not here")


def test_the_commands_that_hand_over_import_what_they_hand_over_to_only_then() -> None:
    code = "import sys, sweeps.launch; print([name for name in sys.modules if name.startswith('analysis')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
