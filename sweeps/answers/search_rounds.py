"""What a search does with its trials' seeds: a mean for each trial, more seeds for the best, fresh ones to judge it.

A trial's value is the mean over its first seeds. When the budget is spent, the best trials by it are promoted: they get
further seeds, and the best by the mean of all of theirs is chosen. The best of many is too good by the luck of the
draw, so that it and the options that nothing searched for then train on judging seeds, which chose nothing, and the
paired difference of these is what is said of it. A trial of which a seed gave no number is not the mean of the others:
it is neither promoted nor chosen.

All of it is a function of what the database holds, which `sweeps.search.search` spends runs by and analysis shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, select

from sweeps.answers.blocked_intervals import Arm, Difference, compare
from sweeps.answers.verdicts import Judged, Verdict, verdicts, with_caveats
from sweeps.database.tables import FINAL_STATES, Attempt, CellRow, Config, Result, RunRow, StudyRow
from sweeps.study.identity import CODE_EPOCH
from sweeps.study.margin import margin_of
from sweeps.study.metric_words import describe
from sweeps.study.search_space import DEFAULT_ROW, TRIAL, SearchSpec, parse_search, search_name

RunKey = tuple[int, int]  # config id, seed
ENDED = tuple(state for state in FINAL_STATES if state not in ("cancelled", "pruned"))  # a round needs their end


class Seed(NamedTuple):
    """A run of one seed."""

    state: str
    value: float | None
    seconds: float = math.nan


@dataclass(frozen=True)
class Tried:
    """A config, by the row of its first trial, and its runs by seed."""

    key: str
    label: str
    config: int
    seeds: Mapping[int, Seed]
    spoilt: str = ""  # "collapsed", "untrained"

    def values(self, seeds: Sequence[int]) -> dict[int, float]:
        found = {seed: self.seeds[seed] for seed in seeds if seed in self.seeds}
        return {
            seed: run.value
            for seed, run in found.items()
            if run.state == "done" and run.value is not None and math.isfinite(run.value)
        }

    def mean(self, seeds: Sequence[int]) -> float | None:
        """None unless every one of these seeds gave a number."""
        values = self.values(seeds)
        return sum(values.values()) / len(values) if len(values) == len(seeds) else None


@dataclass(frozen=True)
class Judgement:
    """The chosen trial beside the options that nothing searched for, on seeds that chose neither."""

    best: Tried
    default: Tried
    seeds: list[int]
    difference: Difference | None  # None before two seeds have both
    verdict: Verdict | None

    @property
    def num_without(self) -> int:
        """Judging seeds on which one of the two gave no number."""
        return sum(seed not in self._shared for seed in self.seeds)

    @property
    def _shared(self) -> set[int]:
        return self.best.values(self.seeds).keys() & self.default.values(self.seeds).keys()


@dataclass(frozen=True)
class Rounds:
    """A search's trials, in the order they were asked for, each config once."""

    spec: SearchSpec
    first: int  # the study's seed
    trials: Sequence[Tried]
    default: Tried | None

    def promoted(self) -> list[Tried]:
        """The trials that get further seeds, the best first."""
        return self._ranked(self.trials, self.spec.seeds.of_trials(self.first))[: self.spec.seeds.num_promoted]

    def choosing_seeds(self, tried: Tried) -> list[int]:
        """Those whose mean a trial stands for."""
        is_promoted = any(other.key == tried.key for other in self.promoted())
        return (self.spec.seeds.of_promoted if is_promoted else self.spec.seeds.of_trials)(self.first)

    def chosen(self) -> Tried | None:
        """The best by all seeds that may choose; None where no trial has a number."""
        seeds = self.spec.seeds
        if not seeds.num_promoted:
            return next(iter(self._ranked(self.trials, seeds.of_trials(self.first))), None)
        return next(iter(self._ranked(self.promoted(), seeds.of_promoted(self.first))), None)

    def is_promoting(self) -> bool:
        """Whether a promoted trial's seed has not ended yet."""
        seeds = self.spec.seeds.of_promoted(self.first)
        states = self.states()
        return any(states.get((tried.config, seed)) not in ENDED for tried in self.promoted() for seed in seeds)

    def lacking(self) -> list[RunKey]:
        """The first seeds that trials have not been given yet, and will be as none of theirs was lost."""
        seeds = self.spec.seeds.of_trials(self.first)
        found = []
        for tried in self.trials:
            ended = [run for seed, run in tried.seeds.items() if seed in seeds and run.state in FINAL_STATES]
            if all(run.state == "done" for run in ended):
                found += [(tried.config, seed) for seed in seeds if seed not in tried.seeds]
        return found

    def wanted(self) -> list[RunKey]:
        """The runs of the rounds so far, seed by seed: of promotion, and once these have ended, of judging."""
        runs = [(tried.config, seed) for seed in self.spec.seeds.of_promoted(self.first) for tried in self.promoted()]
        if self.is_promoting():
            return runs
        best = self.chosen()
        if best is None or self.default is None or best.config == self.default.config:
            return runs
        judging = self.spec.seeds.of_judging(self.first)
        return runs + [(tried.config, seed) for seed in judging for tried in (self.default, best)]

    def states(self) -> dict[RunKey, str]:
        everyone = [*self.trials, *([self.default] if self.default else [])]
        return {(tried.config, seed): run.state for tried in everyone for seed, run in tried.seeds.items()}

    def judgement(self, metric: str, margin: float | None) -> Judgement | None:
        """None before the rounds have come to it."""
        seeds, best, default = self.spec.seeds.of_judging(self.first), self.chosen(), self.default
        if not seeds or best is None or default is None or (best.config, seeds[0]) not in self.wanted():
            return None
        pair = [
            Arm(tried.key, tried.values(seeds), tried.config, len(seeds) - len(tried.values(seeds)), tried.spoilt)
            for tried in (default, best)
        ]
        comparison = compare(pair, default.key)
        labels = {tried.key: tried.label for tried in (default, best)}
        seconds = {tried.key: _mean([run.seconds for run in tried.seeds.values()]) for tried in (default, best)}
        verdict = verdicts(Judged("", default.key, comparison, labels, seconds), metric, margin).get(best.key)
        return Judgement(best, default, seeds, comparison.differences.get(best.key), verdict)

    def _ranked(self, trials: Sequence[Tried], seeds: Sequence[int]) -> list[Tried]:
        sign = 1 if self.spec.direction == "minimize" else -1
        means = [
            (sign * mean, place, tried) for place, tried in enumerate(trials) if (mean := tried.mean(seeds)) is not None
        ]
        return [tried for _, _, tried in sorted(means, key=lambda found: found[:2])]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def sentence(found: Judgement | None, metric: str, margin: float | None) -> str:
    """`ridge top-1, digits on 5 seeds that chose nothing: trial 7 is better than not searched, +2.3 ± 1.1.`"""
    if found is None:
        return ""
    best, default = found.best.label, found.default.label
    metric = describe(metric).words
    lost = (
        f" ({found.num_without} of {len(found.seeds)} judging seeds gave no pair of numbers)"
        if found.num_without
        else ""
    )
    if found.difference is None or found.verdict is None:
        return f"{metric}: {best} was chosen, and is not judged yet{lost}."
    estimate = found.difference.estimate
    words = {"same": f"the same as {default} within ±{margin:g}" if margin is not None else "", "undecided": ""}
    told = words.get(found.verdict.kind, f"{found.verdict.kind} than {default}")
    told = f"is {told}" if told else f"beside {default} is {found.verdict.text}"
    numbers = f"{estimate.mean:+.2f} ± {estimate.half_width:.2f}".replace("-", "−")
    return f"{metric} on {estimate.num_seeds} seeds that chose nothing: {best} {told} ({numbers}){lost}."


# ---- reading ---------------------------------------------------------------------------------------------------------


def read(connection: Connection, study_id: int, name: str, spec: SearchSpec, first: int) -> Rounds:
    """The rounds of the search that Optuna calls `name`, from the trials in all revisions of the study."""
    cells = connection.execute(
        select(CellRow.row_key, CellRow.config_id, CellRow.display, CellRow.revision == StudyRow.revision)
        .join(StudyRow, StudyRow.id == CellRow.study_id)
        .where(CellRow.study_id == study_id)
        .order_by(CellRow.revision.desc())
    ).all()
    default = next((cell for cell in cells if cell.row_key == DEFAULT_ROW and cell[3]), None)
    mine = [c for c in cells if c.row_key.startswith(TRIAL) and c.display["trial"]["study"] == name]
    mine.sort(key=lambda cell: int(cell.row_key.removeprefix(TRIAL)))
    by_config: dict[int, Any] = {}
    for cell in mine:
        by_config.setdefault(cell.config_id, cell)
    seeds = [*spec.seeds.of_trials(first), *spec.seeds.further(first)]
    ids = [*by_config, *([default.config_id] if default is not None else [])]
    runs: dict[int, dict[int, Seed]] = {}
    spoilt: dict[int, str] = {}
    for run in connection.execute(
        select(
            RunRow.config_id, RunRow.seed, RunRow.state, RunRow.cpu_seconds, RunRow.gpu_seconds, Result.value,
            Attempt.facts["collapse"].label("collapse"),
        )
        .outerjoin(Attempt, and_(Attempt.run_id == RunRow.id, Attempt.n == RunRow.attempt))
        .outerjoin(Result, and_(Result.run_id == RunRow.id, Result.agg == "final", Result.metric == spec.metric))
        .where(RunRow.config_id.in_(ids), RunRow.seed.in_(seeds), RunRow.code_epoch == CODE_EPOCH)
    ):  # fmt: skip
        seconds = max(run.cpu_seconds or 0.0, run.gpu_seconds or 0.0) or math.nan
        runs.setdefault(run.config_id, {})[run.seed] = Seed(run.state, run.value, seconds)
        if run.state == "done" and (state := (run.collapse or {}).get("state")):
            spoilt[run.config_id] = str(state)

    def tried(cell: Any) -> Tried:
        label = str(cell.display["row_label"])
        return Tried(cell.row_key, label, cell.config_id, runs.get(cell.config_id, {}), spoilt.get(cell.config_id, ""))

    trials = [tried(cell) for cell in by_config.values()]
    return Rounds(spec, first, trials, None if default is None else tried(default))


def of_study(connection: Connection, study: Any) -> Rounds | None:
    """Of a stored study, its row of `sw_study`; None for one that is no search."""
    if "search" not in study.spec:
        return None
    default = connection.scalar(
        select(Config.json)
        .join(CellRow, CellRow.config_id == Config.id)
        .where(
            CellRow.study_id == study.id, CellRow.revision == study.revision, CellRow.row_key == DEFAULT_ROW
        )
    )  # fmt: skip
    if default is None:
        return None
    section = study.spec["search"]
    spec, first = parse_search(section), int(study.spec["seeds"][0])
    return read(connection, study.id, search_name(study.name, default, first, section, spec), spec, first)


def answer(connection: Connection, study: Any, words: Mapping[str, Any]) -> str:
    """What a stored search found, in a sentence; "" before its best is chosen. `words`: the spec it is shown with."""
    found = of_study(connection, study)
    if found is None:
        return ""
    metric = found.spec.metric
    margin = margin_of(words, words["scale"], metric)
    return with_caveats(sentence(found.judgement(metric, margin), metric, margin), words, words["scale"])
