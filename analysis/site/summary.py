"""What the index says of each study: how far it is, what it cost, and what finishing or starting it would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.numbers.frame import MISSING, Frame
from analysis.site import thumbnail
from analysis.site.answers import answer, kinds
from sweeps.console.offered import Place
from sweeps.database.tables import WITHOUT_NUMBER
from sweeps.progress.to_finish import Cost, Line
from sweeps.study.files import StudyError, find
from sweeps.study.model import DEFAULT_SCALE, Study
from sweeps.study.reading import read

LEFT = (MISSING, "queued", "running", "cancelled")  # states of a run that is still to be trained
NOT_RUN = "not run"


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
    num_to_come: int  # runs that results decide on
    costs: tuple[Cost | None, ...]  # of all that is left and to come, as `sweeps.plan` has them; None: nothing tells
    cost_basis: str  # where they come from, or the command that tells
    command: str
    has_page: bool = True
    answer: str = ""  # the rows' verdicts in a sentence
    kinds: Mapping[str, int] = field(default_factory=dict)  # how many rows are better, ..., undecided
    thumbnail: thumbnail.Thumbnail | None = None  # of its main figure
    figures: tuple[str, ...] = ()
    is_search: bool = False
    has_printed: bool = False  # numbers of a paper
    runs: Mapping[int, tuple[str, float, float]] = field(default_factory=dict)  # state, CPU and GPU seconds by id

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
    def cost_left(self) -> float | None:
        """Seconds that workers are busy, at least; None where nothing tells."""
        known = [cost.seconds for cost in self.costs if cost is not None]
        return sum(known) if known or not self.costs else None

    @property
    def is_least(self) -> bool:
        """Whether that is of a part only."""
        return self.cost_left is not None and None in self.costs

    @property
    def without(self) -> list[tuple[str, int]]:
        """States that ended without a number, with how many."""
        return [(state, self.counts[state]) for state in WITHOUT_NUMBER if self.counts.get(state)]

    @property
    def seconds(self) -> float:
        return max(self.cpu_seconds, self.gpu_seconds)


def of_frame(
    frame: Frame, spec: Mapping[str, Any], words: Sequence[str], line: Line, basis: str, place: Place
) -> Summary:
    """A study of the database; `line` is what it needs, `basis` what the estimates of that stand on."""
    runs = frame.runs.drop_duplicates(["config_id", "seed"])
    counts = dict(Counter(runs["state"]))
    there = runs.dropna(subset="run_id")
    told = zip(*(there[key] for key in ("state", "cpu_seconds", "gpu_seconds")), strict=True)
    return Summary(
        **_words(frame.study),
        name=frame.name,
        scale=frame.scale,
        state=_state(counts),
        counts=counts,
        cpu_seconds=float(runs["cpu_seconds"].fillna(0).sum()),
        gpu_seconds=float(runs["gpu_seconds"].fillna(0).sum()),
        num_to_come=len(line.to_come),
        costs=tuple(line.costs),
        cost_basis=basis,
        command=command(frame.name, spec, words, place),
        answer=answer(frame),
        kinds=kinds(frame),
        thumbnail=frame.once(thumbnail.of_frame),
        figures=tuple(str(figure["name"]) for figure in frame.study.figures),
        is_search=frame.study.search(frame.scale) is not None,
        has_printed=frame.study.printed is not None,
        runs=dict(zip((int(run_id) for run_id in there["run_id"]), told, strict=True)),
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


def command(name: str, spec: Mapping[str, Any], words: Sequence[str], place: Place) -> str:
    """What trains, or resumes, this instance of a study, as typed in a shell; `words` without its seeds."""
    words, seeds = [*words], spec.get("seeds")
    study = words[0].removeprefix("study=")
    if seeds != _file_seeds(study, str(spec.get("scale", DEFAULT_SCALE))):
        if isinstance(seeds, list):
            words.append(f"seeds=[{','.join(map(str, seeds))}]")
        elif isinstance(seeds, Mapping):
            words.append("seeds={" + ", ".join(f"{key}: {_typed(value)}" for key, value in seeds.items()) + "}")
    return place.command("sweeps.launch", *words)


def _typed(value: Any) -> str:
    """A value of a rule for seeds: "half_width < 1" is one word to YAML with quotes only."""
    return f'"{value}"' if isinstance(value, str) and " " in value else str(value)


def _file_seeds(study: str, scale: str) -> Any:
    """The seeds that the study's file gives at a scale; None where there is no such file (any more)."""
    try:
        return read(study).seeds_spec(scale)
    except StudyError:
        return None


# ---- studies that nobody has launched --------------------------------------------------------------------------------


def not_launched(known: Sequence[str], place: Place) -> list[Summary]:
    """The study files that the database has no instance of at the default scale."""
    return [_of_file(stem, path, place) for stem, path in find().items() if stem not in known]


def _of_file(stem: str, path: Path, place: Place) -> Summary:
    """What it costs is for `sweeps.plan` to say: only core knows what its runs compute.

    A file that cannot be read ends no report: it is listed with what is wrong with it.
    """
    plan = place.command("sweeps.plan", f"study={stem}")
    told: dict[str, Any]
    try:
        study = read(path)
    except StudyError as error:
        told = {
            **{"title": stem, "question": f"This file cannot be read. {' '.join(str(error).split())}", "paper": ""},
            **{"place": "", "arxiv": "", "counts": {}, "num_to_come": 0, "command": plan},
        }
    else:
        told = {**_words(study), **_asked(study), "command": place.command("sweeps.launch", f"study={stem}")}
    return Summary(
        **told,
        name=stem,
        scale=DEFAULT_SCALE,
        state=NOT_RUN,
        cpu_seconds=0.0,
        gpu_seconds=0.0,
        costs=(None,),
        cost_basis=plan,
        has_page=False,
    )


def _asked(study: Study) -> dict[str, Any]:
    """How many runs a launch would begin with, and how many would be to come."""
    num_rows = sum(not cell.is_random_init for cell in study.cells(DEFAULT_SCALE))
    num_runs, num_to_come = num_rows * len(study.seeds(DEFAULT_SCALE)), 0
    if (search := study.search(DEFAULT_SCALE)) is not None:
        num_to_come = search.num_runs
    elif (rule := study.seed_rule(DEFAULT_SCALE)) is not None:
        num_to_come = num_rows * rule.maximum - num_runs
    return {"counts": {MISSING: num_runs}, "num_to_come": num_to_come}
