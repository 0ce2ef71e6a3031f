"""Whatever can be known to be wrong with a command line and the study that it names is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from core import evaluate, train
from sweeps import cli, decode, launch, plan
from tests.sweeps.launched import TWO_ROWS

BAD = {
    **TWO_ROWS,
    "notes": {"a": "b"},
    "tabel": {},
    "baseline": "c",
    "rows": [{"key": "a", "set": {"mask.ratoi": 0.5}}, {"key": "b", "set": {"mask.ratio": 7.0}}],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "bad.yaml").write_text(yaml.safe_dump(BAD))
    (tmp_path / "studies" / "ratio.yaml").write_text(yaml.safe_dump(TWO_ROWS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


OF_FILE = ["unknown key tabel (did you mean table?)", "notes must be text", "baseline: no row 'c'"]
OF_ROWS = ["row 'a': mask.ratoi: unknown; did you mean mask.ratio?", "row 'b': mask.ratio must be in (0, 1), got 7.0"]


@pytest.mark.parametrize("command", [launch.main, plan.main])
def test_a_command_its_study_and_its_rows_are_judged_together(folder, capsys, command) -> None:
    words = ["study=bad", "scale=smoke", "resuls_dir=x", "dbb=x", "seeds=[a]", "optim.stepz=3", "runtime.threads=-1"]
    assert command(words) == cli.USER_ERROR
    said = capsys.readouterr().err
    typed = ["resuls_dir (did you mean results_dir?), dbb (did you mean db?): unknown options", "seeds must be a list"]
    of_core = ["optim.stepz: unknown; did you mean optim.steps?", "runtime.threads must be at least 0, got -1"]
    for text in [*typed, *of_core, *OF_FILE, *OF_ROWS]:
        assert text in said, text
    assert not (folder / "results").exists()


def test_a_launch_says_every_value_that_cannot_be(folder, capsys) -> None:
    bad = {"workers": "0", "lease_s": "x", "stack": "z", "priority": "-1", "retry": "maybe", "scale": "smok"}
    assert launch.main(["study=ratio", *(f"{name}={value}" for name, value in bad.items())]) == cli.USER_ERROR
    said = capsys.readouterr().err
    assert all(f"{name} must be " in said for name in bad)


def test_a_launch_without_a_study_says_what_else_is_wrong(folder, capsys) -> None:
    assert launch.main(["workers=0", "stduy=ratio"]) == cli.USER_ERROR
    said = capsys.readouterr().err
    assert "study is missing" in said and "did you mean study?" in said and "workers must be" in said


def test_an_option_that_is_given_twice_hides_no_other_mistake(folder, capsys) -> None:
    for command, words in ((launch.main, ["study=ratio"]), (plan.main, ["study=ratio"]), (train.main, [])):
        assert command([*words, "seeds=[0]", "seeds=[1]", "optim.stepz=3"]) == cli.USER_ERROR
        said = capsys.readouterr().err
        assert "seeds is given twice" in said and "did you mean optim.steps?" in said


def test_a_run_says_all_that_is_wrong_with_its_words(folder, capsys) -> None:
    words = ["scale=smok", "encoder=vitt", "optim.stesp=4", "optim.lr_peak=-1", "runtime.threads=x", "mask"]
    assert train.main(words) == cli.USER_ERROR
    said = capsys.readouterr().err
    for text in ("did you mean smoke?", "did you mean vit?", "did you mean optim.steps?", "optim.lr_peak must be above",
                 "runtime.threads=x: must be a whole number", "'mask' is not of the form key=value"):  # fmt: skip
        assert text in said, text


def test_an_unknown_method_blames_no_option_that_it_might_have(folder, capsys) -> None:
    assert train.main(["method=mea", "mask.num_targets=2", "optim.step=2"]) == cli.USER_ERROR
    said = capsys.readouterr().err
    assert "method=mea: unknown; did you mean mae?" in said and "did you mean optim.steps?" in said
    assert "mask.num_targets" not in said


def test_an_evaluation_says_all_that_is_wrong_with_its_words(folder, capsys) -> None:
    assert train.main(["method=mae", "scale=smoke", "optim.steps=1", "runtime.dir=run", "evals=[]"]) == cli.OK
    words = ["evls=[knn]", "evals=[ridge,knnn]", "mask.ratio=0.5", "as=a b", "runtime.threads=-1", "'x"]
    assert evaluate.main(["runtime.dir=run", *words]) == cli.USER_ERROR
    said = capsys.readouterr().err
    wanted = ["evls: unknown option (did you mean evals?)", "did you mean knn?", "mask.ratio=0.5: the run is trained"]
    for text in (*wanted, "as=a b: must be 1 to 60", "runtime.threads must be at least 0"):
        assert text in said, text


def test_decoding_says_all_that_is_wrong_with_its_words(folder, capsys) -> None:
    assert decode.main(["run=x", "stesp=3", "mask.ratio=0.5", "runtime.device=["]) == cli.USER_ERROR
    said = capsys.readouterr().err
    for text in (
        "run must be an id",
        "did you mean steps?",
        "only runtime.* can still be chosen",
        "cannot be read as key",
    ):
        assert text in said, text
