"""A study's rows as the database has them, column by column: what rules for seeds and verdicts compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, select

from sweeps.answers import search_rounds
from sweeps.answers.blocked_intervals import CONFIDENCE, Arm, compare
from sweeps.answers.collapse import ended
from sweeps.answers.verdicts import Judged, caveat, sentence, with_caveats
from sweeps.cells.edited import Shown, shown_row
from sweeps.database.tables import FINAL_STATES, Attempt, CellRow, Result, RunRow, StudyRow
from sweeps.study.identity import CODE_EPOCH
from sweeps.study.margin import margin_of
from sweeps.study.seed_rule import first_seeds, further_seeds, parse_rule

_NOT_GIVEN = ("queued", "cancelled")  # another study's, where it is a seed that this one has not spent


@dataclass(frozen=True)
class Column:
    """The rows of one column but the random initialisation; `asked`: the seeds that each config has runs of."""

    key: str
    label: str
    arms: list[Arm]
    labels: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[int, set[int]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)  # of a run of each row, in the mean
    caveats: Mapping[str, str] = field(default_factory=dict)  # of its seeds: `sweeps.answers.verdicts.caveat`


@dataclass(frozen=True)
class Arms:
    columns: list[Column]
    num_open: int  # runs that have not ended


def read(connection: Connection, study: Any, seeds: Any = None, words: Shown | None = None) -> Arms:
    """`study` is its row of `sw_study`; `seeds` are those of its spec, unless another rule asks what it would add.

    In `words`, else as it was launched.
    """
    words = words or Shown(study.name, study.spec)
    seeds = study.spec["seeds"] if seeds is None else seeds
    cells = connection.execute(
        select(CellRow.row_key, CellRow.col_key, CellRow.config_id, CellRow.display).where(
            CellRow.study_id == study.id, CellRow.revision == study.revision
        )
    ).all()
    found = [(words.cell(cell), cell.config_id) for cell in cells]
    found = [one for one in found if not one[0].display["is_random_init"]]
    found.sort(key=lambda one: (one[0].display["row_order"], one[0].display["col_order"]))
    first, further = first_seeds(seeds), further_seeds(seeds)
    runs: dict[int, dict[int, Any]] = {}
    metric = words.spec["metrics"][0]
    for run in _read_runs(connection, [config_id for _, config_id in found], [*first, *further], metric):
        if run.seed in first or run.state != "cancelled":
            runs.setdefault(run.config_id, {})[run.seed] = run
    columns: dict[str, Column] = {}
    for cell, config_id in found:
        own = runs.get(config_id, {})
        column = columns.setdefault(cell.col_key, Column(cell.col_key, cell.display["col_label"], [], {}, {}, {}, {}))
        column.arms.append(_arm(cell.row_key, config_id, own, first, further))
        costs = [max(run.cpu_seconds or 0.0, run.gpu_seconds or 0.0) for run in own.values() if run.state == "done"]
        assert isinstance(column.labels, dict) and isinstance(column.asked, dict)
        assert isinstance(column.seconds, dict) and isinstance(column.caveats, dict)
        column.labels[cell.row_key] = cell.display["row_label"]
        column.asked[config_id] = set(own)
        words_of = {seed: ended(run.state, run.collapse) for seed, run in own.items()}
        column.caveats[cell.row_key] = caveat([words_of.get(seed, "") for seed in _given(own, first, further)])
        if costs:
            column.seconds[cell.row_key] = sum(costs) / len(costs)
    num_open = sum(run.state not in FINAL_STATES for own in runs.values() for run in own.values())
    return Arms(list(columns.values()), num_open)


def _given(runs: Mapping[int, Any], first: Sequence[int], further: Sequence[int]) -> list[int]:
    """The seeds that a row has been given so far, whether they have ended or not."""
    return [*first, *(seed for seed in further if seed in runs and runs[seed].state not in _NOT_GIVEN)]


def _arm(row_key: str, config_id: int, runs: Mapping[int, Any], first: Sequence[int], further: Sequence[int]) -> Arm:
    done = {seed: run for seed, run in sorted(runs.items()) if run.state == "done" and run.value is not None}
    given = _given(runs, first, further)
    states = [str((run.collapse or {}).get("state", "")) for run in done.values()]
    spoilt = next(filter(None, states), "")
    values = {seed: float(run.value) for seed, run in done.items()}
    return Arm(row_key, values, config_id, sum(seed not in done for seed in given), spoilt)


def _read_runs(connection: Connection, config_ids: list[int], seeds: list[int], metric: str) -> Sequence[Any]:
    return connection.execute(
        select(
            RunRow.config_id, RunRow.seed, RunRow.state, RunRow.cpu_seconds, RunRow.gpu_seconds, Result.value,
            Attempt.facts["collapse"].label("collapse"),
        )
        .outerjoin(Attempt, and_(Attempt.run_id == RunRow.id, Attempt.n == RunRow.attempt))
        .outerjoin(Result, and_(Result.run_id == RunRow.id, Result.agg == "final", Result.metric == metric))
        .where(RunRow.config_id.in_(config_ids), RunRow.seed.in_(seeds), RunRow.code_epoch == CODE_EPOCH)
    ).all()  # fmt: skip


def confidence_of(seeds: Any) -> float:
    """Of a study's intervals of differences, from the `seeds` of its spec: a rule looks more than once."""
    return parse_rule(seeds, "seeds").confidence if isinstance(seeds, Mapping) else CONFIDENCE


def answer(connection: Connection, name: str) -> str:
    """A study's verdicts in a sentence, as its table has them; "" where nothing can be compared."""
    study = connection.execute(select(StudyRow).where(StudyRow.name == name)).one_or_none()
    if study is None:
        return ""
    words = shown_row(connection, study)
    if "search" in study.spec:
        return search_rounds.answer(connection, study, words.spec)
    spec, columns = words.spec, read(connection, study, words=words).columns
    # Of two rows and more the first is the baseline, where the file names none.
    baseline = str(spec.get("baseline") or (columns[0].arms[0].key if columns else ""))
    confidence, metric = confidence_of(spec["seeds"]), spec["metrics"][0]
    judged = [
        Judged(
            column.label, baseline, compare(column.arms, baseline, confidence),
            column.labels, column.seconds, column.caveats,
        )
        for column in columns
    ]  # fmt: skip
    return with_caveats(sentence(judged, metric, margin_of(spec, spec["scale"], metric)), spec, spec["scale"])
