"""What the index says of each study: how far it is, what it cost, and what finishing or starting it would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.answers import answer
from analysis.frame import MISSING, Frame, records
from sweeps.edited import launch_words
from sweeps.offered import Place
from sweeps.study import DEFAULT_SCALE, Study, StudyError, is_trial, names, read

LEFT = (MISSING, "queued", "running", "cancelled")  # states of a run that is still to be trained
WITHOUT = ("failed", "diverged", "pruned")  # ended without a number: an outcome, which launching does not repeat
NOT_RUN = "not run"
NO_STEPS, ANY = "no steps", "any method"  # kinds of runs, beside the methods' names


@dataclass(frozen=True)
class Summary:
    """One line of the index."""

    name: str
    title: str
    question: str
    paper: str
    place: str
    arxiv: str
    scale: str
    state: str  # complete, running, partial, not run
    counts: dict[str, int]  # runs by state; a run that two cells share counts once
    cpu_seconds: float
    gpu_seconds: float
    cost_left: float | None  # seconds of CPU or GPU, whichever the study uses more of; None: nothing tells
    cost_basis: str  # where that comes from
    command: str
    has_page: bool = True
    answer: str = ""  # the rows' verdicts in a sentence

    @property
    def num_done(self) -> int:
        return self.counts.get("done", 0)

    @property
    def num_wanted(self) -> int:
        return sum(self.counts.values())

    @property
    def num_left(self) -> int:
        return sum(self.counts.get(state, 0) for state in LEFT)

    @property
    def without(self) -> list[tuple[str, int]]:
        """States that ended without a number, with how many."""
        return [(state, self.counts[state]) for state in WITHOUT if self.counts.get(state)]

    @property
    def seconds(self) -> float:
        return max(self.cpu_seconds, self.gpu_seconds)


def of_frame(frame: Frame, spec: Mapping[str, Any], place: Place) -> Summary:
    """A study of the database."""
    runs = frame.runs.drop_duplicates(["config_id", "seed"])
    counts = dict(Counter(runs["state"]))
    left, basis = _cost_left(frame, runs)
    return Summary(
        **_words(frame.study),
        name=frame.name,
        scale=frame.scale,
        state=_state(counts),
        counts=counts,
        cpu_seconds=float(runs["cpu_seconds"].fillna(0).sum()),
        gpu_seconds=float(runs["gpu_seconds"].fillna(0).sum()),
        cost_left=left,
        cost_basis=basis,
        command=command(frame.name, spec, place),
        answer=answer(frame),
    )


def _words(study: Study) -> dict[str, Any]:
    source = study.source
    return {
        "title": study.title, "question": study.question, "paper": source.get("paper", ""),
        "place": source.get("place", ""), "arxiv": source.get("arxiv", ""),
    }  # fmt: skip


def _state(counts: Mapping[str, int]) -> str:
    if counts.get("running"):
        return "running"
    if not any(counts.get(state) for state in LEFT):
        return "complete"
    return "partial" if any(state not in LEFT for state in counts) else NOT_RUN


def _cost_left(frame: Frame, runs: pd.DataFrame) -> tuple[float | None, str]:
    """As `sweeps.plan` estimates it: a config's other seeds, else the study's cost a step."""
    left = runs[runs["state"].isin(LEFT)]
    if left.empty:
        return 0.0, ""
    done = runs[runs["state"] == "done"].assign(seconds=runs[["cpu_seconds", "gpu_seconds"]].max(axis="columns"))
    of_config = done.groupby("config_id")["seconds"].mean()
    steps = frame.configs["optim.steps"] if "optim.steps" in frame.configs else pd.Series(dtype="float64")
    total_steps = float(done["config_id"].map(steps).fillna(0).sum())
    by_step = left["config_id"].map(steps) * (done["seconds"].sum() / total_steps) if total_steps else float("nan")
    costs = left["config_id"].map(of_config).fillna(by_step)
    if costs.isna().any():
        return None, "nothing like it has been run"
    return float(costs.sum()), "from this study's recorded runs"


def command(name: str, spec: Mapping[str, Any], place: Place) -> str:
    """What trains, or resumes, this instance of a study, as typed in a shell."""
    words, seeds = launch_words(name, spec), spec.get("seeds")
    if seeds != _file_seeds(name.partition("@")[0], str(spec.get("scale", DEFAULT_SCALE))):
        if isinstance(seeds, list):
            words.append(f"seeds=[{','.join(map(str, seeds))}]")
        elif isinstance(seeds, Mapping):
            words.append("seeds={" + ", ".join(f"{key}: {_typed(value)}" for key, value in seeds.items()) + "}")
    return place.command("sweeps.launch", *words)


def _typed(value: Any) -> str:
    """A value of a rule for seeds: "half_width < 1" is one word to YAML with quotes only."""
    return f'"{value}"' if isinstance(value, str) and " " in value else str(value)


def _file_seeds(stem: str, scale: str) -> Any:
    """The seeds that the study's file gives at a scale; None where there is no such file (any more)."""
    try:
        return read(stem).seeds_spec(scale)
    except StudyError:
        return None


# ---- studies that nobody has launched --------------------------------------------------------------------------------


def not_launched(known: Sequence[str], frames: Sequence[Frame], place: Place) -> list[Summary]:
    """The study files that the database has no instance of at the default scale."""
    per_kind = _cost_by_kind(frames)
    return [_of_file(stem, per_kind, place) for stem in names() if stem not in known]


def _of_file(stem: str, per_kind: Mapping[str, tuple[float, int]], place: Place) -> Summary:
    study = read(stem)
    kinds = [_kind(cell.overrides) for cell in study.cells(DEFAULT_SCALE) if not cell.is_random_init]
    num_runs = len(kinds) * len(study.seeds(DEFAULT_SCALE))
    costs = [per_kind.get(kind, per_kind.get(ANY)) for kind in kinds]
    left = sum(cost[0] for cost in costs if cost is not None) * len(study.seeds(DEFAULT_SCALE))
    further = ""
    if (search := study.search(DEFAULT_SCALE)) is not None:
        # Trials are of the same method; some are stopped early.
        left, num_runs = left * (1 + search.num_runs / num_runs), num_runs + search.num_runs
    elif (rule := study.seed_rule(DEFAULT_SCALE)) is not None:
        further = f"; its rule may ask for {len(kinds) * rule.maximum - num_runs} runs more"
    is_known = all(cost is not None for cost in costs)
    return Summary(
        **_words(study),
        name=stem,
        scale=DEFAULT_SCALE,
        state=NOT_RUN,
        counts={MISSING: num_runs},
        cpu_seconds=0.0,
        gpu_seconds=0.0,
        cost_left=left if is_known else None,
        cost_basis=(_basis(kinds, per_kind) if is_known else "nothing has been run yet") + further,
        command=place.command("sweeps.launch", f"study={stem}"),
        has_page=False,
    )


def _basis(kinds: Sequence[str], per_kind: Mapping[str, tuple[float, int]]) -> str:
    known = [f"{per_kind[kind][1]} runs of {kind}" for kind in sorted(set(kinds) & per_kind.keys())]
    other = sorted(set(kinds) - per_kind.keys())
    if not other:
        return f"rough: as {', '.join(known)}"
    return "very rough: " + "; ".join([*(f"as {words}" for words in known), f"{', '.join(other)} as any method"])


def _kind(overrides: Mapping[str, Any]) -> str:
    """What runs cost alike by: the method that they start from, unless they are for pictures only."""
    return NO_STEPS if overrides.get("optim.steps") == 0 else str(overrides.get("method", "no method"))


def _cost_by_kind(frames: Sequence[Frame]) -> dict[str, tuple[float, int]]:
    """Mean seconds of a done run at the default scale, and how many there are, by `_kind` and of `ANY`."""
    costs: dict[str, list[float]] = {}
    for frame in frames:
        if frame.scale != DEFAULT_SCALE:
            continue
        of_cell = {
            (cell.row_key, cell.col_key): _kind(cell.overrides)
            for cell in frame.study.cells(frame.scale)
            if not cell.is_random_init
        }
        runs = frame.runs[frame.runs["state"] == "done"].drop_duplicates("run_id")
        for run in records(runs[["row_key", "col_key", "cpu_seconds", "gpu_seconds"]]):
            kind = of_cell.get((run.row_key, run.col_key))
            if kind is not None and not is_trial(run.row_key):
                for key in (kind, ANY) if kind != NO_STEPS else (kind,):
                    costs.setdefault(key, []).append(max(run.cpu_seconds, run.gpu_seconds))
    return {kind: (sum(found) / len(found), len(found)) for kind, found in costs.items()}
