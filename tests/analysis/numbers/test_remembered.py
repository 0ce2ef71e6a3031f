"""What was computed or drawn before is given again, and only where nothing that decides it is another."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from analysis.figures import drawing, theme
from analysis.numbers import remembered
from analysis.numbers.frame import load
from analysis.one_study import figures


def test_what_was_written_is_read() -> None:
    files = {"svg": b"<svg>\n</svg>", "png": b"\n\0\xff", "csv": b""}
    remembered.write({"key": files})
    assert remembered.read("key") == files


def test_what_nobody_wrote_is_not_there() -> None:
    assert remembered.read("key") is None


@pytest.mark.parametrize("damaged", [b"", b"\n", b"half", "cut", "changed"])
def test_a_damaged_entry_is_none(damaged: bytes | str) -> None:
    remembered.write({"key": {"svg": b"<svg></svg>"}})
    path = remembered.FOLDER / "key"
    whole = path.read_bytes()
    kinds = {"cut": whole[:-1], "changed": whole[:-1] + b"!"}
    path.write_bytes(kinds[damaged] if isinstance(damaged, str) else damaged)
    assert remembered.read("key") is None


def test_the_oldest_entries_go_where_all_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for day, key in enumerate(("a", "b")):
        remembered.write({key: {"svg": bytes(1000)}})
        os.utime(remembered.FOLDER / key, (day, day))
    size = (remembered.FOLDER / "a").stat().st_size
    monkeypatch.setattr(remembered, "MOST_BYTES", 2 * size)
    remembered.read("a")  # asked for last
    remembered.write({"c": {"svg": bytes(1000)}})
    assert [key for key in "abc" if remembered.read(key)] == ["a", "c"]


def test_a_folder_that_cannot_be_written_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    file = remembered.FOLDER / "file"
    file.touch()
    monkeypatch.setattr(remembered, "FOLDER", file)
    remembered.write({"key": {"svg": b"<svg></svg>"}})
    assert remembered.read("key") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (0.1 + 0.2, 0.3),
        (None, "None"),
        (["a", "b"], ["ab"]),
        ([["a"], "b"], [["a", "b"]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros((2, 1)), np.zeros((1, 2))),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1.0, 2.0]})),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"b": [1, 2]})),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]}, index=[1, 0])),
    ],
)
def test_what_may_be_drawn_differently_has_another_key(one: object, other: object) -> None:
    assert remembered.key_of(one) != remembered.key_of(other)


def test_what_is_not_told_in_words_is_refused() -> None:
    with pytest.raises(TypeError, match="no words tell a object"):
        remembered.key_of(object())


def test_a_figure_is_drawn_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = load(engine, "ijepa_masking")
    first = figures(frame)
    monkeypatch.setattr(drawing, "images", lambda *plot: pytest.fail("drawn again"))
    assert figures(load(engine, "ijepa_masking")) == first


@pytest.mark.parametrize("changed", ["code", "libraries", "settings", "numbers"])
def test_a_figure_is_drawn_again_where_anything_that_decides_it_is_another(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    frame = load(engine, "ijepa_masking")
    drawn: list[object] = []
    monkeypatch.setattr(drawing, "images", lambda plot, article: drawn.append(plot) or {"svg": b""})
    num_figures = len(figures(frame))
    assert len(drawn) == num_figures
    if changed == "numbers":
        frame.rows.loc[frame.rows["value"].idxmax(), "value"] += 1e-9
    elif changed == "settings":
        monkeypatch.setattr(theme, "what_decides", lambda article: ("of tomorrow",))
    else:
        monkeypatch.setattr(remembered, changed, lambda *packages: "of tomorrow")
    figures(frame)
    assert len(drawn) == 2 * num_figures
