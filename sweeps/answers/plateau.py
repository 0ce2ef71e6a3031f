"""The plateau of a run's loss, and the step at which it was left: seeds that leave it late are not done learning.

Small models stay for a while where the loss hardly falls before they find what makes it fall again, each seed for
another while. A row of which one seed left late is as wide as that wait, whatever its options do.

**What a plateau is.** The loss in sixty means, equal shares of the run. A stretch of a tenth of the run is flat where
it falls by less than half of what a later stretch of that length does: a loss that falls ever slower has none. The
first such stretch in the run's first half is its plateau, where at least a tenth of the whole fall lies below it,
clear of the noise of single steps. It is left at the step from which the loss, a median of five means, stays below it
by a quarter of what it has still to fall.

It is read off the stored curve, so that it is known of every run that has one, older ones too. Without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, select

from sweeps.cells.edited import label_of, shown_row
from sweeps.database import series
from sweeps.database.tables import CellRow, RunRow, StudyRow
from sweeps.study.identity import CODE_EPOCH
from sweeps.study.search_space import first_and_further, stored_search

MARK = "‡"
METRIC = "loss"
LATE = 0.6  # of the run: who leaves later has little left to learn in
APART = 0.1  # of the run: seeds of a row that leave so far from each other
NUM_MEANS = 60
FEWEST_POINTS = 2 * NUM_MEANS
STRETCH = NUM_MEANS // 10
FLAT = 1 / 2  # of the fall in a later stretch
CLEAR = 0.1  # of the whole fall
LEAVING = 0.25  # of the fall from the plateau to the end
NUM_ERRORS = 4  # standard errors that a fall must have
NUM_PER_BATCH = 200  # runs whose curves are held at once

Numbers = NDArray[np.float64]
_THIRD = np.full(3, 1 / 3)


class Curve(NamedTuple):
    """What is kept of a run's loss. `left` and `level` are None where it has no plateau."""

    num_steps: int
    end: float  # the loss over the last twentieth
    level: float | None = None
    left: int | None = None


def find(curve: series.Series) -> Curve | None:
    """None for a curve of too few points, or one that is not finite."""
    return find_each([curve])[0]


def find_each(curves: Sequence[series.Series]) -> list[Curve | None]:
    """`find` of many: curves of as many points are reckoned together."""
    found: list[Curve | None] = [None] * len(curves)
    alike: dict[int, list[int]] = {}
    for place, curve in enumerate(curves):
        if len(curve.values) >= FEWEST_POINTS and np.isfinite(curve.values).all():
            alike.setdefault(len(curve.values), []).append(place)
    for num_points, places in alike.items():
        starts = np.arange(NUM_MEANS) * num_points // NUM_MEANS
        ends = np.append(starts[1:], num_points) - 1
        counts = ends + 1 - starts
        values = np.stack([curves[place].values for place in places])  # [runs, points]
        means = np.add.reduceat(values, starts, axis=1) / counts
        # Of single steps about their mean, without the first quarter, which falls within a mean.
        rests = (values - np.repeat(means, counts, axis=1)) ** 2
        squares = np.add.reduceat(rests, starts, axis=1) / (counts - 1) / counts
        errors = np.sqrt(squares[:, NUM_MEANS // 4 :].mean(axis=1))
        for place, of_run, error in zip(places, means, errors.tolist(), strict=True):
            found[place] = _of_means(of_run, error, curves[place].steps[ends])
    return found


def _of_means(means: Numbers, error: float, steps: series.Steps) -> Curve:
    """`error` is a mean's, `steps` where the shares of the run end."""
    end = float(means[-3:].mean())
    found = Curve(int(steps[-1]), end)
    whole = float(means[:3].max()) - end
    level = _level(means, end, whole, error) if whole > 0 else None
    if level is None:
        return found
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(means, 2, mode="edge"), 5), axis=1)
    above = np.flatnonzero(smooth >= level - LEAVING * (level - end))
    return found._replace(level=level, left=int(steps[above[-1]]))


def _level(means: Numbers, end: float, whole: float, error: float) -> float | None:
    thirds = np.convolve(means, _THIRD, mode="valid")
    falls = thirds[:-STRETCH] - thirds[STRETCH:]
    clear = NUM_ERRORS * error * math.sqrt(2 / 3)
    later = np.maximum.accumulate(falls[::-1])[::-1]  # the largest fall from each stretch on
    is_flat = (falls < FLAT * later) & (later > max(clear, CLEAR * whole / 2))
    for i in np.flatnonzero(is_flat[: NUM_MEANS // 2]):
        level = float(means[i : i + STRETCH].mean())
        if level - end > max(clear, CLEAR * whole):
            return level
    return None


# ---- of a row's seeds ------------------------------------------------------------------------------------------------


def of_seeds(found: Mapping[int, Curve]) -> str:
    """`left the plateau (loss 0.66) of 500 steps at step 120 (seed 0), 412 (seed 7, late)`; mostly empty.

    `found` has the row's finished seeds. Said where one left late or never, or seeds left far from each other.
    """
    left = {seed: curve for seed, curve in sorted(found.items()) if curve.left is not None}
    shares = {seed: (curve.left or 0) / curve.num_steps for seed, curve in left.items()}
    never, late = _never(found), [seed for seed, share in shares.items() if share > LATE]
    if not (never or late or (len(left) > 1 and max(shares.values()) - min(shares.values()) > APART)):
        return ""
    places = [f"{curve.left} (seed {seed}{', late' if seed in late else ''})" for seed, curve in left.items()]
    num_steps = max(curve.num_steps for curve in left.values())
    told = f"left the plateau (loss {median(_levels(found)):.3g}) at step {', '.join(places)} of {num_steps}"
    return told + (f"; {_listed(never)} never did" if never else "")


def _never(found: Mapping[int, Curve]) -> list[int]:
    """The seeds that end where half of the row's seeds, or more, were before they left."""
    left = [curve for curve in found.values() if curve.level is not None]
    if 2 * len(left) < len(found) or not left:
        return []
    level, end = median(_levels(found)), median(curve.end for curve in left)
    threshold = level - LEAVING * (level - end)
    return [seed for seed, curve in sorted(found.items()) if curve.level is None and curve.end >= threshold]


def _levels(found: Mapping[int, Curve]) -> list[float]:
    return [curve.level for curve in found.values() if curve.level is not None]


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


# ---- reading ---------------------------------------------------------------------------------------------------------


def read(connection: Connection, run_ids: Sequence[int]) -> dict[int, Curve]:
    """Of each of these runs that has a curve of its loss."""
    found = {}
    for start in range(0, len(run_ids), NUM_PER_BATCH):
        batch = run_ids[start : start + NUM_PER_BATCH]
        curves = series.read_many(connection, batch, [METRIC])
        told = zip(curves, find_each(list(curves.values())), strict=True)
        found.update({run_id: curve for (run_id, _), curve in told if curve is not None})
    return found


_DONE: WeakKeyDictionary[Engine, dict[int, Curve]] = WeakKeyDictionary()  # finished runs' curves stay


def of_done(connection: Connection, run_ids: Sequence[int]) -> dict[int, Curve]:
    """`read` of finished runs, each curve of which is read once a process: a page may be asked for again and again."""
    known = _DONE.setdefault(connection.engine, {})
    known |= read(connection, [run_id for run_id in run_ids if run_id not in known])
    return {run_id: known[run_id] for run_id in run_ids if run_id in known}


def described(curve: Curve) -> str:
    """Of one run: `loss 0.66, left at step 188 of 500`."""
    if curve.level is None:
        return "none"
    return f"loss {curve.level:.3g}, left at step {curve.left} of {curve.num_steps}"


def of_study(connection: Connection, name: str) -> list[str]:
    """A line for each row of a stored study of which something is to be said, column by column."""
    study = connection.execute(select(StudyRow).where(StudyRow.name == name)).one_or_none()
    if study is None:
        return []
    cells = connection.execute(
        select(CellRow.row_key, CellRow.col_key, CellRow.config_id, CellRow.display).where(
            CellRow.study_id == study.id, CellRow.revision == study.revision
        )
    ).all()
    first, further = first_and_further(study.spec["seeds"], stored_search(study.spec))
    runs = connection.execute(
        select(RunRow.id, RunRow.config_id, RunRow.seed).where(
            RunRow.config_id.in_({cell.config_id for cell in cells}), RunRow.seed.in_([*first, *further]),
            RunRow.code_epoch == CODE_EPOCH, RunRow.state == "done",
        )
    ).all()  # fmt: skip
    curves = of_done(connection, [run.id for run in runs])
    by_config: dict[int, dict[int, Curve]] = {}
    for run in runs:
        if run.id in curves:
            by_config.setdefault(run.config_id, {})[run.seed] = curves[run.id]
    words = shown_row(connection, study)
    placed = [(words.cell(cell).display, cell.config_id) for cell in cells]
    placed.sort(key=lambda one: (one[0]["row_order"], one[0]["col_order"]))
    told = [(label_of(display), of_seeds(by_config.get(config_id, {}))) for display, config_id in placed]
    return [note(label, said) for label, said in told if said]


def note(label: str, told: str) -> str:
    return f"{MARK} {label}: {told}."
