"""What runs will cost, estimated before they run; `plan`, `status`, the launcher's line and the site all ask here.

A run costs what its config cost with other seeds. Of a config that never ran, the operations are counted
(`sweeps.cells.work`) and divided by a rate: the median over those recorded runs that compute most alike, of the same
method and size where there are some. Where nothing was recorded on a device of the kind, by a stated rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from statistics import mean, median, mode
from typing import NamedTuple, Self

from sqlalchemy import Connection, and_, select

from sweeps.cells.work import Work, described
from sweeps.console.tables import counted
from sweeps.database import aliases
from sweeps.database.tables import Attempt, CellRow, Config, Result, RunRow, StudyRow
from sweeps.study.identity import CODE_EPOCH

RunKey = tuple[str, int]  # config hash, seed
CPU, GPU = "CPU", "GPU"
DEVICE_OF_SCALE = {"smoke": CPU, "cpu": CPU, "lab": GPU, "gpu": GPU, "paper": GPU}  # what a scale is made for

# 1e9 operations a second. CPU: a core with fast bfloat16, as in docs/reproduce.md. GPU: a tenth of the dense bfloat16
# peak of an H100, about what a small transformer reaches.
STATED = {CPU: 100.0, GPU: 100_000.0}
STATED_SPEEDUP = 50.0  # of an evaluation's own work, which is many small operations, on a GPU
STATED_EVALUATION = 2.0  # times encoding the judged data, for an evaluation that nobody has run
STATED_CLIPS = 10_000  # of judged data that only its files tell the size of
CLOCKED = ("train_seconds", "eval_seconds", "picture_seconds")  # of an attempt's facts; together nearly the whole run
NEAREST = 9  # recorded runs that a rate is the median of


class Cost(NamedTuple):
    cpu_seconds: float
    gpu_seconds: float

    def __add__(self, other: object) -> Cost:
        assert isinstance(other, Cost)
        return Cost(self.cpu_seconds + other.cpu_seconds, self.gpu_seconds + other.gpu_seconds)

    def times(self, factor: float) -> Cost:
        return Cost(self.cpu_seconds * factor, self.gpu_seconds * factor)

    @property
    def seconds(self) -> float:
        """That a worker is busy: a run on a GPU waits for it, one without keeps a core."""
        return self.gpu_seconds or self.cpu_seconds


class Recorded(NamedTuple):
    """A run of the database, and what of its cost is known by phase."""

    key: RunKey
    state: str
    steps: int
    cost: Cost
    step: int = 0  # that it has reached
    has_checkpoint: bool = False
    work: Work | None = None
    training: Cost | None = None
    features: Cost | None = None
    features_gflop: float = 0.0
    evals: Mapping[str, Cost] = {}

    @property
    def device(self) -> str:
        return GPU if self.cost.gpu_seconds else CPU


class Parts(NamedTuple):
    """A whole run's cost: its steps, and all that follows them."""

    training: Cost
    judging: Cost


Rate = tuple[float, Cost]  # how much the run had of what the rate is about, and what that cost


class Estimator:
    """Estimates from a database's runs; remembers on what they stand (`said`)."""

    def __init__(self, runs: Iterable[Recorded], works: Mapping[str, Work], device: str = CPU) -> None:
        self.runs, self.works = {run.key: run for run in runs}, works
        done = [run for run in self.runs.values() if run.state == "done"]
        self._of_config: dict[str, list[Recorded]] = {}
        for run in done:
            self._of_config.setdefault(run.key[0], []).append(run)
        self._trained_as = {(run.work.trained_as, run.key[1]) for run in done if run.work and run.has_checkpoint}
        self.device = device
        self._done = [run for run in done if run.work]
        self.used: set[RunKey] = set()  # runs that rates were measured on
        self.stated: set[str] = set()  # devices whose rates are stated

    @property
    def measured(self) -> Set[str]:
        """Configs that a run has ended of: what another seed costs needs no rate."""
        return self._of_config.keys()

    def of(self, works: Mapping[str, Work]) -> Self:
        """Another one of the same runs, which has told nothing yet: a large database's are sorted once."""
        other = copy.copy(self)
        other.works, other.used, other.stated = works, set(), set()
        return other

    def for_study(self, scale: str, runs: Iterable[RunKey]) -> Self:
        """On the device that these runs were on, before any the one that the scale is made for."""
        devices = [self.runs[key].device for key in runs if key in self.runs and self.runs[key].state == "done"]
        other = copy.copy(self)
        other.device = mode(devices) if devices else DEVICE_OF_SCALE[scale]
        return other

    def left(self, key: RunKey, steps: int, study: Sequence[RunKey] = ()) -> Cost | None:
        """What is left of a run of `steps` steps: all that a run of its config costs, less the steps that are done.

        `study` are the runs beside it, which tell what a step costs where nothing else is known.
        """
        parts = self.parts(key[0], steps, study)
        if parts is None:
            return None
        run, work = self.runs.get(key), self.works.get(key[0])
        if work and work.steps and (work.trained_as, key[1]) in self._trained_as:
            return parts.judging  # a worker takes the weights of the run that has trained them
        done = min(1.0, run.step / run.steps) if run and run.steps and run.state != "done" else 0.0
        return parts.training.times(1 - done) + parts.judging

    def parts(self, config: str, steps: int, study: Sequence[RunKey] = ()) -> Parts | None:
        work = self.works.get(config)
        if runs := self._of_config.get(config):
            return self._measured(runs, work)
        if work is not None and work.training is not None:
            return self._modelled(work)
        done = [self.runs[key] for key in study if key in self.runs and self.runs[key].state == "done"]
        num_steps = sum(run.steps for run in done)
        if not num_steps:
            return None
        return Parts(_sum(run.cost for run in done).times(steps / num_steps), Cost(0.0, 0.0))

    def said(self) -> str:
        """`rates: 41 runs of this database; stated: 100 TFLOP/s a GPU`; empty where no rate was needed."""
        parts = [f"rates: {counted(len(self.used), 'run')} of this database"] if self.used else []
        if GPU in self.stated:
            parts.append(f"stated: {STATED[GPU] / 1e3:g} TFLOP/s a GPU, evaluations {STATED_SPEEDUP:g} times a core's")
        if CPU in self.stated:
            parts.append(f"stated: {STATED[CPU]:g} GFLOP/s a core")
        return "; ".join(parts)

    # ---- other seeds of the config -------------------------------------------------------------------------------

    def _measured(self, runs: Sequence[Recorded], work: Work | None) -> Parts:
        phased = [run for run in runs if run.training is not None]
        if not phased:  # nothing tells the phases apart: the steps are nearly all of it
            whole, none = _mean([run.cost for run in runs]), Cost(0.0, 0.0)
            return Parts(none, whole) if work is not None and not work.steps else Parts(whole, none)
        return Parts(_mean([run.training for run in phased if run.training]), _mean([_rest(run) for run in phased]))

    # ---- operations over rates -----------------------------------------------------------------------------------

    def _modelled(self, work: Work) -> Parts:
        size = work.training / work.steps if work.training and work.steps else 0.0

        def trained(run: Recorded) -> Rate | None:
            done = run.work.training if run.work else None
            return (done, run.training) if done and run.training is not None and run.steps else None

        training = Cost(0.0, 0.0)
        if work.training:
            training = self._of(work, trained, lambda run: _size(run.work), size).times(work.training)
        return Parts(training, self._judging(work, trained))

    def _judging(self, work: Work, trained: Callable[[Recorded], Rate | None]) -> Cost:
        assert work.clip is not None
        gflop = work.clip * (work.clips or STATED_CLIPS)

        def encoded(run: Recorded) -> Rate | None:
            return (run.features_gflop, run.features) if run.features and run.features_gflop else None

        if not work.evals:
            return Cost(0.0, 0.0)
        total = encoding = self._of(work, encoded, lambda run: run.features_gflop, gflop).times(gflop)
        for name in work.evals:
            if name in work.tuning:
                total += self._of(work, trained, lambda run: _size(run.work), work.clip).times(work.tuning[name])
            else:
                total += self._evaluation(work, name, encoding)
        return total

    def _evaluation(self, work: Work, name: str, encoding: Cost) -> Cost:
        """An evaluation's own work grows with the clips and the width, the root of what encoding a clip takes."""

        def unit(clips: int | None, gflop: float | None) -> float:
            return (clips or STATED_CLIPS) * math.sqrt(gflop or 1.0)

        def judged(run: Recorded) -> Rate | None:
            if name not in run.evals or run.work is None or not run.features_gflop:
                return None
            clips = run.work.clips or STATED_CLIPS
            return unit(clips, run.features_gflop / clips), run.evals[name]

        mine = unit(work.clips, work.clip)
        for device in (self.device, CPU):
            if (rate := self._rate(work, judged, lambda run: (judged(run) or (0.0,))[0], mine, device)) is None:
                continue
            if device == self.device:
                return rate.times(mine)
            self.stated.add(GPU)
            seconds = rate.cpu_seconds * mine / STATED_SPEEDUP
            return Cost(seconds, seconds)
        self.stated.add(self.device)
        return encoding.times(STATED_EVALUATION)

    def _of(
        self,
        work: Work,
        part: Callable[[Recorded], Rate | None],
        size_of: Callable[[Recorded], float],
        size: float,
    ) -> Cost:
        """Seconds for 1e9 operations, measured or stated."""
        if (rate := self._rate(work, part, size_of, size, self.device)) is not None:
            return rate
        self.stated.add(self.device)
        seconds = 1 / STATED[self.device]
        return Cost(seconds, seconds if self.device == GPU else 0.0)  # a process that drives a GPU keeps a core busy

    def _rate(
        self,
        work: Work,
        part: Callable[[Recorded], Rate | None],
        size_of: Callable[[Recorded], float],
        size: float,
        device: str,
    ) -> Cost | None:
        """The median over the runs nearest in size, of the same kind if there are some, else of any."""
        found = [(run, rate) for run in self._done if run.device == device and (rate := part(run)) is not None]
        for same in (4, 2, 1, 0):  # all of `sweeps.cells.work.KIND`; objective and encoder; objective; any
            alike = [(r, rate) for r, rate in found if r.work and r.work.kind[:same] == work.kind[:same]]
            if alike:
                break
        else:
            return None
        near = sorted(alike, key=lambda one: _distance(size_of(one[0]), size))[:NEAREST]
        self.used |= {run.key for run, _ in near}
        return Cost(*(median(cost[i] / amount for _, (amount, cost) in near) for i in range(2)))


def _rest(run: Recorded) -> Cost:
    """What followed the steps; all of it for a run that took another's weights, whose steps that one has paid."""
    assert run.training is not None
    if run.training.seconds > run.cost.seconds:
        return run.cost
    return Cost(*(max(0.0, whole - steps) for whole, steps in zip(run.cost, run.training, strict=True)))


def _size(work: Work | None) -> float:
    return work.training / work.steps if work and work.training and work.steps else 0.0


def _distance(a: float, b: float) -> float:
    return abs(math.log(max(a, 1e-9) / max(b, 1e-9)))


def _sum(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost(0.0, 0.0))


def _mean(costs: Sequence[Cost]) -> Cost:
    return Cost(mean(cost.cpu_seconds for cost in costs), mean(cost.gpu_seconds for cost in costs))


# ---- reading ---------------------------------------------------------------------------------------------------------


def recorded(connection: Connection, studies: Sequence[str] | None = None) -> list[Recorded]:
    """Every run of the database, or all of the configs of these studies, under today's identity of its config.

    With those of studies also all whose weights are kept: a run that would train the same may take them.
    """
    query = (
        select(
            RunRow.config_id, RunRow.id, RunRow.seed, RunRow.state, RunRow.cpu_seconds, RunRow.gpu_seconds,
            RunRow.checkpoint, RunRow.checkpoint_step, Attempt.step,
            *(Attempt.facts[name].as_float() for name in CLOCKED),  # of all that an attempt tells: no decoding here
        )
        .outerjoin(Attempt, and_(Attempt.run_id == RunRow.id, Attempt.n == RunRow.attempt))
        .where(RunRow.code_epoch == CODE_EPOCH)
    )  # fmt: skip
    told = select(Result.run_id, Result.metric, Result.value).where(Result.metric.like("cost/%"))
    asked = select(Config.id, Config.hash, Config.json)
    kept = select(RunRow.config_id).where(RunRow.state == "done", RunRow.checkpoint.is_not(None)).distinct()
    with_weights = set(connection.scalars(kept))
    if studies is not None:
        own = select(CellRow.config_id).join(StudyRow, StudyRow.id == CellRow.study_id)
        own = own.where(StudyRow.name.in_(studies))
        needed = own.union(kept) if with_weights else own
        query, asked = query.where(RunRow.config_id.in_(needed)), asked.where(Config.id.in_(needed))
        told = told.where(Result.run_id.in_(select(RunRow.id).where(RunRow.config_id.in_(needed))))
    costs: dict[int, dict[str, float]] = {}
    for run_id, metric, value in connection.execute(told).all():
        if value is not None:
            costs.setdefault(run_id, {})[metric.removeprefix("cost/")] = value
    configs = {  # each of them once: a study has ten seeds of it, and a search of many options large ones
        config_id: (aliases.name_today(name, flat), described(flat, has_weights=config_id in with_weights))
        for config_id, name, flat in connection.execute(asked).all()
    }
    return [
        _recorded(*configs[config_id], costs.get(run_id, {}), *others)
        for config_id, run_id, *others in connection.execute(query).all()
    ]


def _recorded(
    config: str, work: Work, costs: Mapping[str, float], seed: int, state: str, cpu_seconds: float, gpu_seconds: float,
    checkpoint: str | None, checkpoint_step: int | None, step: int | None, *clocked: float | None,
) -> Recorded:  # fmt: skip
    whole = Cost(cpu_seconds, gpu_seconds)
    if "gflop_per_step" in costs:
        work = work._replace(training=costs["gflop_per_step"] * work.steps)
    training = _phase(costs, "pretrain")
    if training is None and clocked[0] is not None:
        # Of older code, which told the phases apart by the clock alone.
        seconds = sum(found or 0.0 for found in clocked)
        training = whole.times(clocked[0] / seconds if seconds else 0.0)
    return Recorded(
        key=(config, seed),
        state=state,
        steps=work.steps,
        cost=whole,
        step=(step if state == "running" else None) or checkpoint_step or 0,
        has_checkpoint=checkpoint is not None,
        work=work,
        training=training,
        features=_phase(costs, "features"),
        features_gflop=costs.get("features_gflop", 0.0),
        evals={name: cost for name in work.evals if (cost := _phase(costs, f"eval_{name}")) is not None},
    )


def _phase(costs: Mapping[str, float], phase: str) -> Cost | None:
    cpu = costs.get(f"{phase}_cpu_seconds")
    return None if cpu is None or math.isnan(cpu) else Cost(cpu, costs.get(f"{phase}_gpu_seconds") or 0.0)
