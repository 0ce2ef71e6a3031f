"""What a study answers, in the sentence of its table, for indexes that make no table."""

from __future__ import annotations

from analysis.figures import search
from analysis.numbers import comparing
from analysis.numbers.frame import Frame


def answer(frame: Frame) -> str:
    """Empty where nothing can be compared yet."""
    of_rows = frame.study.search(frame.scale) is None
    return comparing.sentence_of(frame) if of_rows else search.sentence_of(frame)
