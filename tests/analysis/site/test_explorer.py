"""What the explorer's page is given, and the libraries that it carries."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from analysis.serve import Live
from analysis.site import explorer
from analysis.site.html import LIBRARIES, VENDOR
from analysis.site.runs import page_key
from sweeps.database.opening import open_database
from tests.analysis.conftest import MAIN
from tests.analysis.site.conftest import EVIL


@pytest.fixture(scope="module")
def columns(report: Path) -> dict:
    text = (report / "explore" / "runs.js").read_text()
    assert text.startswith("window.explored = ") and text.endswith(";\n")
    return json.loads(text.removeprefix("window.explored = ").removesuffix(";\n"))


def test_every_run_has_its_place_state_and_numbers(columns):
    runs = columns["runs"]
    number = len(runs["run"])
    assert number > 10 and columns["leftOut"] == 0
    assert all(len(runs[name]) == number for name in ("key", "config", "seed", "state", "seconds"))
    assert all(len(values) == number for values in columns["metrics"].values())
    assert all(len(values) == len(runs["asked"]) for values in columns["options"].values())
    evil = [i for i in range(number) if ["evil", EVIL] in runs["asked"][runs["config"][i]]]
    assert evil and columns["metrics"][MAIN][evil[0]] is not None


def test_options_that_all_runs_share_are_left_out(columns):
    assert "mask" in columns["options"]
    assert all(len({json.dumps(value) for value in values}) > 1 for values in columns["options"].values())


def test_no_run_can_end_the_script_that_holds_it(report):
    for file in [*report.glob("explore/*.js"), *report.glob("curves/*.js")]:
        assert "<" not in file.read_text()


def test_a_runs_curves_are_a_script_of_its_own(report, columns):
    key = columns["runs"]["key"][0]
    text = (report / "curves" / f"{key}.js").read_text()
    name, lines = re.fullmatch(r"window\.curves\((\".*?\"), (.*)\);\n", text).groups()
    assert json.loads(name) == key
    loss = json.loads(lines)["loss"]
    assert len(loss["steps"]) == len(loss["values"]) > explorer.POINTS / 2
    assert loss["steps"] == sorted(loss["steps"])


def test_the_oldest_runs_are_counted_where_a_page_cannot_hold_all(lively):
    engine = open_database(f"sqlite:///{lively}", read_only=True)
    with engine.connect() as connection:
        everything, some = explorer.read(connection), explorer.read(connection, most=3)
    engine.dispose()
    assert some.runs["run"] == everything.runs["run"][-3:]
    assert some.left_out == len(everything.runs["run"]) - 3


def test_a_served_explorer_gives_what_the_files_hold(lively, report):
    engine = open_database(f"sqlite:///{lively}", read_only=True)
    live = Live(engine)
    assert live.answer("explore/runs.js").body == (report / "explore" / "runs.js").read_bytes()
    curves = sorted((report / "curves").iterdir())[0]
    assert live.answer(f"curves/{curves.name}").body == curves.read_bytes()
    assert live.answer(f"curves/{page_key('0' * 64, 0)}.js").status == 404
    assert live.answer("vendor/vega.min.js").body == (VENDOR / "vega.min.js").read_bytes()
    engine.dispose()


def test_the_carried_libraries_are_the_released_files():
    told = dict(
        re.findall(r"^\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE)
    )
    assert told == {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in LIBRARIES}
