"""Tables and figures of a searched study, on trials whose numbers are known."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from analysis.figures import landscape, search, searched
from analysis.numbers import importances
from analysis.numbers.frame import load
from analysis.report import contents
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import CellRow, Config, Result, RunRow, StudyRow
from sweeps.study.metric_words import option_words

MAIN = "ridge/digit_top1"
SPEC = {
    "title": "Search",
    "question": "Where?",
    "search": {
        "budget": 12,
        "space": {
            "mask.ratio": {"float": [0.1, 0.9]},
            "optim.lr_peak": {"float": [0.0001, 0.1], "log": True},
            "predictor.depth": {"int": [1, 6]},
            "loss": {"categorical": ["l1", "mse"]},
        },
        "metric": MAIN,
    },
    "scales": {},
    "metrics": [MAIN],
    "seeds": [0],
    "figures": [
        {"name": "importance", "kind": "importance"},
        {"name": "contour", "kind": "contour", "x": "mask.ratio", "y": "optim.lr_peak"},
        {"name": "depth", "kind": "contour", "x": "predictor.depth", "y": "loss"},
    ],
    "scale": "cpu",
    "overrides": [],
}


@pytest.fixture
def engine(tmp_path: Path):
    """Twelve trials: the metric is 100 times the ratio, whatever else was chosen. One was pruned, one failed."""
    engine = open_database(f"sqlite:///{tmp_path / 'search.sqlite'}")
    upgrade(engine)
    with Session(engine) as session:
        session.add(StudyRow(id=1, name="search", spec=SPEC, spec_hash="", revision=1))
        for number in range(14):
            is_trial = number < 12
            ratio = 0.1 + 0.8 * ((number * 5) % 12) / 11 if is_trial else 0.5
            config = {
                "mask.ratio": ratio, "optim.lr_peak": 10 ** -(1 + number % 4), "predictor.depth": 1 + number % 6,
                "loss": ("l1", "mse")[number % 2], "optim.steps": 10,
            }  # fmt: skip
            session.add(Config(id=number + 1, hash=str(number), hash_version=1, json=config))
            session.flush()
            key = f"trial_{number}" if is_trial else ("default", "random_init")[number - 12]
            display = {
                "row_label": key.replace("_", " "), "row_order": number, "col_order": 0,
                "is_random_init": key == "random_init",
                **({"trial": {"study": "search", "is_cached": False, "params": {}}} if is_trial else {}),
            }  # fmt: skip
            session.add(CellRow(study_id=1, revision=1, row_key=key, col_key="", config_id=number + 1, display=display))
            state = {3: "pruned", 4: "failed"}.get(number, "done")
            session.add(RunRow(id=number + 1, config_id=number + 1, seed=0, code_epoch=1, state=state, created=0.0))
            session.flush()
            if state == "done":
                value = 100 * ratio if is_trial else 20.0
                session.add(Result(run_id=number + 1, metric=MAIN, agg="final", value=value, attempt=1))
        session.commit()
    yield engine
    engine.dispose()


def test_the_best_trials_come_first_with_what_they_chose(engine: Engine) -> None:
    table = search.table(load(engine, "search"))
    values = [row.cells[0].estimate.mean for row in table.rows if row.key.startswith("trial")]
    assert values == sorted(values, reverse=True) and len(values) == 10
    assert [column.key for column in table.columns][1:] == ["loss", "mask.ratio", "optim.lr_peak", "predictor.depth"]
    assert table.rows[0].cells[2].text == "0.9"
    assert [row.key for row in table.rows[-2:]] == ["default", "random_init"]
    assert "12 trials (10 done, 1 failed, 1 pruned)" in table.notes[0]


def test_the_option_that_decides_alone_has_the_importance(engine: Engine) -> None:
    plot = searched.plot(load(engine, "search"), SPEC["figures"][0])
    assert plot.bars[0][0] == "mask.ratio"
    assert plot.bars[0][1] > 0.6
    assert math.isclose(sum(share for _, share in plot.bars), 1)


def test_a_contour_passes_near_the_trials_it_was_made_from(engine: Engine) -> None:
    plot = searched.plot(load(engine, "search"), SPEC["figures"][1])
    x, y, surface = plot.surface
    assert len(plot.values) == 10
    for place_x, place_y, value in zip(plot.axes[0].places, plot.axes[1].places, plot.values, strict=True):
        near = surface[np.abs(np.log(y / place_y)).argmin(), np.abs(x - place_x).argmin()]
        assert abs(near - value) < 12
    assert surface.min() >= plot.values.min() and surface.max() <= plot.values.max()


def test_categories_lie_side_by_side(engine: Engine) -> None:
    plot = searched.plot(load(engine, "search"), SPEC["figures"][2])
    assert plot.axes[1].names == ("l1", "mse")
    assert set(plot.axes[1].places) == {0.0, 1.0}


def test_trials_in_one_place_are_one_dot_of_their_mean_and_the_note_says_so(engine: Engine) -> None:
    plot = searched.plot(load(engine, "search"), SPEC["figures"][2])
    means = {(a, b): value for a, b, value in zip(*(axis.places for axis in plot.axes), plot.values, strict=True)}
    ratios = [0.1 + 0.8 * ((number * 5) % 12) / 11 for number in (0, 6)]  # of depth 1 with l1
    assert len(plot.values) == len(means) == 6 and math.isclose(means[1.0, 0.0], 100 * sum(ratios) / 2)
    said = "Dots: 10 finished trials in 6 places, each the mean of those there, whatever their 2 other options."
    assert plot.note == said


def test_too_few_trials_are_said_to_be_too_few(engine: Engine) -> None:
    frame = load(engine, "search")
    rows = frame.rows[frame.rows["row_key"].isin(["trial_0", "default"])]
    small = replace(frame, rows=rows)
    for figure in SPEC["figures"]:
        assert "1 finished trial" in searched.plot(small, figure).note
        assert landscape.images(searched.plot(small, figure))["png"]


def test_a_contour_over_what_was_not_searched_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"figure wrong: x must be one of the searched options loss, mask.ratio"):
        searched.plot(load(engine, "search"), {"name": "wrong", "kind": "contour", "x": "mask.rati", "y": "loss"})


def test_the_report_of_a_search_has_the_same_bytes_twice(engine: Engine) -> None:
    first = contents(engine, ["search"])
    assert contents(engine, ["search"]) == first
    assert {"tables/search.md", "figures/search-importance.svg", "figures/search-contour.png"} <= set(first)


def test_an_importance_has_an_interval_that_holds_it(engine: Engine) -> None:
    plot = searched.plot(load(engine, "search"), SPEC["figures"][0])
    assert len(plot.intervals) == len(plot.bars)
    assert all(
        0 <= low <= share <= high <= 1 for (_, share), (low, high) in zip(plot.bars, plot.intervals, strict=True)
    )
    assert "resamples of trials (of one seed: its noise is not in it)" in plot.note


def test_importances_are_in_the_figure_s_csv_and_in_a_note_of_the_table(engine: Engine) -> None:
    frame = load(engine, "search")
    plot = searched.plot(frame, SPEC["figures"][0])
    lines = landscape.images(plot)["csv"].decode().splitlines()
    assert lines[0] == "option,share,low,high"
    assert [line.split(",")[0] for line in lines[1:]] == [key for key, _ in plot.bars]
    (key, share), (low, high) = plot.bars[0], plot.intervals[0]
    assert any(f"{option_words(key)} {share:.2f} [{low:.2f}, {high:.2f}]" in note for note in search.table(frame).notes)


def test_noise_of_seeds_widens_the_intervals_of_importances(engine: Engine) -> None:
    spec = search.spec_of(load(engine, "search"))
    done = search.trials(load(engine, "search"), MAIN).dropna(subset="value").assign(num_seeds=2)
    quiet = importances.share_intervals(done.assign(sd=0.1), spec, ["mask.ratio"])
    noisy = importances.share_intervals(done.assign(sd=30.0), spec, ["mask.ratio"])
    assert noisy[0][0] < quiet[0][0]
