"""A study's table on a screen: as wide as that is, what matters first; all of it anywhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine

from sweeps import query
from sweeps.console.errors import OK
from tests.sweeps.launched import finish_next, register, two_rows

ROOT = Path(__file__).parents[2]
RESULTS = {"a/other": 1.0, "cost/train_seconds": 2.0, "ridge/digit_top1": 61.25}
# Long enough that a screen has no room for all, and of another value in each row.
WIDE = {f"data.option_of_a_long_name_{i}": i for i in range(12)}


@pytest.fixture(autouse=True)
def ratio(engine: Engine) -> None:
    rows = [
        {"key": key, "set": {"mask.ratio": ratio} | {name: value + ratio for name, value in WIDE.items()}}
        for key, ratio in (("a", 0.5), ("b", 0.75))
    ]
    register(engine, two_rows(rows=rows))
    for seconds in (1.0, 2.0):
        finish_next(engine, RESULTS, cpu_seconds=seconds)


def on_a_screen(engine: Engine, width: int, *words: str) -> list[str]:
    """The lines that a terminal of `width` letters gets."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(width), "LINES": "24"}
    environment = os.environ | size | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "sweeps.query", *words, f"db={engine.url}"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as running:
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # whose other end is closed
                break
            if not part:
                break
            said += part
        assert running.wait() == OK, said
    os.close(ours)
    return said.decode().splitlines()


@pytest.mark.parametrize("width", [80, 160])
def test_a_table_is_no_wider_than_the_screen_and_says_what_is_left_out(engine, width) -> None:
    lines = on_a_screen(engine, width, "study=ratio", "form=long")
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert len(table) > 4 and max(map(len, table)) <= width
    header = table[1]
    assert [header.index(name) for name in ("row_key", "seed", "metric", "value")] == sorted(
        header.index(name) for name in ("row_key", "seed", "metric", "value")
    )
    assert "cpu_seconds" not in header
    said = " ".join(lines[len(table) :])
    assert f"left out, as this screen has {width} letters: " in said and "columns=all shows all" in said


def test_the_study_s_own_metric_comes_first_and_costs_last(engine) -> None:
    lines = [
        line
        for line in on_a_screen(engine, 100, "study=ratio", "form=long")
        if "61.25" in line or "a/other" in line or "cost/" in line
    ]
    assert ["ridge" in lines[0], "a/other" in lines[1], "cost/" in lines[2]] == [True, True, True]


def test_a_study_s_row_has_its_own_metric_on_a_screen_before_options_and_costs(engine) -> None:
    header = next(line for line in on_a_screen(engine, 100, "study=ratio") if "row_key" in line)
    assert header.index("seed") < header.index("ridge/digit_top1")
    assert "data.option" not in header[: header.index("ridge/digit_top1")]
    assert "cost/" not in header and "cpu_seconds" not in header


@pytest.mark.parametrize("words", [[], ["columns=all"]])
def test_what_is_piped_is_complete(engine, capsys, words) -> None:
    assert query.main(["study=ratio", "form=long", *words, f"db={engine.url}"]) == OK
    header = capsys.readouterr().out.splitlines()[1]
    assert all(name in header for name in (*WIDE, "cpu_seconds", "mask.ratio", "metric"))
    assert ("gpu_seconds" in header) == bool(words)


def test_columns_that_do_not_fit_go_by_priority() -> None:
    frame = pd.DataFrame({"cpu_seconds": [1.0], "optim.steps": [10], "value": [2.0], "row_key": ["a"]})
    assert list(query.fitting(frame, 200)) == ["row_key", "value", "optim.steps", "cpu_seconds"]
    assert list(query.fitting(frame, 35)) == ["row_key", "value", "optim.steps"]
    assert list(query.fitting(frame, 1)) == ["row_key"]


def test_an_option_in_which_trained_rows_differ_comes_before_one_that_an_untrained_row_lacks() -> None:
    rows = [("a", 1, 0.9, "block"), ("b", 1, 0.9, "space"), ("random_init", 1, None, None)]
    frame = pd.DataFrame(rows, columns=["row_key", "seed", "augment.flip", "mask"])
    assert list(query.fitting(frame, 200)) == ["row_key", "seed", "mask", "augment.flip"]
