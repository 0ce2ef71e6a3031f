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


def told(path: Path) -> list:
    """What a script of the explorer says: its path and what it has there."""
    return json.loads("[" + re.fullmatch(r"window\.told\((.*)\);\n", path.read_text()).group(1) + "]")


def spread(column) -> list:
    if isinstance(column, list):
        return column
    return [value for value, times in zip(column["values"], column["times"], strict=True) for _ in range(times)]


def counted(spans) -> list[int]:
    return [first + n for first, length in zip(*spans, strict=True) for n in range(length)]


@pytest.fixture(scope="module")
def columns(report: Path) -> dict:
    text = (report / "explore" / "runs.js").read_text()
    assert text.startswith("window.explored = ") and text.endswith(";\n")
    return json.loads(text.removeprefix("window.explored = ").removesuffix(";\n"))


def test_every_run_has_its_place_state_and_numbers(columns, report):
    ids = counted(columns["ids"])
    assert len(ids) > 10 and columns["leftOut"] == 0
    runs = {name: spread(column) for name, column in columns["runs"].items()}
    assert runs.keys() == {"config", "seed", "state", "seconds"}
    assert all(len(values) == len(ids) for values in runs.values())
    assert len(columns["keys"]) == len(columns["asked"]) == max(runs["config"]) + 1
    assert all(len(spread(values)) == len(columns["keys"]) for _, values in columns["options"])
    evil = columns["studies"].index("evil")
    places = [i for i in range(len(ids)) if [evil, EVIL] in columns["asked"][runs["config"][i]]]
    [[path, num]] = [[path, num] for name, path, num, _ in columns["metrics"] if name == MAIN]
    said, numbers = told(report / f"{path}.js")
    assert said == path and len(counted(numbers["ids"])) == len(spread(numbers["values"])) == num
    assert places and ids[places[0]] in counted(numbers["ids"])


def test_options_that_all_runs_share_are_left_out(columns):
    options = {name: spread(values) for name, values in columns["options"]}
    assert "mask" in options
    assert all(len({json.dumps(value) for value in values}) > 1 for values in options.values())


def test_what_repeats_is_said_once():
    assert explorer._packed([1, 1, 1, True, True, "1"]) == {"values": [1, True, "1"], "times": [3, 2, 1]}
    assert explorer._packed([1, 2, 2]) == [1, 2, 2]
    assert explorer._packed([]) == {"values": [], "times": []}
    assert explorer._spans([4, 5, 6, 9]) == [[4, 9], [3, 1]]


def test_no_run_can_end_the_script_that_holds_it(report):
    for file in [*report.glob("explore/*.js"), *report.glob("curves/*.js")]:
        assert "<" not in file.read_text()


def test_a_runs_curves_and_numbers_are_a_script_of_its_own(report, columns):
    key = f"{columns['keys'][0]}-{spread(columns['runs']['seed'])[0]}"
    path, found = told(report / "curves" / f"{key}.js")
    assert path == f"curves/{key}"
    loss = found["curves"]["loss"]
    assert len(loss["steps"]) == len(loss["values"]) > explorer.POINTS / 2
    assert loss["steps"] == sorted(loss["steps"])
    for metric, value in found["numbers"]:
        [path] = [path for name, path, _, _ in columns["metrics"] if name == metric]
        _, numbers = told(report / f"{path}.js")
        assert (
            dict(zip(counted(numbers["ids"]), spread(numbers["values"]), strict=True))[counted(columns["ids"])[0]]
            == value
        )
    assert MAIN in dict(found["numbers"])


def test_the_oldest_runs_are_counted_where_a_page_cannot_hold_all(lively):
    engine = open_database(f"sqlite:///{lively}", read_only=True)
    with engine.connect() as connection:
        everything, some = explorer.read(connection), explorer.read(connection, most=3)
        numbers = explorer.numbers(connection, most=3)
    engine.dispose()
    assert some.runs["run"] == everything.runs["run"][-3:]
    assert some.left_out == len(everything.runs["run"]) - 3
    assert sum(some.metrics.values()) < sum(everything.metrics.values())
    assert numbers.keys() == {f"{path}.js" for path in map(explorer._path, some.metrics)}


def test_a_served_explorer_gives_what_the_files_hold(lively, report):
    engine = open_database(f"sqlite:///{lively}", read_only=True)
    live = Live(engine)
    for file in [*report.glob("explore/*.js"), sorted(report.glob("curves/*.js"))[0]]:
        assert live.answer(file.relative_to(report).as_posix()).body == file.read_bytes()
    assert live.answer(f"curves/{page_key('0' * 64, 0)}.js").status == 404
    assert live.answer("explore/000000000000.js").status == 404
    assert live.answer("vendor/vega.min.js").body == (VENDOR / "vega.min.js").read_bytes()
    engine.dispose()


def test_the_carried_libraries_are_the_released_files():
    told = dict(
        re.findall(r"^\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE)
    )
    assert told == {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in LIBRARIES}
