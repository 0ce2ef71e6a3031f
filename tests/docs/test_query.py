"""The ten questions of docs/query.md, asked of a small database on both servers."""

import csv

import pytest
from sqlalchemy import Engine, update

from sweeps import query, queue, series
from sweeps.cli import OK
from sweeps.db import Attempt
from sweeps.queue import Usage
from tests.docs.blocks import DOCS, commands
from tests.sweeps.conftest import BOTH, engine, postgres, url
from tests.sweeps.launched import register, two_rows

__all__ = ["engine", "postgres", "url"]  # fixtures
QUESTIONS = commands("query.md")
RATIOS = {0.5: 60.0, 0.75: 70.0, 0.9: 71.5}


Ids = dict[tuple[float, int], int]


@pytest.fixture
def ids(engine: Engine) -> Ids:
    """Runs by ratio and seed. masking_ratio: of seed 1, ratio 0.5 failed and 0.75 waits; other shares the row 0.9."""
    rows = [{"key": str(ratio), "set": {"mask.ratio": ratio}} for ratio in RATIOS]
    register(engine, two_rows("masking_ratio", rows=rows))
    register(engine, two_rows("other", rows=rows[2:]))
    found: Ids = {}
    for _ in range(6):
        with engine.begin() as connection:
            where = {"host": "node1", "device": "H200", "git_sha": "abc", "dirty": not found}
            claim = queue.claim(connection, "w", provenance=where)
            assert claim is not None
            ratio = claim.config["mask.ratio"]
            found[ratio, claim.seed] = claim.run_id
            if claim.seed == 1 and ratio != 0.9:
                queue.fail(connection, claim, "ValueError: no", step=7, is_final=ratio == 0.5, backoff_s=1e6)
                continue
            series.write(connection, [series.chunk_row(claim.run_id, 1, 0, "loss", [0, 1], [0.5, 0.25])])
            results = {"ridge/digit_top1": RATIOS[ratio] + claim.seed}
            queue.finish(connection, claim, "done", results=results, usage=Usage(step=100, cpu_seconds=1800.0))
    with engine.begin() as connection:
        connection.execute(update(Attempt).values(ended=Attempt.started + 50.0, resume_step=0))
    return found


def answer(engine: Engine, capsys: pytest.CaptureFixture[str], number: int) -> list[tuple[str, ...]]:
    module, words = QUESTIONS[number - 1]
    assert module == "sweeps.query"
    database = engine.url.render_as_string(hide_password=False)
    words = [*(word for word in words if not word.startswith("format=")), "format=csv", f"db={database}"]
    assert query.main(words) == OK, capsys.readouterr().err
    return [tuple(row) for row in csv.reader(capsys.readouterr().out.splitlines()[1:])]


@BOTH
def test_each_of_the_ten_questions_is_answered(engine, ids, capsys):
    answers = {number: answer(engine, capsys, number) for number in range(1, 11)}
    high = [str(ids[0.9, seed]) for seed in (0, 1)]
    assert answers[1] == [(high[0], "0.9", "0", "71.5"), (high[1], "0.9", "1", "72.5")]
    assert answers[2] == [("masking_ratio", "6", "2.0", "0.0"), ("other", "2", "1.0", "0.0")]
    assert answers[3] == [(str(ids[0.5, 1]), "1", "node1", "7", "ValueError: no")]
    assert answers[4] == [
        ("masking_ratio", "0.5", "", "1", "failed"),
        ("masking_ratio", "0.75", "", "1", "queued"),
    ]
    assert answers[5] == [("masking_ratio", "0.9", "", "72.0", "2"), ("other", "0.9", "", "72.0", "2")]
    assert answers[6] == [("", "0", "71.5", "70.0", "1.5")]
    assert answers[7] == [("1", "done", "abc", "node1")]
    assert [(device, attempts) for device, attempts, _ in answers[8]] == [("H200", "4")]
    assert float(answers[8][0][2]) == pytest.approx(2.0)
    assert answers[9] == [
        (run, str(seed), name) for seed, run in enumerate(high) for name in ("masking_ratio", "other")
    ]
    assert answers[10] == [("loss", "0", "0.5"), ("loss", "1", "0.25")]


def test_there_are_ten_questions_on_a_page():
    text = (DOCS / "query.md").read_text(encoding="utf-8")
    assert [f"**{number}." in text for number in range(1, 11)] == [True] * 10
    assert len(QUESTIONS) == 10
