"""An option that is misspelt is answered by the nearest one, of the command's own before those of a run."""

from __future__ import annotations

import shlex

import pytest
import yaml

from core.configuring.run import GROUPS, SECTIONS, TOP_LEVEL
from core.terminal import close_matches
from sweeps import cli
from sweeps.study.overrides import ROOTS
from tests.sweeps.launched import TWO_ROWS
from tests.sweeps.test_given_twice import COMMANDS

MISSPELT = {
    "core.train": [("steps=3", "optim.steps"), ("rutnime.dir=x", "runtime.dir"), ("maks.ratio=0.5", "mask.ratio")],
    "core.evaluate": [
        ("evls=[knn]", "evals"), ("resuls_dir=x", "results_dir"), ("runtim.dir=x", "runtime.dir"), ("stduy=x", "study"),
        ("run=1 evls=[knn]", "evals"), ("run=1 resuls_dir=x", "results_dir"),
    ],
    "core.weights": [("a.safetensors prat=x", "part"), ("prat=x", "part")],
    "sweeps.aliases": [("apply bd=x", "db")],
    "sweeps.decode": [
        ("resuls_dir=x", "results_dir"), ("stesp=3", "steps"), ("run=1 runtim.device=cpu", "runtime.device"),
    ],
    "sweeps.export": [("stduy=a", "study")],
    "sweeps.export_encoder": [("resuls_dir=x", "results_dir")],
    "sweeps.importing": [("study_nmae=lr optuna=x", "study_name"), ("metric_mpa={}", "metric_map")],
    "sweeps.launch": [("resuls_dir=x", "results_dir"), ("dbb=x", "db"), ("worker=3", "workers")],
    "sweeps.plan": [("resuls_dir=x", "results_dir"), ("dbb=x", "db"), ("gpu_memoy=3", "gpu_memory")],
    "sweeps.query": [("stduy=ratio", "study"), ("fromat=csv", "format")],
    "sweeps.status": [("wach=true", "watch")],
    "sweeps.worker": [("resuls_dir=x", "results_dir"), ("thread=1", "threads")],
    "analysis.gallery": [("nmae=x", "name")],
    "analysis.recipes": [("chekc=true", "check")],
    "analysis.report": [("stduy=x", "study")],
    "analysis.serve": [("prot=80", "port")],
    "analysis.study_index": [("chekc=true", "check")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words", "near"), [(name, *pair) for name, pairs in MISSPELT.items() for pair in pairs]
)
def test_every_command_names_the_option_that_was_meant(name, words, near, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "ratio.yaml").write_text(yaml.safe_dump(TWO_ROWS))
    monkeypatch.chdir(tmp_path)
    typed = shlex.split(words)
    if name in ("sweeps.launch", "sweeps.plan"):
        typed.append("study=ratio")
    assert COMMANDS[name](typed) == cli.USER_ERROR
    said = capsys.readouterr().err
    assert f"did you mean {near}" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["studies"]


def test_every_command_has_a_word_that_is_misspelt() -> None:
    assert list(MISSPELT) == list(COMMANDS)


def test_what_options_of_a_run_begin_with_is_what_core_says() -> None:
    assert set(ROOTS) == {*GROUPS, *SECTIONS, *TOP_LEVEL, "evals"} and len(set(ROOTS)) == len(ROOTS)


@pytest.mark.parametrize(
    ("word", "allowed", "said"),
    [
        ("maks.ratio", ["mask", "optim"], " (did you mean mask.ratio?)"),
        ("runtim.dir", ["run", "runtime"], " (did you mean runtime.dir?)"),
        ("mask.ratios", ["mask.ratio", "optim.steps"], " (did you mean mask.ratio?)"),
        ("zzz.a", ["mask"], ""),
    ],
)
def test_a_misspelt_beginning_keeps_the_rest_of_the_option(word, allowed, said) -> None:
    assert close_matches(word, allowed) == said


@pytest.mark.parametrize(("words", "said"), [
    (["a.safetensors", "b.safetensors"], "say which file of weights, one, got 2: a.safetensors, b.safetensors"),
    ([], "say which file of weights, one"),
    (["a.safetensors", "part="], "part= has no value"),
])  # fmt: skip
def test_weights_says_what_is_wrong_with_its_words(words, said, capsys) -> None:
    assert COMMANDS["core.weights"](words) == cli.USER_ERROR
    assert said in capsys.readouterr().err
