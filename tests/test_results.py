"""The committed tables and figures are what the committed database gives, to the byte."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from analysis import report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: what is committed cannot be listed")
def test_git_holds_the_database_its_tables_and_figures_and_no_page_of_a_run() -> None:
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept = {name.split("/")[1] for name in listed.stdout.splitlines()}
    assert kept == {"README.md", "ablations.sqlite", "tables", "figures"}


@pytest.mark.slow
def test_no_table_or_figure_of_the_repository_was_edited_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tables", "figures"):  # and not the site, if somebody made it: git does not hold it
        (tmp_path / name).symlink_to(RESULTS / name)
    code = report.main([f"db=sqlite:///{RESULTS}/ablations.sqlite", f"results_dir={tmp_path}", "check=true"])
    assert code == 0, f"{capsys.readouterr().out}do not edit results/; run: python -m analysis.report"
