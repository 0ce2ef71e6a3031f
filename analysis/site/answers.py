"""What a study answers, in the sentence of its table and in numbers, for indexes that make no table."""

from __future__ import annotations

from collections import Counter

from analysis.figures import search
from analysis.numbers import comparing
from analysis.numbers.frame import Frame


def answer(frame: Frame) -> str:
    """Empty where nothing can be compared yet."""
    return frame.once(comparing.sentence_of if _is_of_rows(frame) else search.sentence_of)


def kinds(frame: Frame) -> Counter[str]:
    """How many rows are better, worse, ... or undecided beside the baseline; a search's best is its only row."""
    return comparing.kinds_of(frame) if _is_of_rows(frame) else frame.once(search.kinds_of)


def _is_of_rows(frame: Frame) -> bool:
    return frame.study.search(frame.scale) is None
