"""docs/install.md: what it asks of pip exists; its study is one (tests/test_packaging.py installs and trains)."""

import tomllib

from sweeps import launch
from tests.docs.blocks import DOCS, commands

PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_extras_of_the_page_are_those_of_the_package():
    (whole, extras) = [words for module, words in commands("install.md") if module == "pip"]
    assert whole == ["install", "."]
    assert extras == ["install", f".[{','.join(PROJECT['optional-dependencies'])}]"]


def test_the_page_says_which_python_it_takes():
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in (DOCS / "install.md").read_text()


def test_its_commands_are_understood_and_the_second_reads_what_the_first_makes():
    of_sweeps = {module: words for module, words in commands("install.md") if module != "pip"}
    request = launch.parse(of_sweeps["sweeps.launch"]).request
    assert of_sweeps["sweeps.status"] == [f"study={request.instance}"]
