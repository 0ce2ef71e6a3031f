"""docs/add_a_study.md: its studies resolve to runs, its commands are understood."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from sweeps import launch, plan
from sweeps.cells.expand import expand
from sweeps.cells.request import Request
from sweeps.study.reading import parse

TEXT = (Path(__file__).parents[2] / "docs" / "add_a_study.md").read_text(encoding="utf-8")
STUDIES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
COMMANDS = re.findall(r"^python -m sweeps\.(\w+) (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study["title"])
def test_a_study_of_the_page_resolves_to_runs_that_core_can_build(study):
    assert len(expand(Request(parse(study, Path("studies/page.yaml")), "smoke")).cells) >= 2


@pytest.mark.parametrize("line", re.findall(r"`((?:grid|seeds): \{.*?\})`", TEXT))
def test_a_fragment_of_the_page_fits_into_a_study(line):
    fragment = yaml.safe_load(line)
    study = {**STUDIES[0], **fragment}
    for key in ("rows", "baseline", "printed") if "grid" in fragment else ():
        del study[key]
    assert expand(Request(parse(study, Path("studies/page.yaml")), "smoke")).cells


def test_the_commands_of_the_page_are_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [name for name, _ in COMMANDS] == ["plan", "launch", "launch"]
    assert plan.main(COMMANDS[0][1].split()) == 0
    assert "search_masking@smoke" in capsys.readouterr().out
    assert launch.parse(COMMANDS[1][1].split()).request.study.search("smoke").budget == 4
    assert launch.parse(COMMANDS[2][1].split()).priority == 5
    assert "optuna-dashboard sqlite:///results/ablations.sqlite" in TEXT
    assert (Path(sys.executable).parent / "optuna-dashboard").exists()
