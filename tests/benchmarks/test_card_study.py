"""The parts of a visit to a card that train whole studies, tried out without one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import card_study, gpu
from benchmarks.lines import ROOT

TINY = """
title: Two ratios
question: Does a study go through?
source: {paper: None, arxiv: "0000.00000", place: nowhere}
base: {method: mae, optim.steps: STEPS, evals: [ridge]}
metrics: ["ridge/{label}_top1"]
seeds: [0, 1]
grid:
  mask.ratio: [0.5, 0.75]
"""


def study(folder: Path, steps: int) -> list[str]:
    file = folder / "tiny.yaml"
    file.write_text(TINY.replace("STEPS", str(steps)))
    return [
        "--device",
        "cpu",
        "--scale",
        "smoke",
        "--study",
        str(file),
        "--out",
        str(folder / "out"),
        "runtime.monitors=0",
    ]


@pytest.mark.slow
def test_a_study_is_done_in_stacks_and_told_of(tmp_path, capsys):
    assert card_study.main([*study(tmp_path, 4), "--stack", "2"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"runs: (\d+) of \1 done \(\1 done\)", told) and "4 in stacks of 2" in told
    assert told.endswith("\nfinished\n") and re.search(r"steps: [\d.]+ a second", told)


@pytest.mark.slow
def test_a_study_that_is_longer_than_a_part_goes_on_in_the_next(tmp_path, capsys):
    words = [*study(tmp_path, 3000), "--stack", "1"]
    assert card_study.main([*words, "--seconds", "25"]) == 0
    told = capsys.readouterr().out
    assert ("runs: 0 of " in told or "runs: none yet" in told) and told.endswith(
        "not finished: the same command goes on\n"
    )
    assert "running" not in told  # each gave itself back


def test_a_launch_that_fails_is_told_with_its_last_words(tmp_path, capsys):
    assert card_study.main(["--device", "cpu", "--scale", "smoke", "--study", "mea", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "FAILED: the launch ended with code 2" in told and "mea" in told


@pytest.mark.parametrize("part", gpu.PARTS)
def test_every_part_is_a_command_that_knows_its_words(part, monkeypatch):
    seen = []

    def run(words, **limits):
        seen.append((words, limits))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert gpu.main(["--part", part, "--device", "cpu", "--scale", "smoke"]) == 0
    ((words, limits),) = seen
    assert limits["timeout"] <= 540 and words[:2] == [sys.executable, "-m"]
    assert words[words.index("--device") + 1] == "cpu" and words[-2:] == ["--scale", "smoke"] and "--part" not in words
    monkeypatch.undo()
    helped = subprocess.run([*words[:3], "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(word in helped for word in words[3:] if word.startswith("--"))


def test_a_part_that_takes_too_long_is_ended_and_said(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "PART_S", 0.5)
    assert gpu.main(["--part", "stack", "--device", "cpu"]) == 1
    assert capsys.readouterr().out == "stack: ENDED after 0 s\n"
