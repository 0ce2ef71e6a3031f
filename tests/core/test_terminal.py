"""What a terminal of fewer letters shows, and words that were meant."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import terminal

ROOT = Path(__file__).parents[2]


def shown(text: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        terminal.survive_any()
        stream.write(text)
        stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_none_not_known_and_unknown_stay_apart_in_plain_letters(encoding, monkeypatch) -> None:
    marks = [shown(mark, encoding, monkeypatch) for mark in ("·", "–", "?", "†", "≈")]
    assert len(set(marks)) == len(marks) and marks[2] == "?" and marks.count("?") == 1


def test_a_letter_loses_its_accent_and_what_has_no_plain_form_is_a_question_mark(monkeypatch) -> None:
    assert shown("Größe → 50 ± 2 ≤ é 漢", "ascii", monkeypatch) == "Grosse -> 50 +- 2 <= e ?"


def test_what_the_terminal_can_show_stays(monkeypatch) -> None:
    assert shown("· – † 漢", "utf-8", monkeypatch) == "· – † 漢"
    assert shown("· ± é", "iso-8859-1", monkeypatch) == "· ± é"


def test_a_command_in_plain_letters_tells_nothing_left_from_an_unknown_cost(tmp_path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    code = "from core import terminal; terminal.survive_any(); print('done ·, not yet –, unknown ?')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout == b"done ., not yet -, unknown ?\n"


def test_two_letters_that_changed_places_are_near_in_a_short_word() -> None:
    assert terminal.close_matches("bd", ["db", "study"]) == " (did you mean db?)"


def test_a_dotted_word_is_near_no_option_that_nothing_goes_on_below() -> None:
    said = terminal.unknown_options(["runtime.cache"], ["study", "run"], is_open=False)
    assert said == "runtime.cache: unknown option; options: study, run"
    assert "did you mean mask.ratio" in terminal.unknown_options(["maks.ratio"], ["study"], near=["mask"])


def test_options_given_once_are_told_from_the_others() -> None:
    assert terminal.given_once(["a=1", "b=2", "a=3", "c"]) == ["b=2", "c"]
