"""A trained run is judged again: the data that is judged counts, and what it learned from may be gone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.evaluate import main as evaluate
from core.running import checkpoint
from core.train import main as train

TINY = ["method=mae", "scale=smoke", "data=image_folder", "data.path=photos", "data.size=32", "evals=[ridge]"]
OTHER = ["eval_data=image_folder", "eval_data.path=others", "eval_data.size=32"]
AGAIN = ["runtime.dir=alone", "evals=[knn]", "evals.knn.k=2"]


def paint(root: Path, level: int, classes=("cat", "dog")) -> None:
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(5):
            pixels = np.full((32, 32, 3), level + 10 * i, np.uint8)
            pixels[: len(name) * i + 1] = ord(name[0])
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    paint(folder / "photos", 20)
    paint(folder / "others", 90, classes=("bee", "cow", "eel"))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        assert train([*TINY, "runtime.dir=alone", "runtime.tensorboard=false", "optim.steps=2"]) == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "work", copy_function=shutil.copy)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def metrics(capsys) -> dict[str, str]:
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "knn" in line and "top1" in line]
    return dict(lines)


def remove(photos: Path) -> None:
    shutil.rmtree(photos)


def rename(photos: Path) -> None:
    photos.rename(photos.with_name("elsewhere"))


def replace(photos: Path) -> None:
    paint(photos, 60)


def add_a_class(photos: Path) -> None:
    paint(photos, 60, classes=("yak",))


@pytest.mark.parametrize("change", [remove, rename, replace, add_a_class])
def test_another_set_is_judged_on_whatever_became_of_the_training_files(folder, capsys, change):
    assert evaluate([*AGAIN, *OTHER, "as=before"]) == 0
    before = metrics(capsys)
    change(folder / "photos")
    assert evaluate([*AGAIN, *OTHER, "as=after"]) == 0
    assert [value for _, value in sorted(before.items())] == [value for _, value in sorted(metrics(capsys).items())]


@pytest.mark.parametrize("change", [replace, add_a_class])
@pytest.mark.parametrize("judged", [[], ["eval_data=image_folder", "eval_data.path=photos", "eval_data.size=48"]])
def test_training_files_that_were_replaced_are_not_judged_on_even_at_another_size(folder, capsys, change, judged):
    change(folder / "photos")
    assert evaluate([*AGAIN, *judged]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "data had the fingerprint" in error and "eval_data=KIND" in error


def test_training_files_that_are_gone_are_named_where_they_are_judged_on(folder, capsys):
    remove(folder / "photos")
    assert evaluate(AGAIN) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "photos" in error and "does not exist" in error


def test_fine_tuning_that_begins_on_the_training_data_refuses_other_files(folder, capsys):
    words = ["runtime.dir=alone", "evals=[finetune]", "evals.finetune.intermediate=class", "evals.finetune.steps=1"]
    replace(folder / "photos")
    assert evaluate([*words, *OTHER]) == 2
    assert "data had the fingerprint" in capsys.readouterr().err


def test_an_answer_from_the_record_is_not_given_for_a_set_that_was_replaced_since(folder, capsys):
    assert evaluate([*AGAIN, *OTHER]) == 0
    paint(folder / "others", 30, classes=("bee", "cow", "eel"))
    capsys.readouterr()
    assert evaluate([*AGAIN, *OTHER]) == 2
    error = capsys.readouterr().err
    assert "eval_data had the fingerprint" in error and "eval_data.version=WORD" in error
    assert evaluate([*AGAIN, *OTHER, "eval_data.version=new"]) == 0


def test_another_evaluation_of_a_set_that_was_replaced_since_is_refused(folder, capsys):
    assert evaluate([*AGAIN, *OTHER]) == 0
    paint(folder / "others", 30, classes=("bee", "cow", "eel"))
    assert evaluate(["runtime.dir=alone", "evals=[ridge]", *OTHER]) == 2
    assert "eval_data had the fingerprint" in capsys.readouterr().err


def test_a_checkpoint_of_older_code_is_judged_on_another_set_beside_replaced_files(folder):
    forget_the_spec(folder / "alone")
    replace(folder / "photos")
    assert evaluate([*AGAIN, *OTHER]) == 0


def forget_the_spec(folder: Path) -> None:
    """As code before it was recorded left checkpoints."""
    for path in checkpoint.checkpoints(folder):
        state = torch.load(path, weights_only=True)
        del state["spec"]
        torch.save(state, path)


def test_a_checkpoint_of_older_code_is_judged_on_another_set_after_its_files_are_gone(folder, capsys):
    assert evaluate([*AGAIN, *OTHER, "as=before"]) == 0
    before = metrics(capsys)
    forget_the_spec(folder / "alone")
    remove(folder / "photos")
    assert evaluate([*AGAIN, *OTHER, "as=after"]) == 0
    assert [value for _, value in sorted(before.items())] == [value for _, value in sorted(metrics(capsys).items())]


def test_where_only_files_tell_a_clips_shape_the_message_says_what_to_type(folder, capsys):
    pixels, labels = np.zeros((8, 32, 32, 3), np.uint8), np.arange(8) % 2
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    np.savez("set.npz", **arrays)
    words = ["method=mae", "scale=smoke", "data=npz", "data.path=set.npz", "evals=[ridge]", "optim.steps=2"]
    assert train([*words, "runtime.dir=arrays", "runtime.tensorboard=false"]) == 0
    forget_the_spec(folder / "arrays")
    Path("set.npz").unlink()
    capsys.readouterr()
    assert evaluate(["runtime.dir=arrays", "evals=[knn]", "evals.knn.k=2", *OTHER]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "set.npz" in error and "runtime.data_root=FOLDER" in error


# ---- data of its own that a run is judged on, and that chooses its step under judge=best -----------------------------

OWN = [*TINY, "optim.steps=4", "runtime.dir=own", "runtime.tensorboard=false", "runtime.checkpoint_every=2"]


def unfinished(folder: Path) -> None:
    """As if it had been killed after its second step."""
    (folder / "result.json").unlink()
    checkpoint.checkpoints(folder)[0].unlink()


def test_what_a_run_was_judged_on_and_that_was_replaced_since_is_not_judged_on_again(folder, capsys):
    again = ["runtime.dir=own", "evals=[knn]", "evals.knn.k=2"]
    assert train([*OWN, *OTHER]) == 0
    paint(folder / "others", 30, classes=("bee", "cow", "eel"))
    capsys.readouterr()
    assert evaluate(again) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "own was made with other files: eval_data had" in error
    assert "eval_data.version=WORD" in error
    assert evaluate([*again, "eval_data.version=new"]) == 0


@pytest.mark.parametrize(
    "other",
    [
        [],
        [*OTHER, "eval_data.version=new"],
        ["eval_data=image_folder", "eval_data.path=photos", "eval_data.size=32", "eval_data.test_share=0.5"],
    ],
)
def test_a_run_judged_at_its_best_step_is_not_resumed_with_other_data_to_choose_it_by(folder, capsys, other):
    assert train([*OWN, *OTHER, "judge=best"]) == 0
    unfinished(folder / "own")
    capsys.readouterr()
    assert train([*OWN, *other, "judge=best"]) == 2
    error = capsys.readouterr().err
    assert "this run has eval_data" in error and "which chooses the step that judge=best judges" in error


def test_a_run_judged_at_its_best_step_is_not_resumed_where_what_chooses_it_was_replaced(folder, capsys):
    assert train([*OWN, *OTHER, "judge=best"]) == 0
    unfinished(folder / "own")
    paint(folder / "others", 30, classes=("bee", "cow", "eel"))
    capsys.readouterr()
    assert train([*OWN, *OTHER, "judge=best"]) == 2
    assert "eval_data had the fingerprint" in capsys.readouterr().err


def test_a_run_judged_at_its_last_step_is_resumed_with_other_data_to_judge_on(folder):
    assert train([*OWN, *OTHER]) == 0
    unfinished(folder / "own")
    assert train([*OWN, *OTHER, "eval_data.version=new"]) == 0
