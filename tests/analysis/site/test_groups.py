from __future__ import annotations

from analysis.site.groups import NEVER, OWN, grouped
from analysis.site.summary import NOT_RUN, Summary


def study(name: str, paper: str = "", state: str = "complete", answer: str = "") -> Summary:
    return Summary(
        name=name, title=name, question="", paper=paper, place="", arxiv="", scale="cpu", state=state, counts={},
        cpu_seconds=0.0, gpu_seconds=0.0, num_to_come=0, costs=(), cost_basis="", command="", answer=answer,
    )  # fmt: skip


def test_own_studies_come_first_then_papers_then_what_never_ran() -> None:
    found = grouped([study("a", "V-JEPA", NOT_RUN), study("b", "MAE"), study("mine"), study("c", "I-JEPA")])
    assert [group.name for group in found] == [OWN, "I-JEPA", "MAE", NEVER]


def test_what_never_ran_is_folded_and_own_studies_are_open() -> None:
    found = grouped([study("mine"), study("a", "MAE", NOT_RUN)])
    assert [group.is_open for group in found] == [True, False]


def test_many_studies_that_ran_fold_their_papers() -> None:
    found = grouped([study(str(number), "MAE") for number in range(9)])
    assert not found[0].is_open


def test_a_folded_paper_says_its_state_and_its_clearest_findings_first() -> None:
    (group,) = grouped([study("a", "MAE", answer="a is undecided."), study("b", "MAE", "partial", "b is better.")])
    assert (group.state, next(study.answer for study in group.findings)) == ("1 of 2 complete", "b is better.")


def test_findings_that_decide_some_rows_come_before_those_that_decide_none() -> None:
    answers = ["a is undecided.", "b is worse; c is undecided.", "d is better."]
    (group,) = grouped([study(str(number), "MAE", answer=answer) for number, answer in enumerate(answers)])
    assert [study.answer for study in group.findings] == answers[::-1]
