import shutil
from pathlib import Path

import optuna
import pytest
from sqlalchemy import Engine, select

from analysis.numbers.frame import load
from analysis.tables.building import build
from sweeps import importing, query
from sweeps.console.errors import OK, USER_ERROR
from sweeps.database import registering, series
from sweeps.database.import_sources import hydra_multirun, read_metrics
from sweeps.database.tables import Attempt, Base, CellRow, Config, Result, RunRow, StudyRow

MAE = ["method=mae", "scale=smoke"]
MAP = "map={lr: optim.lr_peak, dropout: imported.dropout}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three complete trials (two with equal options), a pruned, a failed and a waiting one."""
    path = tmp_path_factory.mktemp("optuna") / "old.sqlite"
    url = f"sqlite:///{path}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=url, study_name="lr", direction="maximize")
    space = {
        "lr": optuna.distributions.FloatDistribution(1e-5, 1.0),
        "dropout": optuna.distributions.CategoricalDistribution([0.0, 0.1]),
    }
    for lr, dropout, value in ((0.01, 0.0, 71.5), (0.001, 0.1, 70.25), (0.01, 0.0, 72.5)):
        trial = optuna.create_trial(
            params={"lr": lr, "dropout": dropout},
            distributions=space,
            value=value,
            intermediate_values={1: 50, 2: value},
        )
        study.add_trial(trial)
    for state in (optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL):
        params = {"lr": 0.5, "dropout": 0.0}
        study.add_trial(
            optuna.create_trial(state=state, params=params, distributions=space, intermediate_values={1: 9.0})
        )
    study.enqueue_trial({"lr": 0.1})
    return path


@pytest.fixture
def old(made: Path, tmp_path: Path) -> str:
    shutil.copy(made, tmp_path / "old.sqlite")
    return f"sqlite:///{tmp_path / 'old.sqlite'}"


def bring(engine: Engine, *words: str) -> int:
    return importing.main([*words, f"db={engine.url}"])


def rows(engine: Engine, *columns: object) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(columns[0]))]


def everything(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {t.name: [tuple(r) for r in connection.execute(select(t))] for t in Base.metadata.sorted_tables}


def job(folder: Path, overrides: list[str], metrics: str = '{"acc": 0.5}', name: str = "result.json") -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in overrides))
    (folder / name).write_text(metrics)


# ---- Optuna


def test_trials_become_imported_runs_with_results_curves_and_our_options(engine, old, capsys):
    assert bring(engine, f"optuna={old}", "study_name=lr", MAP, "metric_map={value: ridge/digit_top1}", *MAE) == OK
    assert capsys.readouterr().out == (
        "lr: 4 runs imported, 0 there already\nleft out: trial 5 (waiting), trial 4 (failed)\n"
    )
    with engine.connect() as connection:
        found = connection.execute(
            select(RunRow.seed, RunRow.state, Attempt.outcome, Result.value, Config.json)
            .join(Attempt, Attempt.run_id == RunRow.id)
            .join(Config, Config.id == RunRow.config_id)
            .outerjoin(Result, Result.run_id == RunRow.id)
            .order_by(RunRow.id)
        ).all()
        curve = series.read(connection, 1, "ridge/digit_top1")
    assert [tuple(row[:4]) for row in found] == [
        (0, "done", "imported", 71.5),
        (0, "done", "imported", 70.25),
        (1, "done", "imported", 72.5),
        (0, "pruned", "imported", None),
    ]
    assert {key: found[1].json[key] for key in ("optim.lr_peak", "imported.dropout", "mask", "imported.from")} == {
        "optim.lr_peak": 0.001, "imported.dropout": 0.1, "mask": "random", "imported.from": "optuna lr",
    }  # fmt: skip
    assert (curve.steps.tolist(), curve.values.tolist()) == ([1, 2], [50.0, 71.5])


def test_importing_twice_changes_nothing(engine, old, capsys):
    words = (f"optuna={old}", "study_name=lr", MAP, *MAE)
    bring(engine, *words)
    before = everything(engine)
    assert bring(engine, *words) == OK
    assert everything(engine) == before
    assert "0 runs imported, 4 there already" in capsys.readouterr().out


def test_a_trial_that_came_later_is_added(engine, old, capsys):
    words = (f"optuna={old}", "study_name=lr", MAP, *MAE)
    bring(engine, *words)
    study = optuna.load_study(study_name="lr", storage=old)
    study.add_trial(
        optuna.create_trial(
            params={"lr": 0.3, "dropout": 0.1}, value=1.0,
            distributions={
                "lr": optuna.distributions.FloatDistribution(1e-5, 1.0),
                "dropout": optuna.distributions.CategoricalDistribution([0.0, 0.1]),
            },
        )
    )  # fmt: skip
    bring(engine, *words)
    assert "1 run imported, 4 there already" in capsys.readouterr().out
    assert len(rows(engine, CellRow.row_key)) == 4


def test_an_imported_number_never_fills_a_cell_of_ours(engine, tmp_path):
    job(tmp_path / "runs" / "0", ["mask.ratio=0.5", "seed=0"])
    bring(engine, f"multirun={tmp_path / 'runs'}", "metrics=result.json", *MAE)
    (config,) = rows(engine, Config.json)[0]
    ours = {key: value for key, value in config.items() if not key.startswith("imported.")}
    with engine.begin() as connection:
        run_id = registering.register(connection, [(ours, 0)])[0]
    assert rows(engine, RunRow.id, RunRow.state) == [(1, "done"), (run_id, "queued")]


def test_the_source_is_only_read(engine, old):
    path = Path(old.removeprefix("sqlite:///"))
    before = path.read_bytes()
    bring(engine, f"optuna={old}", "study_name=lr", MAP, *MAE)
    assert path.read_bytes() == before


def test_an_imported_study_has_a_table_and_a_tidy_frame(engine, old):
    bring(engine, f"optuna={old}", "study_name=lr", MAP, *MAE)
    assert len(build(load(engine, "lr")).rows) == 3
    frame = query.tidy(engine, "lr")
    assert sorted(frame["value"].dropna()) == [70.25, 71.5, 72.5]


# ---- Hydra


def test_jobs_become_runs_with_their_own_seed(engine, tmp_path, capsys):
    for i, ratio in enumerate((0.5, 0.9)):
        job(
            tmp_path / "old" / str(i),
            [f"mask.ratio={ratio}", "+seed=3"],
            f'{{"test": {{"top1": {60 + i}}}, "by": "me"}}',
        )
    (tmp_path / "old" / "2" / ".hydra").mkdir(parents=True)
    assert bring(engine, f"multirun={tmp_path / 'old'}", "metrics=result.json", *MAE) == OK
    assert capsys.readouterr().out == "old: 2 runs imported, 0 there already\nleft out: job 2 (no result.json)\n"
    assert rows(engine, Result.metric, Result.value) == [("test/top1", 60.0), ("test/top1", 61.0)]
    assert rows(engine, RunRow.seed) == [(3,), (3,)]
    assert rows(engine, StudyRow.name, StudyRow.source) == [("old", "imported from hydra old")]
    assert rows(engine, Attempt.facts)[0][0]["not numbers"] == "by"


def test_a_job_without_overrides_gives_its_whole_config(engine, tmp_path):
    job(tmp_path / "old" / "0", [])
    (tmp_path / "old" / "0" / ".hydra" / "config.yaml").write_text("mask: {ratio: 0.25}\nlr: 0.5\n")
    bring(engine, f"multirun={tmp_path / 'old'}", "metrics=result.json", "map={lr: optim.lr_peak}", *MAE)
    config = rows(engine, Config.json)[0][0]
    assert (config["mask.ratio"], config["optim.lr_peak"]) == (0.25, 0.5)


def test_jobs_are_in_the_order_of_their_numbers(tmp_path):
    for i in (10, 9, 1):
        job(tmp_path / "old" / str(i), [])
        (tmp_path / "old" / str(i) / ".hydra" / "config.yaml").write_text("lr: 1")
    assert [item.key for item in hydra_multirun(tmp_path / "old", "result.json").items] == ["1", "9", "10"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "epoch,loss,acc\n1,0.5,\n2,0.25,70\n"),
        ("m.json", '[{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "acc": 70}]'),
        ("m.jsonl", '{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": 0.25, "acc": 70}\n'),
    ],
)
def test_rows_of_a_metrics_file_are_curves_and_the_last_value_is_the_result(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    results, curves, ignored = read_metrics(tmp_path / name)
    assert results == {"loss": 0.25, "acc": 70.0}
    assert curves == {"loss": [(1, 0.5), (2, 0.25)], "acc": [(2, 70.0)]}
    assert not ignored


def test_a_result_that_is_not_finite_has_no_value(engine, tmp_path):
    job(tmp_path / "old" / "0", ["seed=0"], '{"acc": NaN}')
    bring(engine, f"multirun={tmp_path / 'old'}", "metrics=result.json", *MAE)
    assert rows(engine, Result.metric, Result.value) == [("acc", None)]


def test_yaml_is_read_as_data_and_runs_nothing(engine, tmp_path, capsys):
    job(tmp_path / "old" / "0", [])
    bad = f"lr: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'hit'}]"
    (tmp_path / "old" / "0" / ".hydra" / "config.yaml").write_text(bad)
    assert bring(engine, f"multirun={tmp_path / 'old'}", "metrics=result.json", *MAE) == USER_ERROR
    assert "cannot be read as YAML" in capsys.readouterr().err
    assert not (tmp_path / "hit").exists()


# ---- mistakes


def test_all_unknown_options_are_named_at_once_with_what_to_write(engine, old, capsys):
    assert bring(engine, f"optuna={old}", "study_name=lr", *MAE) == USER_ERROR
    error = capsys.readouterr().err
    assert "not an option here: dropout, lr; say what it is called" in error
    assert "map={dropout: imported.dropout, lr: imported.lr}" in error
    assert rows(engine, RunRow.id) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what to import"),
        (["optuna=sqlite:///none.sqlite", "study_name=lr"], "there is no such file"),
        (["optuna=OLD"], "study_name is missing"),
        (["optuna=OLD", "study_name=lrr"], "has no such Optuna study (did you mean lr?); it has: lr"),
        (["optuna=OLD", "study_name=lr", "map={lrr: optim.lr_peak}"], "map: they have no lrr (did you mean lr?)"),
        (["optuna=OLD", "study_name=lr", "map=lr"], "map must be of the form {theirs: ours, ...}, got 'lr'"),
        (["optuna=OLD", "study_name=lr", "metric_map={acc: x}"], "metric_map: they have no acc"),
        (["optuna=OLD", "study_name=lr", MAP], "method is missing"),
        (["optuna=OLD", "study_name=lr", "map={lr: mask.ratio, dropout: mask.ratio}", *MAE], "would be mask.ratio"),
        (["optuna=OLD", "study_name=lr", "map={lr: mask.ratioo, dropout: imported.dropout}", *MAE], "did you mean"),
        (["optuna=OURS", "study_name=lr", *MAE], "not a database of this Optuna"),
        (["multirun=/no/such", "metrics=a.json", *MAE], "there is no such folder"),
        (["multirun=FOLDER", "metrics=a.json", *MAE], "no job in it"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(engine, old, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    for stands, value in (("OLD", old), ("OURS", str(engine.url)), ("FOLDER", str(tmp_path / "empty"))):
        words = [word.replace(f"={stands}", f"={value}") for word in words]
    assert bring(engine, *words) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert rows(engine, RunRow.id) == []


@pytest.mark.parametrize(
    ("overrides", "metrics", "message"),
    [
        (["mask.ratio=2"], '{"a": 1}', "hydra old, 0: mask.ratio must be in (0, 1), got 2"),
        (["mask.ratio=${oc.env:HOME}"], '{"a": 1}', "a reference, not a value"),
        (["seed=-1"], '{"a": 1}', "seed must be a whole number"),
        (["seed=1"], "{", "result.json: cannot be read"),
        (["seed=1"], '{"by": "me"}', "no numbers in it; it has: by"),
        (["seed=1"], "7", "no metrics in it"),
    ],
)
def test_a_bad_job_stops_the_import_before_anything_is_written(engine, tmp_path, capsys, overrides, metrics, message):
    job(tmp_path / "old" / "0", overrides, metrics)
    assert bring(engine, f"multirun={tmp_path / 'old'}", "metrics=result.json", *MAE) == USER_ERROR
    assert message in capsys.readouterr().err
    assert rows(engine, RunRow.id) == rows(engine, StudyRow.id) == []


def test_two_jobs_with_the_same_options_and_seed_are_refused(engine, tmp_path, capsys):
    for i in range(2):
        job(tmp_path / "old" / str(i), ["mask.ratio=0.5", "seed=0"])
    assert bring(engine, f"multirun={tmp_path / 'old'}", "metrics=result.json", *MAE) == USER_ERROR
    assert "hydra old, 1: another one has the same options and seed=0" in capsys.readouterr().err
    assert rows(engine, RunRow.id) == []


def test_a_name_that_another_study_has_is_refused(engine, old, tmp_path, capsys):
    bring(engine, f"optuna={old}", "study_name=lr", MAP, *MAE)
    job(tmp_path / "lr" / "0", ["seed=0"])
    assert bring(engine, f"multirun={tmp_path / 'lr'}", "metrics=result.json", *MAE) == USER_ERROR
    assert "name=lr: the database has another study of that name (imported from optuna lr)" in capsys.readouterr().err
    assert bring(engine, f"multirun={tmp_path / 'lr'}", "metrics=result.json", "name=lr-hydra", *MAE) == OK


def test_a_password_is_not_printed(engine, capsys):
    bring(engine, "optuna=postgresql://me:secret@127.0.0.1:1/x", "study_name=lr", *MAE)
    assert "secret" not in capsys.readouterr().err
