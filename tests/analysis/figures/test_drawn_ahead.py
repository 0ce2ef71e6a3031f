"""Figures drawn by other processes are those that this one draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Engine

from analysis import report
from analysis.numbers.frame import load


@pytest.mark.slow
def test_figures_of_other_processes_have_the_same_bytes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = load(engine, "ijepa_masking")
    bars = frame.study.figures[0]
    many = replace(frame.study, figures=tuple({**bars, "name": f"bars{i}"} for i in range(4)))
    monkeypatch.setattr(report, "WORTH_A_PROCESS", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with report.drawn_ahead([replace(frame, study=many)]) as images:
        found = images("ijepa_masking")
    assert list(found) == ["bars0", "bars1", "bars2", "bars3"]
    assert all(drawn == report.pictures(frame, bars) for drawn in found.values())
