"""The commands of docs/look_at_results.md, in a folder with a small database."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

import analysis
from analysis import report
from analysis.site.study_page import MOST_PAGES
from sweeps.database.opening import open_database, upgrade
from tests.docs.blocks import DOCS, commands
from tests.sweeps.launched import finish_next, register, two_rows

COMMANDS = dict(commands("look_at_results.md"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    engine = open_database("sqlite:///results/ablations.sqlite")
    upgrade(engine)
    register(engine, two_rows())
    finish_next(engine, {"ridge/digit_top1": 60.0})
    engine.dispose()
    return tmp_path


def test_the_report_writes_the_site_and_tables_with_all_notes(folder):
    short, full = (words for module, words in commands("look_at_results.md") if module == "analysis.report")
    table = folder / "results/tables/ratio.tex"
    assert report.main(short) == 0
    assert "studies/ratio.html" in (folder / "results/report/index.html").read_text()
    brief = table.read_text()
    assert report.main(full) == 0
    assert len(table.read_text()) > len(brief)


def test_the_server_serves_it(folder):
    words = [re.sub("^port=.*", "port=0", word) for word in COMMANDS["analysis.serve"]]
    command = [sys.executable, "-m", "analysis.serve", *words]
    source = {"PYTHONPATH": str(Path(analysis.__path__[0]).parent)}
    with subprocess.Popen(command, cwd=folder, env=source, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        with urlopen(address, timeout=120) as answer:
            assert "studies/ratio.html" in answer.read().decode()
        server.terminate()


def test_the_page_says_how_many_runs_have_pages():
    assert f"than {MOST_PAGES} runs" in (DOCS / "look_at_results.md").read_text(encoding="utf-8")
