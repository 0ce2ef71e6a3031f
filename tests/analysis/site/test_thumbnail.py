"""The stamp of a study's main figure on the index."""

from __future__ import annotations

import re

from sqlalchemy import Engine

from analysis.numbers.frame import load
from analysis.site import thumbnail
from tests.analysis.conftest import MAIN, ROWS, Laboratory


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_a_dot_stands_for_each_seed_that_gave_a_number(engine: Engine) -> None:
    frame = load(engine, "ijepa_masking")
    stamp = thumbnail.of_frame(frame)
    assert stamp is not None
    trained = frame.runs[~frame.runs["is_random_init"].astype(bool)]
    assert sum(len(places(one.dots)) for one in stamp.series) == trained["value"].notna().sum() > 1
    assert stamp.label == "ridge top-1, digits (%) of each row; dashed: the baseline" and stamp.baseline


def test_each_column_of_a_study_has_a_line_through_its_means(engine: Engine) -> None:
    frame = load(engine, "masking_ratio")
    stamp = thumbnail.of_frame(frame)
    assert stamp is not None
    assert [len(places(one.means)) for one in stamp.series] == [3, 3]


def test_everything_lies_within_the_stamp(engine: Engine) -> None:
    for name in ("ijepa_masking", "masking_ratio"):
        stamp = thumbnail.of_frame(load(engine, name))
        assert stamp is not None
        for x, y in places("".join(one.dots + one.means for one in stamp.series)):
            assert 0 <= x <= thumbnail.WIDTH and 0 <= y <= thumbnail.HEIGHT


def test_a_study_with_no_figure_or_one_number_has_no_stamp(laboratory: Laboratory) -> None:
    laboratory.study("bare", {key: value for key, value in ROWS.items() if key != "figures"})
    laboratory.study("young", ROWS)
    laboratory.run("bare", "block", 0, {MAIN: 60.0})  # which both ask for
    for study in ("bare", "young"):
        assert thumbnail.of_frame(load(laboratory.engine, study)) is None


def test_seeds_that_agree_to_the_last_digit_are_drawn_in_the_middle(laboratory: Laboratory) -> None:
    laboratory.study("flat", ROWS)
    for row in ("multiblock", "block"):
        laboratory.run("flat", row, 0, {MAIN: 60.0})
    stamp = thumbnail.of_frame(load(laboratory.engine, "flat"))
    assert stamp is not None
    assert {x for x, _ in places(stamp.series[0].dots)} == {thumbnail.WIDTH / 2}
