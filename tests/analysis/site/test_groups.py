from __future__ import annotations

from dataclasses import replace

from analysis.site.groups import NEVER, OWN, grouped
from analysis.site.summary import NOT_RUN, Summary


def study(name: str, paper: str = "", state: str = "complete", answer: str = "", **kinds: int) -> Summary:
    return Summary(
        name=name, title=name, question="", paper=paper, place="", arxiv="", scale="cpu", state=state,
        counts={}, cpu_seconds=0.0, gpu_seconds=0.0, num_to_come=0, costs=(), cost_basis="", command="",
        answer=answer, kinds=kinds,
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
    first, second = study("a", "MAE", answer="a", undecided=1), study("b", "MAE", "partial", "b", better=1)
    (group,) = grouped([first, second])
    assert (group.state, [study.answer for study in group.findings]) == ("1 of 2 complete", ["b", "a"])


def test_findings_that_decide_some_rows_come_before_those_that_decide_none() -> None:
    kinds = {"none": {"undecided": 1}, "some": {"lower": 1, "undecided": 1}, "all": {"better": 1}}
    (group,) = grouped([study(name, "MAE", answer=name, **counts) for name, counts in kinds.items()])
    assert [study.name for study in group.findings] == ["all", "some", "none"]


def test_findings_that_a_paper_printed_too_and_that_decide_much_come_first() -> None:
    recipe, one = study("recipe", "MAE", answer="recipe", better=9), study("one", "MAE", answer="one", worse=1)
    three = replace(study("three", "MAE", answer="three", worse=2, same=1), has_printed=True)
    (group,) = grouped([recipe, replace(one, has_printed=True), three])
    assert [one.name for one in group.findings] == ["three", "one", "recipe"]


def test_a_row_called_undecided_is_no_verdict() -> None:
    (group,) = grouped(
        [
            study("a", "MAE", answer="b is undecided", undecided=1),
            study("c", "MAE", answer="“undecided or not” is better", better=1),
        ]
    )
    assert [study.name for study in group.findings] == ["c", "a"]


def test_an_answer_without_a_verdict_yet_comes_last() -> None:
    (group,) = grouped([study("a", "MAE", answer="it is not judged yet"), study("b", "MAE", answer="b", worse=1)])
    assert [study.name for study in group.findings] == ["b", "a"]
