"""The committed tables and figures are what the committed database gives, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import report

RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.slow
def test_no_table_or_figure_of_the_repository_was_edited_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    code = report.main([f"db=sqlite:///{RESULTS}/ablations.sqlite", f"results_dir={RESULTS}", "check=true"])
    assert code == 0, f"{capsys.readouterr().out}do not edit results/; run: python -m analysis.report"
