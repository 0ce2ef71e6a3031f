"""Numbers over other files never join a study's finished ones without somebody's word."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sqlalchemy import Engine, func, select, update

from core.evaluate import main as evaluate
from core.train import main as train
from sweeps import export, export_encoder, launch, plan, status
from sweeps.console.errors import OK, USER_ERROR, UserError
from sweeps.database import seen_data
from sweeps.database.opening import open_database
from sweeps.database.tables import Attempt, Config, EvaluationRow, Event, RunRow, StudyRow
from tests.sweeps.conftest import BOTH
from tests.sweeps.launched import finish_next, register, two_rows

STUDY = {
    "title": "Hidden share",
    "question": "How much should be hidden?",
    "base": {
        **{"method": "mae", "evals": ["ridge"], "data": "image_folder", "data.path": "photos", "data.size": 32},
        "optim.steps": 1,
    },
    "rows": [{"key": "half", "set": {"mask.ratio": 0.5}}],
    "seeds": [0],
    "metrics": ["ridge/{label}_top1"],
    "random_init": False,
}
WORDS = ["study=photo", "scale=smoke", "executor=inline"]
DATABASE = "sqlite:///results/ablations.sqlite"


def paint(root: Path, level: int) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(5):
            pixels = np.full((32, 32, 3), level + 10 * i, np.uint8)
            pixels[: len(name) * i + 1] = ord(name[0])
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and a study of one run over them, finished."""
    folder = tmp_path_factory.mktemp("photos")
    paint(folder / "photos", 20)
    (folder / "studies").mkdir()
    (folder / "studies" / "photo.yaml").write_text(yaml.safe_dump(STUDY))
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert launch.main(WORDS) == OK
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "work"
    shutil.copytree(trained, copy, copy_function=shutil.copy)  # new times: the files are only moved
    monkeypatch.chdir(copy)
    return copy


def pair(error: str) -> str:
    found = re.search(r"runtime.same_data=\[([0-9a-f]{16}-[0-9a-f]{16})\]", error)
    assert found is not None, error
    return found[1]


def num_attempts() -> int:
    engine = open_database(DATABASE, read_only=True)
    with engine.connect() as connection:
        count = connection.scalar(select(func.count()).select_from(Attempt))
    engine.dispose()
    return int(count or 0)


def test_moved_files_are_the_same_data_and_need_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(WORDS) == OK
    assert "| half" in capsys.readouterr().out and num_attempts() == 1


@pytest.mark.parametrize("more", [[], ["seeds=[0,1]"]])
def test_replaced_files_are_refused_at_the_next_launch(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    paint(folder / "photos", 60)
    assert launch.main([*WORDS, *more]) == USER_ERROR
    error = capsys.readouterr().err
    assert "photos had the fingerprint" in error and "data.version=WORD" in error and error.count("\n") == 1
    assert num_attempts() == 1


def test_the_same_path_under_another_data_root_is_compared_by_content(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "photos", folder / "equal" / "photos")
    paint(folder / "other" / "photos", 60)
    assert launch.main([*WORDS, "seeds=[0,1]", "runtime.data_root=other"]) == USER_ERROR
    pair(capsys.readouterr().err)
    assert launch.main([*WORDS, "seeds=[0,1]", "runtime.data_root=equal"]) == OK


def test_a_plan_refuses_the_other_files_that_a_launch_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(folder / "other" / "photos", 60)
    for words in ([], ["seeds=[0,1]"]):  # finished, and not
        asked = [word for word in WORDS if word.partition("=")[0] in ("study", "scale", "db")]
        assert launch.main([*WORDS, *words, "runtime.data_root=other"]) == USER_ERROR
        refused = capsys.readouterr().err
        assert plan.main([*asked, *words, "runtime.data_root=other"]) == USER_ERROR
        assert capsys.readouterr().err == refused
        assert plan.main([*asked, *words]) == OK
    accepted = f"runtime.same_data=[{pair(refused)}]"
    assert launch.main([*WORDS, "seeds=[0,1]", "runtime.data_root=other", accepted]) == OK
    assert plan.main([*asked, "seeds=[0,1,2]", "runtime.data_root=other"]) == OK


def test_a_plan_of_fewer_seeds_than_were_launched_last_refuses_them_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(folder / "other" / "photos", 60)
    assert launch.main([*WORDS, "seeds=[0,1]"]) == OK
    asked = [word for word in WORDS if word.partition("=")[0] in ("study", "scale", "db")]
    assert plan.main([*asked, "runtime.data_root=other"]) == USER_ERROR
    assert pair(capsys.readouterr().err)


def test_accepted_files_go_on_and_the_word_is_remembered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = one_attempt().data
    paint(folder / "photos", 60)
    assert launch.main([*WORDS, "seeds=[0,1]"]) == USER_ERROR
    word = f"runtime.same_data=[{pair(capsys.readouterr().err)}]"
    assert launch.main([*WORDS, "seeds=[0,1]", word]) == OK
    assert launch.main([*WORDS, "seeds=[0,1,2]"]) == OK
    engine = open_database(DATABASE, read_only=True)
    with engine.connect() as connection:
        assert all(data == before for data in connection.scalars(select(Attempt.data)))
        assert connection.scalar(select(func.count()).where(Event.kind == "same_data")) == 1
    engine.dispose()


def one_attempt() -> Attempt:
    engine = open_database(DATABASE, read_only=True)
    with engine.connect() as connection:
        found = connection.execute(select(Attempt)).first()
    engine.dispose()
    assert found is not None
    return found  # type: ignore[return-value]


def test_a_version_gives_new_files_runs_and_a_table_of_their_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(folder / "photos", 60)
    assert launch.main([*WORDS, "data.version=bright"]) == OK
    assert (folder / "results" / "tables" / "photo@smoke,data.version=bright.md").exists()
    assert (folder / "results" / "tables" / "photo@smoke.md").exists() and num_attempts() == 2


def test_runs_of_before_there_were_fingerprints_refuse_nothing_and_say_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = open_database(DATABASE)
    with engine.begin() as connection:
        connection.execute(update(Attempt).values(data=None))
    engine.dispose()
    paint(folder / "photos", 60)
    assert launch.main(WORDS) == OK
    assert "data unknown" in capsys.readouterr().out


def test_a_finished_study_whose_data_is_elsewhere_is_printed_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "photos").rename(folder / "away")
    assert launch.main(WORDS) == OK
    assert "its data is not on this machine" in capsys.readouterr().out


def test_the_table_and_the_run_say_which_data_it_was(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = one_attempt().data["data"]  # type: ignore[index]
    assert f"data {told[:8]}" in (folder / "results" / "tables" / "photo@smoke.md").read_text()
    assert status.main(["run=1"]) == OK
    shown = capsys.readouterr().out
    assert told in shown and "mae, smoke" in shown
    (page,) = (folder / "results" / "report" / "runs").glob("*.html")
    assert told in page.read_text()


def test_an_evaluation_of_a_run_whose_files_were_replaced_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run=1", "evals=[knn]", "evals.knn.k=2"]
    assert evaluate(words) == OK
    paint(folder / "photos", 60)
    for again in (words, ["run=1", "evals=[knn]", "evals.knn.k=3"]):
        capsys.readouterr()
        assert evaluate(again) == USER_ERROR
        assert "photos had the fingerprint" in capsys.readouterr().err


def test_what_is_offered_for_judging_other_files_can_be_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "photos", folder / "old")
    paint(folder / "photos", 60)
    words = ["evals=[knn]", "evals.knn.k=2"]
    (checkpoint,) = {path.parent for path in (folder / "results").rglob("step-*.pt")}
    for command in (["run=1"], [f"runtime.dir={checkpoint}"]):
        capsys.readouterr()
        assert evaluate([*command, *words]) == USER_ERROR
        error = " ".join(capsys.readouterr().err.split())
        assert "eval_data=KIND eval_data.path=PATH" in error and "version=WORD" not in error
    (folder / "photos").rename(folder / "new")
    (folder / "old").rename(folder / "photos")
    new = ["eval_data=image_folder", "eval_data.path=new", "eval_data.size=32"]
    assert evaluate(["run=1", *words, *new]) == OK


def test_an_evaluation_records_what_it_read(folder: Path) -> None:
    paint(folder / "more", 90)
    assert (
        evaluate(["run=1", "evals=[ridge]", "eval_data=image_folder", "eval_data.path=more", "eval_data.size=32"]) == OK
    )
    engine = open_database(DATABASE, read_only=True)
    with engine.connect() as connection:
        (data,) = connection.scalars(select(EvaluationRow.data))
    engine.dispose()
    assert data.keys() == {"eval_data"}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_is_judged_on_another_set_whatever_became_of_what_it_saw(
    folder: Path, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    paint(folder / "more", 90)
    if is_there:
        paint(folder / "photos", 60)
    else:
        shutil.rmtree(folder / "photos")
    words = ["run=1", "evals=[ridge]", "eval_data=image_folder", "eval_data.size=32"]
    assert evaluate([*words, "eval_data.path=more"]) == OK
    assert evaluate([*words, "eval_data.path=photos", "eval_data.crop=0.5"]) == USER_ERROR
    error = capsys.readouterr().err
    assert ("photos had the fingerprint" if is_there else "does not exist") in error


def test_an_encoder_is_exported_when_what_it_learned_from_is_gone(folder: Path) -> None:
    shutil.rmtree(folder / "photos")
    assert export_encoder.main(["run=1", "to=encoder"]) == OK
    assert (folder / "encoder" / "model.safetensors").exists()


def test_a_folder_trained_on_other_files_is_not_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["method=mae", "scale=smoke", "data=image_folder", "data.path=photos", "data.size=32", "evals=[ridge]"]
    words += ["runtime.dir=alone", "runtime.tensorboard=false", "optim.steps=2"]
    assert train(words) == OK
    paint(folder / "photos", 60)
    assert train(words) == USER_ERROR  # it has ended: its result is of the old files
    (folder / "alone" / "result.json").unlink()
    assert train(words) == USER_ERROR  # it goes on from its checkpoint
    errors = " ".join(capsys.readouterr().err.split())
    assert errors.count("had the fingerprint") == 2 and "runtime.same_data=" in errors


def test_a_capsule_of_other_files_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["to=capsule.sqlite"]) == OK
    paint(folder / "photos", 60)
    other = [f"db=sqlite:///{tmp_path}/b.sqlite"]
    assert launch.main([*WORDS, *other, "results_dir=b", "seeds=[1]"]) == OK
    capsys.readouterr()
    assert export.main(["from=capsule.sqlite", *other]) == USER_ERROR
    error = capsys.readouterr().err
    assert "photos had the fingerprint" in error
    assert "into another database: db=" in error and "version=WORD" not in error
    assert export.main(["from=capsule.sqlite", *other, f"runtime.same_data=[{pair(error)}]"]) == OK
    engine = open_database(other[0].partition("=")[2], read_only=True)
    with engine.connect() as connection:
        told = list(connection.scalars(select(Attempt.data)))
    engine.dispose()
    assert len(told) == 2 and told[0] == told[1]  # both go by the name of before: the table does not look mixed


def test_folders_of_one_name_make_two_tables(folder: Path) -> None:
    for place, level in (("a", 10), ("b", 90)):
        paint(folder / place / "photos", level)
        assert launch.main([*WORDS, f"data.path={place}/photos"]) == OK
    tables = sorted((folder / "results" / "tables").glob("photo@smoke,data.path=photos*.md"))
    assert len(tables) == 2
    assert launch.main([*WORDS, "data.path=b/photos"]) == OK  # finds its own again
    assert sorted((folder / "results" / "tables").glob("photo@smoke,data.path=photos*.md")) == tables


def test_a_name_keeps_the_scale(folder: Path) -> None:
    assert launch.main([*WORDS, "name=mine"]) == OK
    assert (folder / "results" / "tables" / "photo@smoke,mine.md").exists()


def test_a_name_never_takes_another_experiments_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main([*WORDS, "name=mine"]) == OK
    table = folder / "results" / "tables" / "photo@smoke,mine.md"
    before = table.read_bytes()
    capsys.readouterr()
    assert launch.main([*WORDS, "name=mine", "optim.steps=2"]) == USER_ERROR
    assert "name=mine: photo@smoke,mine is the table of another experiment" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_method_and_scale_of_a_config_are_recorded(folder: Path) -> None:
    engine = open_database(DATABASE, read_only=True)
    with engine.connect() as connection:
        assert connection.execute(select(Config.method, Config.scale)).all() == [("mae", "smoke")]
    engine.dispose()


def test_sets_that_differ_in_how_pixels_are_made_go_by_one_name() -> None:
    small, large = ({"data": "image_folder", "data.path": "p", "data.size": size} for size in (32, 64))
    other = {"eval_data": "image_folder", "eval_data.path": "p", "eval_data.size": 32, "eval_data.version": "b"}
    assert seen_data.named(small, "data") == seen_data.named(large, "data") != seen_data.named(other, "eval_data")


def test_runs_and_studies_are_what_they_were(folder: Path) -> None:
    engine = open_database(DATABASE, read_only=True)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(RunRow)) == 1
        assert list(connection.scalars(select(StudyRow.name))) == ["photo@smoke"]
    engine.dispose()


@BOTH
def test_what_finished_runs_saw_is_found_beside_a_config_on_either_database(engine: Engine) -> None:
    base = {"optim.steps": 100, "data": "image_folder", "data.path": "p"}
    register(engine, two_rows(base=base))
    finish_next(engine, {})
    with engine.begin() as connection:
        connection.execute(update(Attempt).values(data={"data": "0123456789abcdef"}))
        configs = list(connection.scalars(select(Config.id)))
        assert all(seen_data.beside(connection, config) == sorted(configs) for config in configs)
        before = seen_data.recorded(connection, configs)
        assert list(before.values()) == [{"0123456789abcdef"}]
        assert seen_data.accept(connection, ["f" * 16 + "-0123456789abcdef"]) == seen_data.accepted(connection)
        with pytest.raises(UserError, match="p had the fingerprint 0123456789abcdef and has ffffffffffffffff now"):
            seen_data.refuse_other(before, [seen_data.of_config(base, {"data": "f" * 16})])


def test_the_group_is_named_whose_files_were_replaced() -> None:
    read = {"data": "image_folder", "data.path": "a", "eval_data": "image_folder", "eval_data.path": "b"}
    before = {name: {"0" * 16} for name in seen_data.of_config(read, {"data": "", "eval_data": ""})}
    now = seen_data.of_config(read, {"data": "0" * 16, "eval_data": "1" * 16})
    with pytest.raises(UserError, match=r"^eval_data: .* name the new ones: eval_data.version=WORD, which"):
        seen_data.refuse_other(before, [now], configs=[read])
    both = seen_data.of_config(read, {"data": "1" * 16, "eval_data": "1" * 16})
    with pytest.raises(UserError, match=r"^data and eval_data: .* data.version=WORD and eval_data.version=WORD"):
        seen_data.refuse_other(before, [both], configs=[read])
