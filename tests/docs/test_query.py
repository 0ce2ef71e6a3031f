"""The ten questions of docs/query.md, asked of a small database on both servers, by command, SQL and Python."""

import ast
import functools
import io
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from sqlalchemy import Engine, update

import ssl_ablations as ab
from sweeps import query
from sweeps.console.errors import OK
from sweeps.database import series
from sweeps.database.tables import Attempt, Config
from sweeps.engine import queue
from sweeps.engine.queue import Usage
from tests.docs.blocks import DOCS, blocks, commands
from tests.sweeps.conftest import BOTH, engine, postgres, url
from tests.sweeps.launched import register, two_rows

__all__ = ["engine", "postgres", "url"]  # fixtures
COMMANDS = commands("query.md")
STATEMENTS = blocks("query.md", "sql")
PROGRAMS = blocks("query.md", "python")
TEN = range(1, 11)
RATIOS = {0.5: 60.0, 0.75: 70.0, 0.9: 71.5}

Ids = dict[tuple[float, int], int]


@pytest.fixture
def ids(engine: Engine) -> Ids:
    """Runs by ratio and seed; other shares the row 0.9 of masking_ratio.

    Of seed 1, ratio 0.5 failed and 0.75 diverged; 0.9 collapsed. Of seed 0, nothing was said of their features. A
    seventh, with another mask, waits.
    """
    rows = [
        {"key": str(ratio), "set": {"mask.ratio": ratio, "data": "npz", "data.path": f"{ratio}.npz"}}
        for ratio in RATIOS
    ]
    paper = {"paper": "MAE-ST", "arxiv": "2205.09113"}
    register(engine, two_rows("masking_ratio", rows=rows, source=paper))
    register(engine, two_rows("other", rows=rows[2:]))
    found: Ids = {}
    for _ in range(6):
        with engine.begin() as connection:
            where = {"host": "node1", "device": "H200", "git_sha": "abc", "dirty": not found}
            claim = queue.claim(connection, "w", provenance=where)
            assert claim is not None
            ratio = claim.config["mask.ratio"]
            found[ratio, claim.seed] = claim.run_id
            seen = update(Attempt).where(Attempt.run_id == claim.run_id)
            connection.execute(seen.values(data={"data": f"print of {ratio}"}))
            points = [0.5 / claim.run_id, 0.25]
            series.write(connection, [series.chunk_row(claim.run_id, 1, 0, "loss", [0, 1], points)])
            used = Usage(step=100, cpu_seconds=1800.0)
            if (ratio, claim.seed) == (0.5, 1):
                queue.fail(connection, claim, "ValueError: no", step=7, is_final=True)
            elif (ratio, claim.seed) == (0.75, 1):
                queue.finish(connection, claim, "diverged", facts={"why": "loss nan at step 3"}, usage=Usage(step=3))
            else:
                results = {"ridge/digit_top1": RATIOS[ratio] + claim.seed}
                facts = {"collapse": {"said": "one direction" if (ratio, claim.seed) == (0.9, 1) else ""}}
                queue.finish(connection, claim, "done", results=results, facts=facts, usage=used)
    register(engine, two_rows("waits", rows=[{"key": "a", "set": {"mask.num": 1, "data": "npz"}}, rows[0]]))
    with engine.begin() as connection:
        connection.execute(update(Attempt).values(ended=Attempt.started + 50.0, resume_step=0))
        connection.execute(update(Config).values(method="mae_st", scale="cpu"))
    return found


def by_command(engine: Engine, capsys: pytest.CaptureFixture[str], words: list[str]) -> pd.DataFrame:
    database = engine.url.render_as_string(hide_password=False)
    assert query.main([*words, "format=csv", f"db={database}"]) == OK, capsys.readouterr().err
    return pd.read_csv(io.StringIO(capsys.readouterr().out))


def by_sql(engine: Engine, statement: str) -> pd.DataFrame:
    if engine.dialect.name == "postgresql":
        statement = re.sub(r"\bjson_each\b", "jsonb_each_text", statement)  # as the page says
    return ab.sql(statement, db=engine.url.render_as_string(hide_password=False))


def by_python(engine: Engine, program: str) -> pd.DataFrame:
    """Its one expression, over this database."""
    database = engine.url.render_as_string(hide_password=False)
    functions = {name: getattr(ab, name) for name in ("best", "cells", "costs", "curves", "data", "differences")}
    functions |= {name: getattr(ab, name) for name in ("results", "runs")}
    here = SimpleNamespace(**{name: functools.partial(each, db=database) for name, each in functions.items()})
    code = ast.parse(program, mode="eval")
    frame = eval(compile(code, "docs/query.md", "eval"), {"ab": here})
    assert isinstance(frame, pd.DataFrame)
    return frame


def plain(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Columns and rows as text: a truth value, a number and a missing value as the databases all write them."""

    def text(value: object) -> str:
        if value is None or value != value:
            return ""
        try:
            return f"{float(str(value)):.9g}"
        except ValueError:
            return str(value)

    return [str(name) for name in frame], [[text(value) for value in row] for row in frame.astype(object).to_numpy()]


@BOTH
@pytest.mark.parametrize("number", TEN)
def test_a_command_sql_and_python_answer_alike(engine, ids, capsys, number):
    command = plain(by_command(engine, capsys, COMMANDS[number - 1][1]))
    assert command[1], "a question whose answer is empty shows nothing"
    columns, rows = plain(by_sql(engine, STATEMENTS[number - 1]))
    if number == 6:  # the SQL compares options, as the page says
        rows += [row for row in command[1] if row[0] in ("seed", "dirty") or " " in row[0]]
    assert (columns, rows) == command
    assert plain(by_python(engine, PROGRAMS[number - 1])) == command


def test_the_answers_are_those_of_the_runs(engine, ids, capsys):
    def answer(number: int) -> list[list[str]]:
        return plain(by_command(engine, capsys, COMMANDS[number - 1][1]))[1]

    run = {key: str(run_id) for key, run_id in ids.items()}
    assert answer(1) == [
        ["masking_ratio", "0.9", "", "72", "2"],
        ["other", "0.9", "", "72", "2"],
        ["waits", "0.5", "", "60", "1"],
    ]
    assert sorted(answer(2)) == sorted(
        [
            [run[0.5, 1], "failed", "", "ValueError: no", ""],
            [run[0.75, 1], "diverged", "3", "loss nan at step 3", ""],
            [run[0.9, 1], "done", "100", "", "one direction"],
        ]
    )
    assert {(row[2], row[3]) for row in answer(3)} == {("0.5", "60"), ("0.75", "70"), ("0.9", "71.5"), ("0.9", "72.5")}
    assert answer(4) == [["loss", "0", "0.5", "0.25"], ["loss", "1", "0.25", "0.25"]]
    assert answer(5) == [["MAE-ST", "6", "2", "0"], ["no paper", "6", "1.5", "0"]]
    assert answer(6) == [
        ["data.path", "0.75.npz", "0.9.npz"],
        ["mask.ratio", "0.75", "0.9"],
        ["seed", "0", "1"],
        ["fingerprint of data", "print of 0.75", "print of 0.9"],
    ]
    assert [run[0.5, 0], "data", "npz", "0.5.npz", "print of 0.5"] in answer(7)
    missing = answer(8)
    assert ["masking_ratio", "0.75", "", "1", "diverged"] in missing and ["waits", "a", "", "0", "queued"] in missing
    assert answer(9) == [["1", "done", "abc", "node1"]]
    assert {row[0] for row in answer(10)} == {run[ratio, seed] for ratio in (0.5, 0.9) for seed in (0, 1)}


def test_there_are_ten_questions_on_a_page():
    text = (DOCS / "query.md").read_text(encoding="utf-8")
    assert [f"**{number}." in text for number in TEN] == [True] * 10
    assert (len(COMMANDS), len(STATEMENTS), len(PROGRAMS)) == (10 + 3, 10, 10)  # and three that are not of the ten


@BOTH
def test_what_is_no_question_of_the_ten_is_answered_too(engine, ids, capsys):
    study, by_seed, speed = (by_command(engine, capsys, words) for _, words in COMMANDS[10:])
    assert len(study) == 6
    assert plain(by_seed)[1] == [["", "0", "71.5", "70", "1.5"]]
    assert plain(speed)[1] == [["H200", "4", "2"]]
