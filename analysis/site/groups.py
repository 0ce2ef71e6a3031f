"""The index in groups that fold: a reader's own studies, then each paper's, then what nobody has run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.site.summary import NOT_RUN, Summary

OWN, NEVER = "Own questions", "Not run yet"
MOST_FINDINGS = 3  # of a folded paper: seven papers and what is never run fit on a page
MOST_OPEN = 8  # studies that have run: with more of them papers are folded, so that all fit on a page


@dataclass(frozen=True)
class Group:
    """`state` counts what is complete, `findings` are the clearest answers of its studies: read while it is folded."""

    name: str
    studies: tuple[Summary, ...]
    is_open: bool

    @property
    def state(self) -> str:
        num_complete = sum(study.state == "complete" for study in self.studies)
        num = len(self.studies)
        running = sum(study.state == "running" for study in self.studies)
        words = [f"{num_complete} of {num} complete"] if self.name != NEVER else [f"{num} studies"]
        return ", ".join(words + ([f"{running} running"] if running else []))

    @property
    def findings(self) -> list[Summary]:
        """The studies whose answers are clearest, the paper's own questions before how its runs are trained here."""
        told = [study for study in self.studies if study.answer]
        return sorted(told, key=_late)[:MOST_FINDINGS]

    @property
    def has_figures(self) -> bool:
        return any(study.thumbnail for study in self.studies)


def grouped(studies: Sequence[Summary]) -> list[Group]:
    """Studies that are of no paper are whoever asks's own and come first."""
    found: dict[str, list[Summary]] = {}
    for study in studies:
        name = NEVER if study.state == NOT_RUN else study.paper or OWN
        found.setdefault(name, []).append(study)
    places = {OWN: 0, NEVER: 2}
    num_run = sum(len(own) for name, own in found.items() if name != NEVER)
    return [
        Group(name, tuple(found[name]), is_open=name == OWN or (name != NEVER and num_run <= MOST_OPEN))
        for name in sorted(found, key=lambda name: (places.get(name, 1), name))
    ]


def _late(study: Summary) -> tuple[bool, bool, bool, int]:
    """Last what decides no row; before it what no paper printed, what leaves a row undecided, what decides few."""
    num_undecided = study.kinds.get("undecided", 0)
    num_decided = sum(study.kinds.values()) - num_undecided
    return num_decided == 0, not study.has_printed, num_undecided > 0, -num_decided
