import io

import pytest
from alembic import command
from rich.console import Console
from sqlalchemy import Engine, select, update

from sweeps import status
from sweeps.console.errors import USER_ERROR
from sweeps.database import series
from sweeps.database.opening import migrations, revision
from sweeps.database.tables import Attempt, Environment, RunRow, insert_new
from sweeps.engine import queue
from sweeps.engine.queue import Usage
from sweeps.progress import ending, live, study_status
from tests.sweeps.launched import finish_next, register, two_rows


def read(engine: Engine, name: str = "ratio") -> study_status.StudyStatus:
    with engine.connect() as connection:
        return study_status.read(connection, name)


def text(page: object) -> str:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(page)
    return console.export_text()


def test_every_run_a_study_wants_is_counted_once_in_its_state(engine):
    register(engine, two_rows())
    finish_next(engine, {})
    finish_next(engine, {}, outcome="diverged")
    assert dict(read(engine).counts()) == {"done": 1, "diverged": 1, "queued": 2}


def test_a_run_that_two_cells_share_is_one(engine):
    row = {"key": "b", "set": {"mask.ratio": 0.5}}
    register(engine, two_rows(rows=[{"key": "a", "set": {"mask.ratio": 0.5}}, row]))
    assert (read(engine).num_cells, len(read(engine).runs)) == (2, 2)


def test_a_running_run_shows_step_speed_loss_and_time_left(engine):
    register(engine, two_rows())
    with engine.begin() as connection:
        claim = queue.claim(connection, "worker 1")
        queue.hold(connection, claim, Usage(step=50, loss=0.25))
        started = connection.scalar(select(Attempt.started))
        connection.execute(update(Attempt).values(heartbeat=started + 10, resume_step=0))
    run = read(engine).of("running")[0]
    assert (run.step, run.num_steps, run.label) == (50, 100, "half, seed 0")
    assert (run.speed, run.seconds_left, run.loss) == (pytest.approx(5.0), pytest.approx(10.0), 0.25)
    assert "half, seed 0: loss 0.25 at step 50 of 100;" in live.line(read(engine))


def test_a_run_that_looks_collapsed_is_named_while_it_is_trained(engine):
    register(engine, two_rows())

    def logged(number: int, step: int, **values: float) -> None:
        with engine.begin() as connection:
            rows = [
                series.chunk_row(claim.run_id, 1, number, f"monitor/{name}", [step], [value])
                for name, value in values.items()
            ]
            series.write(connection, rows)

    with engine.begin() as connection:
        claim = queue.claim(connection, "worker 1")
        queue.hold(connection, claim, Usage(step=45, loss=0.25))
    logged(0, 20, rankme=5.0, feature_std=0.5)
    assert not any(run.collapse for run in read(engine).runs)
    logged(1, 40, rankme=1.02, feature_std=0.003, collapsed=1.0)
    said = "looks collapsed: feature std 0.003, RankMe 1.02 at step 40"
    assert [run.collapse for run in read(engine).of("running")] == [said]
    assert f"loss 0.25 at step 45 of 100, {said}" in live.line(read(engine))
    assert said in text(status.page(engine, "ratio", None))
    logged(2, 60, rankme=4.0, feature_std=0.4)
    assert not any(run.collapse for run in read(engine).runs)


def test_the_time_left_of_a_study_counts_what_waits(engine):
    register(engine, two_rows())
    with engine.begin() as connection:
        queue.hold(connection, queue.claim(connection, "worker 1"), Usage(step=50))
        started = connection.scalar(select(Attempt.started))
        connection.execute(update(Attempt).values(heartbeat=started + 10, resume_step=0))
    assert read(engine).seconds_left == pytest.approx((50 + 3 * 100) / 5.0)


def test_a_run_that_nobody_registered_is_missing(engine):
    register(engine, two_rows())
    with engine.begin() as connection:
        connection.execute(RunRow.__table__.delete().where(RunRow.seed == 1))
    assert dict(read(engine).counts()) == {"queued": 2, "missing": 2}


def test_a_collapsed_run_is_marked_and_its_page_says_the_numbers(engine):
    register(engine, two_rows())
    said = "collapsed: features are nearly the same for every clip (RankMe 1.1, untrained 1.6)"
    spread = {"rankme": 1.1, "std": 0.01, "rankme_untrained": 1.6, "std_untrained": 0.04}
    with engine.begin() as connection:
        claim = queue.claim(connection, "w")
        queue.finish(connection, claim, "done", facts={"collapse": {**spread, "state": "collapsed", "said": said}})
        healthy = queue.claim(connection, "w")
        queue.finish(connection, healthy, "done", facts={"collapse": {**spread, "state": "", "said": ""}})
    assert sorted(run.collapse for run in read(engine).of("done")) == ["", said]
    assert said in text(status.details(read(engine))) and "2 †" in text(status.overview([read(engine)]))
    with engine.connect() as connection:
        assert "RankMe 1.1, untrained 1.6" in text(status.run_page(connection, claim.run_id))
        assert "none (RankMe 1.1, untrained 1.6; std 0.01" in text(status.run_page(connection, healthy.run_id))


def test_a_launch_ends_with_a_line_for_each_run_that_collapsed_before_its_end(engine, capsys):
    register(engine, two_rows(seeds=[0]))
    with engine.begin() as connection:
        for state, said in (
            ("collapsed", "collapsed: all the same"),
            ("done", "collapsed: a note of the table has it"),
        ):
            queue.finish(connection, queue.claim(connection, "w"), state, facts={"collapse": {"said": said}})
    assert ending.verdict(read(engine), ["study=ratio"]) == 0
    assert capsys.readouterr().err == "half, seed 0: collapsed: all the same\n"


def test_a_failed_run_shows_its_error(engine):
    register(engine, two_rows())
    with engine.begin() as connection:
        queue.fail(connection, queue.claim(connection, "w"), "ValueError: [bold]no[/bold]", is_final=True)
    assert "ValueError: [bold]no[/bold]" in text(status.details(read(engine)))


def test_a_run_s_page_shows_where_each_attempt_ran_and_what_it_gave(engine):
    register(engine, two_rows())
    run_id = finish_next(engine, {"ridge/digit_top1": 61.25}, cpu_seconds=65.0, peak_memory=2**30)
    with engine.connect() as connection:
        page = text(status.run_page(connection, run_id))
    for part in ("node1", "abc123 with local changes", "61.25", "1 min 05 s CPU", "1.00 GiB", "mask.ratio", "ratio: "):
        assert part in page


def test_files_that_a_run_left_out_are_on_its_page_one_a_line(engine):
    register(engine, two_rows())
    with engine.begin() as connection:
        claim = queue.claim(connection, "worker 1")
        facts = {"num_excluded_train": 2, "excluded_train": ["a.mp4: truncated: 3 of 9 bytes", "b.mp4: empty"]}
        queue.finish(connection, claim, "done", results={}, step=100, facts=facts)
    with engine.connect() as connection:
        lines = text(status.run_page(connection, claim.run_id)).splitlines()
    (first,) = [number for number, line in enumerate(lines) if "excluded_train" in line and "a.mp4" in line]
    assert "truncated: 3 of 9 bytes" in lines[first] and "b.mp4: empty" in lines[first + 1]


def test_a_run_s_page_shows_its_whole_provenance(engine):
    register(engine, two_rows())
    packages = {"torch": "2.11.0", "timm": "1.0.22", "numpy": "2.1.0", "python": "3.11.9", "rich": "13.0"}
    where = {"host": "node1", "slurm_job": "77_3", "device": "H200", "git_sha": "abc", "dirty": False, "env_hash": "e1"}
    with engine.begin() as connection:
        insert_new(connection, Environment, [{"hash": "e1", "packages": packages}])
        claim = queue.claim(connection, "worker 1", provenance=where)
        queue.checkpointed(connection, claim, 100, "runs/1/checkpoint-100.pt")
        usage = Usage(step=100, cpu_seconds=65, gpu_seconds=7300, peak_memory=2**30, peak_gpu_memory=3 * 2**29)
        queue.finish(connection, claim, "done", usage=usage)
    with engine.connect() as connection:
        page = text(status.run_page(connection, claim.run_id))
    for part in (
        "77_3", "H200", "abc clean", "python 3.11.9, torch 2.11.0, timm 1.0.22, numpy 2.1.0", "2 h 01 min GPU",
        "1.00 GiB, 1.50 GiB on the GPU", "runs/1/checkpoint-100.pt (step 100)",
    ):  # fmt: skip
        assert part in page


def test_a_run_s_page_shows_which_options_differ_from_the_baseline(engine):
    registered = register(engine, two_rows(baseline="b"))
    with engine.connect() as connection:
        page = text(status.run_page(connection, registered.run_ids[0]))
    found = page[page.index("Other than the baseline of ratio") : page.index("Options")]
    assert [line.split("│")[1:4] for line in found.splitlines() if "mask.ratio" in line] == [
        [" mask.ratio ", " 0.5      ", " 0.75     "]
    ]
    assert "optim.steps" not in found


def test_the_baseline_itself_differs_in_nothing(engine):
    registered = register(engine, two_rows(baseline="a"))
    with engine.connect() as connection:
        assert "Other than" not in text(status.run_page(connection, registered.run_ids[0]))


def test_what_went_wrong_is_shown_before_what_waits_however_much_that_is(engine):
    register(engine, two_rows(seeds=[0, 1, 2, 3]))
    finish_next(engine, {})
    finish_next(engine, {}, outcome="diverged")
    page = text(status.details(read(engine), max_waiting=2))
    words = ("diverged", "queued", "and 4 more that wait")
    found = [page.index(word, page.index("Not done")) for word in words]
    assert found == sorted(found)
    assert page.count("half, seed") + page.count("b, seed") == 3


def test_a_header_is_whole_on_a_terminal_of_80_columns(engine):
    register(engine, two_rows("ijepa_masking_strategy"))
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(status.overview([read(engine, "ijepa_masking_strategy")]))
    page = console.export_text()
    assert "…" not in page
    for header in ("cells", "runs", "done", "running", "queued", "failed", "time left"):
        assert header in page


def test_the_overview_has_a_line_a_study(engine):
    register(engine, two_rows())
    register(engine, two_rows("other"))
    page = text(status.page(engine, None, None))
    assert "ratio" in page
    assert "other" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study=ration"], "no such study (did you mean ratio?); it has: ratio"),
        (["run=99"], "run=99: the database has no such run"),
        (["run=one"], "run must be a whole number"),
        (["stduy=ratio"], "stduy: unknown option (did you mean study?)"),
        (["ratio"], "'ratio' is not of the form key=value"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(engine, capsys, words, message):
    register(engine, two_rows())
    assert status.main([*words, f"db={engine.url}"]) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_database_of_an_older_schema_is_read_and_left_as_it_is(engine, url, capsys):
    with engine.begin() as connection:
        command.downgrade(migrations(connection), "0003")
    assert status.main([f"db={url}"]) == 0
    assert status.main([f"db={url}", "watch=true"]) == 2
    assert "of an older schema; launch a study with it first" in capsys.readouterr().err
    assert revision(engine) == "0003"


def test_a_missing_database_is_not_made(tmp_path, capsys):
    assert status.main([f"db=sqlite:///{tmp_path}/none.sqlite"]) == USER_ERROR
    assert "there is no such file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("seconds", "shown"), [(None, "–"), (41.6, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_a_duration_is_shown_as_people_say_it(seconds, shown):
    assert status.duration(seconds) == shown


def test_a_run_that_was_stopped_as_collapsed_is_an_outcome_and_says_why(engine, capsys):
    register(engine, two_rows())
    told = {"state": "collapsed", "said": "stopped at step 40: collapse/rankme is below 1.2", "rankme": 1.1}
    with engine.begin() as connection:
        queue.finish(
            connection, queue.claim(connection, "w"), "collapsed", facts={"collapse": told}, usage=Usage(step=40)
        )
    for _ in range(3):
        finish_next(engine, {})
    assert ending.verdict(read(engine), ["study=ratio"]) == 0
    assert "stopped at step 40: collapse/rankme is below 1.2" in capsys.readouterr().err
    assert [run.step for run in read(engine).of("collapsed")] == [40]
