from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine, event, text

from analysis.numbers.frame import _digest, load, names
from sweeps.database.opening import open_database
from tests.analysis.conftest import GRID, MAIN, ROWS, Laboratory, grid_value


def test_every_cell_seed_and_metric_is_one_row(engine: Engine) -> None:
    frame = load(engine, "masking_ratio")
    keys = ["row_key", "col_key", "seed", "metric"]
    assert len(frame.rows) == (3 + 1) * 2 * 3 * 2
    assert not frame.rows.duplicated(keys).any()
    assert set(frame.rows["state"]) == {"done"}


def test_values_are_those_recorded(engine: Engine) -> None:
    tidy = load(engine, "masking_ratio").tidy()
    trained = tidy[(tidy["metric"] == MAIN) & ~tidy["is_random_init"]]
    expected = [grid_value(r, s, seed) for r, s, seed in trained[["mask.ratio", "optim.steps", "seed"]].to_numpy()]
    assert trained["value"].tolist() == pytest.approx(expected)


def test_means_over_seeds_equal_pandas_on_the_plain_sql(engine: Engine) -> None:
    frame = load(engine, "masking_ratio")
    query = """select c.row_key, c.col_key, avg(x.value) as value from sw_cell c join sw_study s on s.id = c.study_id
        join sw_run r on r.config_id = c.config_id join sw_result x on x.run_id = r.id
        where s.name = 'masking_ratio' and x.metric = 'ridge/digit_top1' group by c.row_key, c.col_key"""
    with engine.connect() as connection:
        expected = pd.read_sql(text(query), connection).set_index(["row_key", "col_key"])["value"].to_dict()
    assert frame.runs.groupby(["row_key", "col_key"])["value"].mean().to_dict() == pytest.approx(expected)


def test_rows_come_in_the_studys_order_with_its_labels(engine: Engine) -> None:
    cells = load(engine, "ijepa_masking").cells
    assert cells["row_label"].tolist() == ["multi-block", "block (0.6)", "random (0.6)", "random init"]


def test_runs_without_a_number_are_rows_with_their_state(engine: Engine) -> None:
    runs = load(engine, "ijepa_masking").runs.set_index(["row_key", "seed"])
    assert runs.loc["block", "state"].tolist() == ["done", "diverged", "missing"]
    assert runs.loc["random", "state"].tolist() == ["failed"] * 3
    assert runs.loc["block", "value"].isna().tolist() == [False, True, True]  # diverged although it logged 11.0


def test_config_keys_are_columns(engine: Engine) -> None:
    tidy = load(engine, "ijepa_masking").tidy()
    assert set(tidy.loc[tidy["row_key"] == "block", "mask"]) == {"block"}
    assert set(tidy.loc[tidy["is_random_init"], "optim.steps"]) == {0}


def test_cells_that_share_a_config_share_its_runs(engine: Engine) -> None:
    runs = load(engine, "masking_ratio").runs
    shared = runs[runs["is_random_init"]]
    assert shared["col_key"].nunique() == 2 and shared["run_id"].nunique() == 3


def test_a_seed_the_study_does_not_ask_for_is_not_read(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    laboratory.run("rows", "block", 7, {MAIN: 1.0})
    assert set(load(laboratory.engine, "rows").rows["state"]) == {"missing"}


def test_runs_of_an_older_code_epoch_stop_counting_once_there_are_newer_ones(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    laboratory.run("rows", "block", 0, {MAIN: 1.0}, code_epoch=1)
    assert load(laboratory.engine, "rows").runs["value"].count() == 1
    laboratory.run("rows", "multiblock", 0, {MAIN: 2.0}, code_epoch=2)
    assert load(laboratory.engine, "rows").runs["value"].dropna().tolist() == [2.0]


def test_a_studys_scale_decides_its_seeds_and_metrics(laboratory: Laboratory) -> None:
    laboratory.study(
        "rows@smoke", {**ROWS, "scales": {"smoke": {"seeds": [5], "metrics": ["knn/digit_top1"]}}}, "smoke"
    )
    frame = load(laboratory.engine, "rows@smoke")
    assert (frame.scale, frame.seeds, frame.metrics) == ("smoke", [5], ["knn/digit_top1"])
    assert set(frame.rows["scale"]) == {"smoke"}


def test_the_number_of_queries_does_not_grow_with_the_study(engine: Engine) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    load(engine, "masking_ratio")
    assert sum(statement.startswith("SELECT") for statement in statements) == 4


def test_the_digest_is_of_the_content_and_not_of_the_file(filled: Path, tmp_path: Path, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("select 1")
    copied = tmp_path / "copy.sqlite"
    shutil.copy(filled, copied)
    copy = open_database(f"sqlite:///{copied}")
    digest = load(engine, "masking_ratio").digest
    assert load(copy, "masking_ratio").digest == digest
    other = Laboratory(copy)
    other.study("another", ROWS)
    assert load(copy, "masking_ratio").digest == digest  # a study added beside it
    with copy.begin() as connection:
        connection.execute(text("update sw_result set value = value + 1e-9 where run_id = 1"))
    assert load(copy, "masking_ratio").digest != digest


def test_another_look_of_a_figure_is_no_other_digest(laboratory: Laboratory) -> None:
    laboratory.study("one", ROWS)
    laboratory.study("other", {**ROWS, "figures": [{**ROWS["figures"][0], "kind": "point"}]})
    laboratory.study("asked", {**ROWS, "title": "Mask"})
    one, other, asked = (load(laboratory.engine, name) for name in ("one", "other", "asked"))
    digests = [_digest(frame.study.spec, frame.rows.assign(study=""), frame.configs) for frame in (one, other, asked)]
    assert digests[0] == digests[1] != digests[2]


def test_a_study_the_database_does_not_have_is_an_error_naming_those_it_has(engine: Engine) -> None:
    assert names(engine) == ["ijepa_masking", "masking_ratio"]
    with pytest.raises(ValueError, match=r"study=mask: .* it has: ijepa_masking, masking_ratio"):
        load(engine, "mask")


def test_a_study_that_was_never_run_is_all_missing(laboratory: Laboratory) -> None:
    laboratory.study("masking_ratio", GRID)
    frame = load(laboratory.engine, "masking_ratio")
    assert set(frame.rows["state"]) == {"missing"} and frame.rows["value"].isna().all()
