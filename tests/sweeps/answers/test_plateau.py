"""The step at which a loss left its plateau, on curves whose shape is known."""

import numpy as np
import pytest
import yaml
from sqlalchemy import select

from sweeps import status
from sweeps.answers import plateau
from sweeps.answers.plateau import Curve, find, find_each, of_seeds
from sweeps.database import registering, series
from sweeps.database.series import Series
from sweeps.database.tables import RunRow
from tests.sweeps.launched import TWO_ROWS, finish_next, register, two_rows

NUM_STEPS = 600


def curve(left: int | None, *, noise: float = 0.02, seed: int = 0, level: float = 0.65, num_steps: int = NUM_STEPS):
    """From 1 to `level` in a tenth of the run, flat until `left`, then to 0.5; flat to the end where that is None."""
    steps = np.arange(1, num_steps + 1)
    values = level + (1 - level) * np.exp(-steps / (num_steps / 40))
    if left is not None:
        values = values - (level - 0.5) * (1 - np.exp(-np.maximum(0, steps - left) / (num_steps / 8)))
    return Series(steps, values + np.random.default_rng(seed).normal(0, noise, num_steps))


@pytest.mark.parametrize("left", [120, 200, 300, 400])
@pytest.mark.parametrize("seed", range(3))
def test_a_plateau_is_left_where_the_loss_falls_again(left, seed):
    found = find(curve(left, seed=seed))
    assert found.level == pytest.approx(0.65, abs=0.03)
    assert left - 10 <= found.left <= left + 50  # a quarter of the fall later, in means of ten steps


def test_curves_that_are_read_together_are_judged_as_each_by_itself():
    broken = Series(np.arange(1, NUM_STEPS + 1), np.full(NUM_STEPS, np.nan))
    curves = [curve(120), curve(None, num_steps=1000), broken, curve(300, seed=1), curve(200, num_steps=100)]
    assert find_each(curves) == [find(one) for one in curves]
    assert [found is None for found in find_each(curves)] == [False, False, True, False, True]


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_falls_ever_slower_has_no_plateau(seed):
    steps = np.arange(1, NUM_STEPS + 1)
    values = 0.5 + 0.5 * np.exp(-steps / 150) + np.random.default_rng(seed).normal(0, 0.02, NUM_STEPS)
    assert find(Series(steps, values)).left is None


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_has_converged_is_on_no_plateau(seed):
    assert find(curve(None, seed=seed)).left is None


def test_a_loss_that_rises_has_no_plateau():
    steps = np.arange(1, NUM_STEPS + 1)
    assert find(Series(steps, steps / NUM_STEPS)).left is None


def test_a_jump_of_one_step_is_no_fall():
    rough = curve(None)
    rough.values[400] = -3.0
    assert find(rough).left is None


def test_of_few_points_and_of_a_loss_that_is_not_finite_nothing_is_said():
    assert find(curve(60, num_steps=100)) is None
    broken = curve(200)
    broken.values[300] = np.nan
    assert find(broken) is None


def test_points_at_every_tenth_step_leave_at_the_same_step():
    dense = curve(3000, num_steps=6000)
    sparse = Series(dense.steps[9::10], dense.values[9::10])
    assert find(sparse).left == pytest.approx(find(dense).left, abs=200)


# ---- of a row's seeds ------------------------------------------------------------------------------------------------


def of(*left: int | None, end: float = 0.5) -> dict[int, Curve]:
    level = [None if step is None else 0.65 for step in left]
    return {seed: Curve(500, end, level[seed], step) for seed, step in enumerate(left)}


def test_seeds_that_leave_together_and_in_time_are_not_mentioned():
    assert of_seeds(of(120, 130, 150)) == of_seeds(of(None, None)) == of_seeds(of(None, 200)) == of_seeds({}) == ""


def test_a_seed_that_left_late_is_named_with_all_steps():
    assert of_seeds(of(280, 310)) == "left the plateau (loss 0.65) at step 280 (seed 0), 310 (seed 1, late) of 500"


def test_seeds_that_leave_far_from_each_other_are_named():
    assert of_seeds(of(120, 240)) == "left the plateau (loss 0.65) at step 120 (seed 0), 240 (seed 1) of 500"


def test_a_seed_that_ends_where_the_others_were_before_they_left_never_left():
    stayed = of(120, 130) | {2: Curve(500, 0.64)}
    assert of_seeds(stayed).endswith("; seed 2 never did")
    learnt = of(120, 130) | {2: Curve(500, 0.51)}
    assert of_seeds(learnt) == ""


# ---- of stored runs --------------------------------------------------------------------------------------------------


def stored(engine) -> list[int]:
    """Two rows of two seeds; of the first row one seed leaves early and one late."""
    register(engine, two_rows())
    run_ids = []
    for left in (120, 120, 420, 130):  # seed by seed
        run_id = finish_next(engine, {"ridge/digit_top1": 50.0})
        line = curve(left)
        with engine.begin() as connection:
            series.write(
                connection, [series.chunk_row(run_id, 1, 0, "loss", line.steps.tolist(), line.values.tolist())]
            )
        run_ids.append(run_id)
    return run_ids


def test_a_stored_study_names_its_rows_whose_seeds_left_late(engine):
    stored(engine)
    with engine.connect() as connection:
        (line,) = plateau.of_study(connection, "ratio")
    assert line.startswith("‡ half: left the plateau (loss 0.6")
    assert "(seed 1, late) of 600." in line


def test_a_row_is_called_as_the_study_s_file_calls_it_today(engine, tmp_path, monkeypatch):
    stored(engine)
    (tmp_path / "studies").mkdir()
    first, *others = TWO_ROWS["rows"]
    rows = [{**first, "label": "half of a clip"}, *others]
    (tmp_path / "studies/ratio.yaml").write_text(yaml.safe_dump({**TWO_ROWS, "rows": rows}))
    monkeypatch.chdir(tmp_path)
    with engine.connect() as connection:
        (line,) = plateau.of_study(connection, "ratio")
    assert line.startswith("‡ half of a clip: left the plateau")


def test_status_says_it_of_the_study_and_of_a_run(engine, capsys):
    run_ids = stored(engine)
    url = engine.url.render_as_string(hide_password=False)
    assert status.main(["study=ratio", f"db={url}"]) == 0
    assert "‡ half: left the plateau" in capsys.readouterr().out
    assert status.main([f"run={run_ids[2]}", f"db={url}"]) == 0
    assert "left at step 4" in capsys.readouterr().out


def test_a_run_that_is_still_training_is_not_judged(engine):
    stored(engine)
    with engine.begin() as connection:
        registering.requeue(connection, connection.scalars(select(RunRow.id)).all(), states=("done",))
        assert plateau.of_study(connection, "ratio") == []
