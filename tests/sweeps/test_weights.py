"""A study with a row that starts from a file: trained once for each content of the file."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import select

from sweeps.database.opening import open_database
from sweeps.database.tables import Config, RunRow
from sweeps.launch import main as launch
from sweeps.plan import main as plan
from tests.core.weights.released import timm_vit

STUDY = """
title: Released
question: Is a released encoder better than a drawn one?
base: {method: mae, evals: [ridge], optim.steps: 0, encoder.width: 24, encoder.position: learned}
rows:
  - {key: drawn}
  - {key: released, set: {weights: file, weights.path: model.safetensors}}
metrics: [ridge/digit_top1]
random_init: false
seeds: [0]
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "released.yaml").write_text(STUDY, encoding="utf-8")
    save_file(timm_vit(img_size=32, class_token=False, global_pool="").state_dict(), tmp_path / "model.safetensors")
    named = [f"study={tmp_path / 'released.yaml'}", "scale=smoke", f"db=sqlite:///{tmp_path / 'a.sqlite'}"]
    return [*named, f"runtime.data_root={tmp_path}", f"runtime.cache={tmp_path / 'cache'}"]


def hashes(folder: Path) -> list[str]:
    """The contents that the database has trained from, in order."""
    database = open_database(f"sqlite:///{folder / 'a.sqlite'}")
    with database.connect() as connection:
        query = select(Config.json).join(RunRow, RunRow.config_id == Config.id).where(RunRow.state == "done")
        found = [row["weights.sha256"] for row in connection.scalars(query.order_by(RunRow.id)) if row["weights"]]
    database.dispose()
    return found


@pytest.mark.slow
def test_a_file_with_other_content_is_another_run(words: list[str], tmp_path: Path, capsys) -> None:
    told = [*words, f"results_dir={tmp_path / 'results'}", "executor=inline"]
    assert launch(told) == 0 and len(hashes(tmp_path)) == 1
    assert launch(told) == 0 and len(hashes(tmp_path)) == 1  # known: nothing is trained
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {"norm.bias": state["norm.bias"] + 1}, tmp_path / "model.safetensors")
    assert launch(told) == 0
    first, second = hashes(tmp_path)
    assert first != second


def test_a_missing_file_ends_the_launch_with_its_name(words: list[str], tmp_path: Path, capsys) -> None:
    (tmp_path / "model.safetensors").unlink()
    assert plan(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "row 'released': weights.path=" in said and "there is no such file" in said
