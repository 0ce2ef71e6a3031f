"""What evaluations need of the labels is said once for a study, by plan and by launch, before anything is written."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sweeps import launch, plan
from sweeps.console.errors import OK, USER_ERROR

BASE = {"method": "mae", "evals": ["knn"], "optim.steps": 1, "optim.batch_size": 4}
PHOTOS = {"data": "image_folder", "data.path": "photos", "data.size": 32}
ARCHIVE = {"data": "npz", "data.path": "a.npz", "encoder.patch": 4}
COMMANDS = {"plan": plan.main, "launch": launch.main}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(np.full((32, 32, 3), 40 * i, np.uint8)).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path


def words(options: dict[str, Any], *rows: dict[str, Any]) -> list[str]:
    study = {
        "title": "T", "question": "Q?", "base": {**BASE, **options}, "metrics": ["knn/{label}_top1"],
        "rows": [{"key": f"r{i}", "set": row} for i, row in enumerate(rows)], "seeds": [0, 1], "random_init": False,
    }  # fmt: skip
    Path("many.yaml").write_text(yaml.safe_dump(study))
    return ["study=many.yaml", "scale=smoke", "db=sqlite:///a.sqlite", "results_dir=r", "runtime.cache=cache"]


def archive(train: list[int], test: list[int]) -> None:
    shape = (16, 16)
    np.savez(
        "a.npz",
        x_train=np.zeros((len(train), *shape), np.uint8), y_train=np.array(train),
        x_test=np.zeros((len(test), *shape), np.uint8), y_test=np.array(test),
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("data", [PHOTOS, {}])
def test_neighbours_that_no_row_has_are_refused_once(folder: Path, capsys, command: str, data: dict[str, Any]) -> None:
    typed = words({**data, "evals.knn.k": 5000}, {"mask.ratio": 0.5}, {"mask.ratio": 0.75})
    assert COMMANDS[command](typed) == USER_ERROR
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "many.yaml: every row: evals=knn: evals.knn.k must be at most" in error
    assert {path.name for path in folder.iterdir()} - {".cache"} == {"photos", "many.yaml"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_rows_whose_evaluations_do_not_suit_are_named(folder: Path, capsys, command: str) -> None:
    typed = words(PHOTOS, {"evals.knn.k": 2}, {"evals.knn.k": 9}, {"evals.knn.k": 9, "mask.ratio": 0.5})
    assert COMMANDS[command](typed) == USER_ERROR
    error = capsys.readouterr().err
    assert "rows 'r1', 'r2': evals=knn: " in error and error.count("must be at most") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_class_without_a_train_sample_is_refused_once(folder: Path, capsys, command: str) -> None:
    archive([0, 0, 2, 2, 0, 2], [0, 1, 2])
    assert (
        COMMANDS[command](words({**ARCHIVE, "evals.knn.k": 2}, {"mask.ratio": 0.5}, {"mask.ratio": 0.75})) == USER_ERROR
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "every row: evals=knn: " in error and "[1]" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_labels_of_another_set_to_judge_on_are_checked_by_its_own(folder: Path, capsys, command: str) -> None:
    judged = {f"eval_{key}": value for key, value in PHOTOS.items()}
    assert COMMANDS[command](words({**judged, "evals.knn.k": 9}, {"mask.ratio": 0.5})) == USER_ERROR
    assert "label 'class', 8, got 9" in capsys.readouterr().err


def test_a_study_whose_labels_suit_is_planned_and_trained(folder: Path) -> None:
    typed = words({**PHOTOS, "evals.knn.k": 2}, {"mask.ratio": 0.5})
    assert plan.main(typed) == OK
    assert launch.main([*typed, "executor=inline"]) == OK


def test_planning_decodes_no_picture(folder: Path) -> None:
    for file in (folder / "photos").rglob("*.png"):
        file.write_bytes(b"no picture")
        os.utime(file, (time.time() - 100,) * 2)
    assert plan.main(words({**PHOTOS, "evals.knn.k": 2}, {"mask.ratio": 0.5})) == OK
