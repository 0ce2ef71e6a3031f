"""What is left of a study costs the same wherever it is said: plan, status, the site's pages and the server."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, select

from analysis.numbers.frame import load
from analysis.one_study import table_of
from analysis.serve import Live
from analysis.site.html import about
from analysis.site.pages import Content, Site
from sweeps import launch, plan, status
from sweeps.cells import work
from sweeps.cells.request import Request
from sweeps.cells.work import Work, described
from sweeps.console.errors import INTERRUPTED, OK
from sweeps.database.opening import open_database
from sweeps.database.tables import Config
from sweeps.engine import queue
from sweeps.engine.counting import beside, count_waiting
from sweeps.engine.executors import Ended, Job
from sweeps.progress import to_finish
from sweeps.progress.to_finish import recorded, stored
from sweeps.study.reading import read
from tests.sweeps.launched import finish_next

STUDY = {
    "title": "Ratio",
    "question": "How much?",
    "rows": [{"key": "a", "set": {"mask.ratio": 0.5}}, {"key": "b", "set": {"mask.ratio": 0.75}}],
    # So many steps that hours are left, which no launch here will train.
    "base": {"method": "mae", "evals": ["ridge"], "optim.steps": 30_000_000},
    "metrics": ["ridge/digit_top1"],
    "random_init": False,
    "seeds": [0, 1],
}


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A study that was registered and counted as a launch does, of which nothing has been trained."""
    monkeypatch.chdir(tmp_path)
    Path("ratio.yaml").write_text(yaml.safe_dump(STUDY))
    asked = launch.parse(["study=ratio.yaml", "scale=smoke", "db=sqlite:///a.sqlite"])
    engine = launch.open_for_launching(asked)
    registered = launch.register(engine, asked.request)
    assert num_counted(engine) == 0  # a launch that trains starts at once
    count_waiting(engine, dataclasses.replace(asked.job, study=registered.study_id))
    return engine


def num_counted(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.exec_driver_sql("select count(*) from sw_event where kind = 'counted'").scalar() or 0


def seconds_left(engine: Engine) -> float:
    """As the site's page has it; asserts that all four say it."""
    with engine.connect() as connection:
        lines, _ = to_finish.of_database(connection, ["ratio@smoke"])
    return sum(cost.cpu_seconds for cost in lines["ratio@smoke"].costs if cost is not None)


def said_by_all(engine: Engine, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The words about the study's cost in hours or as `about` has it, by who says them."""
    found = {}
    assert plan.main(["study=ratio.yaml", "scale=smoke", "db=sqlite:///a.sqlite"]) == OK
    (line,) = (text for text in capsys.readouterr().out.splitlines() if "ratio@smoke │" in text)
    found["plan"] = line.split("│")[-3].strip()
    assert status.main(["study=ratio@smoke", "db=sqlite:///a.sqlite"]) == OK
    told = re.search(r"to finish: (.*?) of CPU", capsys.readouterr().out)
    assert told is not None
    found["status"] = told[1]
    frame = load(engine, "ratio@smoke")
    pages = {
        "page": Site(engine).study_page(Content(frame, table_of(frame))),
        "index": Site(engine).index_page([Site(engine).summary(frame)], []),
        "server": Live(engine).answer("studies/ratio@smoke.html").body,
        "server's index": Live(engine).answer("").body,
    }
    return found | {name: next(iter(re.findall("≈ [^<]+", page.decode())), "") for name, page in pages.items()}


def test_all_say_the_same_before_any_run_has_ended(launched, capsys):
    seconds = seconds_left(launched)
    assert seconds > 3600
    hours, words = f"{seconds / 3600:.2f} h", about(seconds)
    assert said_by_all(launched, capsys) == {
        "plan": hours, "status": hours, "page": words, "index": words, "server": words, "server's index": words,
    }  # fmt: skip


def test_all_say_the_same_of_a_study_that_is_half_done(launched, capsys):
    before = seconds_left(launched)
    for _ in range(2):  # the first seed of both rows
        finish_next(launched, {"ridge/digit_top1": 50.0}, cpu_seconds=7200.0)
    assert seconds_left(launched) == pytest.approx(2 * 7200.0) != before
    assert said_by_all(launched, capsys) == {
        "plan": "4.00 h", "status": "4.00 h", "page": "≈ 4.0 h", "index": "≈ 4.0 h", "server": "≈ 4.0 h",
        "server's index": "≈ 4.0 h",
    }  # fmt: skip


def test_a_launch_records_what_configs_compute_and_a_reader_counts_nothing(launched, monkeypatch):
    monkeypatch.setattr(work, "counted", lambda *_: pytest.fail("counted"))
    with launched.connect() as connection:
        hashes = list(connection.scalars(select(Config.hash)))
        assert {known.training is not None for known in work.read(connection, hashes).values()} == {True}
        assert len(work.read(connection, hashes)) == len(hashes) == 2


def test_a_launch_typed_again_records_nothing_twice(launched):
    registered = launch.register(launched, Request(read("ratio.yaml"), "smoke"))
    count_waiting(launched, Job("", Path(), study=registered.study_id))
    assert num_counted(launched) == 2


def test_a_launch_counts_while_its_workers_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ratio.yaml").write_text(yaml.safe_dump(STUDY))

    def train(job: Job, **_: object) -> Ended:
        """A worker that is at its first run until everything is counted; it can write meanwhile."""
        engine = open_database(job.url)
        with engine.begin() as connection:
            assert queue.claim(connection, "worker 1") is not None
        while num_counted(engine) < 2:
            time.sleep(0.05)
        return Ended(was_interrupted=True)

    monkeypatch.setitem(launch.EXECUTORS, "local", train)
    assert launch.main(["study=ratio.yaml", "scale=smoke", "db=sqlite:///a.sqlite"]) == INTERRUPTED


def test_counting_ends_with_what_it_is_beside(launched, monkeypatch):
    with launched.begin() as connection:
        connection.exec_driver_sql("delete from sw_event")
    asked, may_go_on = threading.Event(), threading.Event()

    def slowly(flat: Mapping[str, Any], data_root: str) -> Work:
        asked.set()
        may_go_on.wait()
        return described(flat)._replace(training=1.0, clip=1.0)

    monkeypatch.setattr(work, "known", lambda config: None)
    monkeypatch.setattr(work, "counted", slowly)
    with beside(launched, Job("", Path())):
        asked.wait()
        threading.Timer(0.2, may_go_on.set).start()
    assert num_counted(launched) == 1  # of two: what was begun is finished


def test_a_page_reads_once_what_studies_ask_for(launched, monkeypatch):
    asked = []
    monkeypatch.setattr(to_finish, "stored", lambda *words: asked.append(words) or stored(*words))
    assert status.main(["study=ratio@smoke", "db=sqlite:///a.sqlite"]) == OK and len(asked) == 1
    assert status.main(["db=sqlite:///a.sqlite"]) == OK and len(asked) == 2


def test_a_reports_pages_read_the_databases_runs_once(launched, monkeypatch):
    read_runs = []
    monkeypatch.setattr(to_finish, "recorded", lambda *words: read_runs.append(words) or recorded(*words))
    site = Site(launched)
    for _ in range(2):
        frame = load(launched, "ratio@smoke")
        site.study_page(Content(frame, table_of(frame)))
    assert [studies for _, *studies in read_runs] == [[["ratio@smoke"]], [], [["ratio@smoke"]]]


def test_for_a_study_of_which_nothing_is_left_no_other_runs_are_read(launched, monkeypatch):
    for _ in range(4):
        finish_next(launched, {"ridge/digit_top1": 50.0}, cpu_seconds=7200.0)
    read_runs = []
    monkeypatch.setattr(to_finish, "recorded", lambda *words: read_runs.append(words) or recorded(*words))
    assert Site(launched).summary(load(launched, "ratio@smoke")).costs == ()
    assert [studies for _, *studies in read_runs] == [[["ratio@smoke"]]]


def test_where_only_other_seeds_of_ended_configs_are_left_no_other_runs_are_read(launched, monkeypatch):
    for _ in range(3):
        finish_next(launched, {"ridge/digit_top1": 50.0}, cpu_seconds=7200.0)
    read_runs = []
    monkeypatch.setattr(to_finish, "recorded", lambda *words: read_runs.append(words) or recorded(*words))
    (cost,) = Site(launched).summary(load(launched, "ratio@smoke")).costs
    assert cost.cpu_seconds == 7200.0
    assert [studies for _, *studies in read_runs] == [[["ratio@smoke"]]]


def test_another_machine_says_the_same(launched, tmp_path, monkeypatch):
    seconds = seconds_left(launched)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # without what is remembered here
    assert seconds_left(open_database(f"sqlite:///{tmp_path}/a.sqlite", read_only=True)) == seconds
