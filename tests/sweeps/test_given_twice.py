"""An option that is given twice is refused with both values by every command: none of them silently wins."""

from __future__ import annotations

import pytest

from analysis import gallery, recipes, report, serve, study_index
from core import evaluate, train
from core.terminal import given_twice
from core.weights import __main__ as weights
from sweeps import aliases, cli, decode, export, export_encoder, importing, launch, plan, query, status, worker

COMMANDS = {
    "core.train": train.main,
    "core.evaluate": evaluate.main,
    "core.weights": weights.main,
    "sweeps.aliases": aliases.main,
    "sweeps.decode": decode.main,
    "sweeps.export": export.main,
    "sweeps.export_encoder": export_encoder.main,
    "sweeps.importing": importing.main,
    "sweeps.launch": launch.main,
    "sweeps.plan": plan.main,
    "sweeps.query": query.main,
    "sweeps.status": status.main,
    "sweeps.worker": lambda words: cli.run(worker.main, words, worker.USAGE),
    "analysis.gallery": gallery.main,
    "analysis.recipes": recipes.main,
    "analysis.report": report.main,
    "analysis.serve": serve.main,
    "analysis.study_index": study_index.main,
}
OF_ITS_OWN = {
    "core.weights": ["a.safetensors", "part=a", "part=b"],  # it takes no other option
    "sweeps.aliases": ["apply", "study=a", "study=b"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_an_option_that_is_given_twice(name: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert COMMANDS[name](OF_ITS_OWN.get(name, ["study=a", "study=b"])) == cli.USER_ERROR
    said = capsys.readouterr()
    assert "is given twice: a and b; give one value" in said.err and said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [["seed=1", "seed=2"], ["mask.ratio=0.5", "mask.ratio=0.7"], ["scale=smoke", "scale=cpu"], ["method=mae"] * 2],
)
@pytest.mark.parametrize("name", ["core.train", "core.evaluate", "sweeps.launch", "sweeps.plan"])
def test_both_values_are_shown(name: str, words: list[str], tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert COMMANDS[name](words) == cli.USER_ERROR
    option, *values = words[0].split("=") + words[1].split("=")[1:]
    assert f"{option} is given twice: {' and '.join(values)}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["core.train", "core.evaluate", "sweeps.status", "sweeps.launch"])
def test_a_database_that_is_given_twice_is_refused_without_its_password(name: str, capsys) -> None:
    assert COMMANDS[name](["db=postgresql://me:topsecret@h/x", "db=postgresql://h/x?password=topsecret"]) == 2
    assert "topsecret" not in capsys.readouterr().err


def test_options_given_often_are_counted_and_questions_in_sql_are_no_options() -> None:
    assert given_twice(["a.b=1", "a.b=2", "a.b=3", "c=1"]) == "a.b is given 3 times: 1 and 2 and 3; give one value"
    assert given_twice(["select a from b where c=1", "select a from b where c=1", "x=1"]) is None
