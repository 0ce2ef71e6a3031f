import io
import json

import pandas as pd
import pytest
from sqlalchemy import Engine, select

from sweeps import query
from sweeps.answers.sql import ask, hint
from sweeps.console.errors import OK, USER_ERROR, UserError
from sweeps.database import series
from sweeps.database.tables import VERSION_TABLE, Attempt, RunRow, insert_new
from sweeps.engine import queue
from tests.sweeps.launched import finish_next, register, two_rows


@pytest.fixture(autouse=True)
def ratio(engine: Engine) -> None:
    register(engine, two_rows())
    finish_next(engine, {"ridge/digit_top1": 61.25})


def answer(engine: Engine, *words: str) -> int:
    return query.main([*words, f"db={engine.url}"])


def test_sql_is_answered_as_csv(engine, capsys):
    assert answer(engine, "select state, count(*) as n from sw_run group by state order by state", "format=csv") == OK
    assert capsys.readouterr().out == "state,n\ndone,1\nqueued,3\n"


def test_json_keeps_types_and_has_null_for_what_is_missing(engine, capsys):
    answer(engine, "select id, owner, 0.1 as x from sw_run where id = 1", "format=json")
    assert json.loads(capsys.readouterr().out) == [{"id": 1, "owner": None, "x": 0.1}]


def test_csv_quotes_what_would_break_a_line(engine, capsys):
    answer(engine, """select 'a,"b"' || char(10) || 'c' as "x,y" """, "format=csv")
    assert pd.read_csv(io.StringIO(capsys.readouterr().out)).to_dict("list") == {"x,y": ['a,"b"\nc']}


def test_a_table_shows_markup_as_it_is(engine, capsys):
    answer(engine, "select '[red]x[/red]' as value")
    assert "[red]x[/red]" in capsys.readouterr().out


def test_colons_and_percent_signs_are_taken_as_they_stand(engine, capsys):
    answer(engine, "select ':a' as colon, '50%' as percent where 'abc' like '%b%'", "format=csv")
    assert capsys.readouterr().out == "colon,percent\n:a,50%\n"


def test_an_option_in_braces_is_read_from_the_config(engine, capsys):
    answer(engine, "select {mask.ratio} as x from sw_config where {mask.ratio} > 0.6 and '{}' = '{}'", "format=csv")
    assert capsys.readouterr().out == "x\n0.75\n"


@pytest.mark.parametrize("sql", ["delete from sw_run", "update sw_run set state = 'done'", "drop table sw_run"])
def test_a_statement_that_writes_is_refused_and_changes_nothing(engine, capsys, sql):
    assert answer(engine, sql) == USER_ERROR
    assert "read-only, nothing was changed" in capsys.readouterr().err
    answer(engine, "select count(*) as n from sw_run where state = 'queued'", "format=csv")
    assert capsys.readouterr().out == "n\n3\n"


def test_a_wrong_statement_gives_the_database_s_reason(engine, capsys):
    assert answer(engine, "select nonsense from sw_run") == USER_ERROR
    assert "no such column: nonsense" in capsys.readouterr().err


def test_a_study_has_a_row_a_run_with_options_and_metrics_as_columns(engine, capsys):
    assert answer(engine, "study=ratio", "format=csv") == OK
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(frame) == 4 and list(frame)[-3:] == ["ridge/digit_top1", "cpu_seconds", "gpu_seconds"]
    assert frame.loc[frame["state"] == "done", ["mask.ratio", "ridge/digit_top1"]].to_numpy().tolist() == [[0.5, 61.25]]


def test_the_long_form_of_a_study_is_a_row_a_run_and_metric(engine, capsys):
    assert answer(engine, "study=ratio", "form=long", "format=csv") == OK
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(frame) == 4
    assert frame.loc[frame["state"] == "done", ["mask.ratio", "value"]].to_numpy().tolist() == [[0.5, 61.25]]


def test_any_runs_are_asked_by_a_condition_and_shown_by_columns(engine, capsys):
    assert (
        answer(engine, "runs={mask.ratio} < 0.6", "show=run_id,state,mask.ratio,ridge/digit_top1", "format=csv") == OK
    )
    assert capsys.readouterr().out == ("run_id,state,mask.ratio,ridge/digit_top1\n1,done,0.5,61.25\n3,queued,0.5,\n")


def test_what_became_of_a_run_is_shown_where_it_is_named(engine, capsys):
    assert answer(engine, "runs=state = 'done'", "show=run_id,outcome,host", "format=csv") == OK
    assert capsys.readouterr().out == "run_id,outcome,host\n1,done,node1\n"


def test_any_runs_have_a_table_too(engine, capsys):
    assert answer(engine, "runs=all") == OK
    assert "mask.ratio" in capsys.readouterr().out


def test_parquet_holds_what_csv_holds(engine, tmp_path, capsys):
    answer(engine, "study=all", "format=parquet", f"to={tmp_path}/a.parquet")
    assert "4 rows in" in capsys.readouterr().out
    assert pd.read_parquet(tmp_path / "a.parquet")["ridge/digit_top1"].dropna().tolist() == [61.25]


def test_a_run_s_curve_is_one_line_over_all_its_attempts(engine, capsys):
    with engine.begin() as connection:
        insert_new(connection, Attempt, [{"run_id": 1, "n": 2, "started": 0.0, "resume_step": 2}])
        first = series.chunk_row(1, 1, 0, "loss", [0, 1, 2], [0.5, 0.25, 9.0])
        series.write(connection, [first, series.chunk_row(1, 2, 0, "loss", [2, 3], [0.125, 0.0625])])
    assert answer(engine, "run=1", "series=loss", "format=csv") == OK
    assert capsys.readouterr().out == "metric,step,value\nloss,0,0.5\nloss,1,0.25\nloss,2,0.125\nloss,3,0.0625\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "ask one question"),
        (["select 1", "study=ratio"], "ask one question"),
        (["study=ration"], "the database has no such study"),
        (["run=1"], "run= and series= go together"),
        (["series=loss", "study=ratio"], "run= and series= go together"),
        (["run=1", "series=loss"], "series=loss: run 1 has no such series; it has: none"),
        (["run=99", "series=loss"], "run=99: the database has no such run"),
        (["select 1", "form=long"], "form= goes with study= and runs="),
        (["runs=stat = 'done'"], "did you mean state"),
        (["runs=all", "show=run_id,mask.ratoi"], "show: this answer has no column mask.ratoi (did you mean mask.ratio"),
        (["cells=nonsense = 1"], "no such column: nonsense"),
        (["differences=1"], "two or more different runs"),
        (["differences=1,99"], "the database has no such run: 99"),
        (["data=99"], "data=99: the database has no such run: 99"),
        (["data=none"], "data must be ids of different runs"),
        (["costs=papers"], "costs must be by one of paper, study, method, got 'papers' (did you mean paper?)"),
        (["select 1", "format=xml"], "format must be one of table, csv, json, parquet"),
        (["select 1", "format=parquet"], "give to=FILE"),
        (["select 1", "format=csv", "to=/dev/null/a.csv"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(engine, capsys, words, message):
    assert answer(engine, *words) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_database_of_a_newer_schema_is_not_misread(engine, capsys):
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    assert answer(engine, "select 1 as x") == USER_ERROR
    assert "schema '9999' is newer than this program's" in capsys.readouterr().err


def test_a_study_on_the_screen_leaves_out_what_is_the_same_in_every_row(engine, capsys):
    answer(engine, "study=ratio")
    out = capsys.readouterr().out
    assert "mask.ratio" in out and "optim.batch_size" not in out
    assert "not shown" in out


@pytest.mark.parametrize(
    ("sql", "near"),
    [
        ("select * from sw_runs", "did you mean sw_run"),
        ("select stat from sw_run", "did you mean state"),
        ("select r.stat from sw_run r", "did you mean state"),
        ("select config_id from ab_results", "it is a column of "),
        (
            "select {mask.ratio} from ab_runs",
            "{mask.ratio} is an option of sw_config, which this",
        ),
        ("select nothing_like_it from sw_run", "cannot run it: "),
    ],
)
def test_a_misspelt_table_or_column_is_answered_with_the_nearest(engine, sql, near):
    with pytest.raises(UserError, match=near):
        ask(engine, sql)


def test_the_hint_reads_what_either_database_says():
    assert "sw_run" in hint('relation "sw_runs" does not exist LINE 1: select')
    assert "state" in hint("column r.stat does not exist") and "state" in hint("no such column: r.stat")
    assert hint("syntax error at or near x") == ""


def test_all_misspelt_options_are_named_at_once(engine):
    with pytest.raises(UserError, match=r"(?s){mask.ratoi}: .*mask.ratio\?.*\n{optim.stepps}: .*optim.steps"):
        ask(engine, "select {optim.stepps}, {mask.ratoi} from sw_config")


def test_two_runs_curves_stand_side_by_side(engine, capsys):
    with engine.begin() as connection:
        series.write(connection, [series.chunk_row(1, 1, 0, "loss", [0, 1], [0.5, 0.25])])
        series.write(connection, [series.chunk_row(2, 1, 0, "loss", [1], [0.125])])
    assert answer(engine, "run=1,2", "series=loss", "format=csv") == OK
    assert capsys.readouterr().out == "metric,step,run_1,run_2\nloss,0,0.5,\nloss,1,0.25,0.125\n"


@pytest.mark.parametrize("typed", ["0", "1,1", "1,x", "1,", "1;2"])
def test_runs_that_are_no_ids_are_refused(engine, capsys, typed):
    assert answer(engine, f"run={typed}", "series=loss") == USER_ERROR
    assert "run must be ids of different runs" in capsys.readouterr().err


def test_the_best_cell_is_a_row_a_study(engine, capsys):
    finish_next(engine, {"ridge/digit_top1": 62.75})
    finish_next(engine, {"ridge/digit_top1": 70.0})
    assert answer(engine, "best=ridge/digit_top1", "format=csv") == OK
    assert capsys.readouterr().out == "study,row_key,col_key,mean,seeds\nratio,a,,65.625,2\n"


@pytest.fixture
def shared(engine: Engine) -> None:
    """Another study asks for the same configs on seed 7 too."""
    register(engine, two_rows("again", seeds=[0, 1, 7]))
    while finish(engine) is not None:
        pass


def finish(engine: Engine) -> int | None:
    """End the next run with its seed as its result."""
    with engine.begin() as connection:
        claim = queue.claim(connection, "worker 1")
        if claim is not None:
            seed = connection.scalar(select(RunRow.seed).where(RunRow.id == claim.run_id))
            queue.finish(connection, claim, "done", results={"ridge/digit_top1": 50.0 + seed})
    return claim and claim.run_id


def test_the_best_of_a_study_is_over_its_own_seeds(engine, shared, capsys):
    assert answer(engine, "best=ridge/digit_top1", "format=json") == OK
    seeds = {row["study"]: row["seeds"] for row in json.loads(capsys.readouterr().out)}
    assert seeds == {"ratio": len(two_rows().study.seeds("cpu")), "again": 3} and seeds["ratio"] != 3


def test_a_study_has_its_own_seeds_of_a_config_that_it_shares(engine, shared):
    assert 7 not in set(query.tidy(engine, "ratio")["seed"]) and 7 in set(query.tidy(engine, "again")["seed"])


def test_a_best_of_an_unknown_metric_is_answered_with_the_nearest(engine, capsys):
    assert answer(engine, "best=ridge/digit_top") == USER_ERROR
    assert "did you mean ridge/digit_top1" in capsys.readouterr().err


def test_an_answer_of_no_rows_has_the_columns_that_are_asked_for():
    asked = ["run_id", "mask.ratio"]
    assert list(query.chosen(pd.DataFrame(columns=["run_id", "seed"]), asked)) == asked
    with pytest.raises(UserError, match=r"this answer has no column mask\.ratio"):
        query.chosen(pd.DataFrame({"run_id": [1]}), asked)
