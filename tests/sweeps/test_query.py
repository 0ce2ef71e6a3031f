import io
import json

import pandas as pd
import pytest
from sqlalchemy import Engine

from sweeps import query, series
from sweeps.cli import OK, USER_ERROR, UserError
from sweeps.db import VERSION_TABLE, Attempt, insert_new
from sweeps.query import ask, hint
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


def test_a_study_is_a_tidy_frame_with_its_options(engine, capsys):
    assert answer(engine, "study=ratio", "format=csv") == OK
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(frame) == 4
    assert frame.loc[frame["state"] == "done", ["mask.ratio", "value"]].to_numpy().tolist() == [[0.5, 61.25]]


def test_parquet_holds_what_csv_holds(engine, tmp_path, capsys):
    answer(engine, "study=all", "format=parquet", f"to={tmp_path}/a.parquet")
    assert "4 rows in" in capsys.readouterr().out
    assert pd.read_parquet(tmp_path / "a.parquet")["value"].dropna().tolist() == [61.25]


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
