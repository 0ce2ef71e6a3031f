"""Where a run's data lay is told to whoever asks of the run without saying so."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from core import train
from core.evaluate import main
from sweeps import decode
from sweeps.launch import main as launch
from tests.sweeps.launched import TWO_ROWS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with data in `my sets`."""
    monkeypatch.chdir(tmp_path)
    Path("my sets").mkdir()
    pixels, labels = np.zeros((16, 32, 32), np.uint8), np.arange(16) % 2
    np.savez("my sets/mine.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return tmp_path


def test_a_run_of_a_database_says_where_it_read_its_data_and_what_to_type(folder, capsys):
    base = {"method": "mae", "data": "npz", "data.path": "mine.npz", "evals": ["knn"], "evals.knn.k": 3}
    rows = [{"key": "a", "set": {"mask.ratio": 0.5}}]
    own = {**TWO_ROWS, "rows": rows, "base": base, "metrics": ["knn/class_top1"], "seeds": [0]}
    Path("own.yaml").write_text(yaml.safe_dump(own))
    root = f"runtime.data_root={folder}/my sets"
    assert launch(["study=own.yaml", "scale=smoke", "executor=inline", root]) == 0
    for asks in (main, decode.main):
        assert asks(["run=1"]) == 2
        assert f"the run read mine.npz below {folder}/my sets: give '{root}'" in capsys.readouterr().err
    assert main(["run=1", root]) == 0
    shutil.move("my sets", "gone")
    assert main(["run=1", "evals=[ridge]"]) == 2
    assert f"the run read mine.npz below {folder}/my sets, where it is not any more" in capsys.readouterr().err


def test_a_run_of_a_folder_says_it_too(folder, capsys):
    words = ["method=mae", "scale=smoke", "data=npz", "data.path=mine.npz", "evals=[knn]", "evals.knn.k=3"]
    assert train.main([*words, "optim.steps=2", "runtime.data_root=my sets", "runtime.dir=run"]) == 0
    capsys.readouterr()
    assert main(["runtime.dir=run"]) == 2
    assert f"below {folder}/my sets: give 'runtime.data_root={folder}/my sets'" in capsys.readouterr().err
    assert main(["runtime.dir=run", "runtime.data_root=my sets"]) == 0
