"""docs/plugins.md: its examples are short, do what every component must, and its commands work."""

import re

import pytest

from core.configuring.plugins import REGISTRIES
from tests.docs.blocks import DOCS, commands
from tests.forked import forked
from tests.lab import examples, lab, python

__all__ = ["lab"]
MOST_LINES = 26  # of code as the formatter breaks it


@pytest.mark.parametrize("name", examples())
def test_an_example_is_short(name):
    assert len(examples()[name].strip().splitlines()) <= MOST_LINES


def test_there_is_an_example_of_each_kind(lab):
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    bases = {"Encoder": "FrameEncoder"}
    assert all(f"({bases.get(kind.__name__, kind.__name__)}):" in text for kind in REGISTRIES)


def test_the_examples_pass_the_page_s_own_test(lab):
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=lab, path=lab)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_page_s_commands_and_study_work(lab):
    shown, trained = [forked(module, *words, cwd=lab, path=lab) for module, words in commands("plugins.md")]
    assert "mask=checker: Hide every second patch" in shown.stdout
    assert trained.returncode == 0, trained.stderr
    assert re.search(r"plugins +my_lab\.masks [0-9a-f]{16}", trained.stdout)
    planned = forked("sweeps.plan", "study=mine", "scale=smoke", "db=sqlite:///none.sqlite", cwd=lab, path=lab)
    assert planned.returncode == 0, planned.stderr
    assert "checker: mask checker (baseline random)" in planned.stdout
