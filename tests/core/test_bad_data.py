"""Files that are not what they should be end a run with one line, which names the group that asked for them."""

import numpy as np
import pytest

from core.configuring.config import ConfigError, load
from core.configuring.fitting import named
from core.running.trainer import train
from core.train import main
from tests.core.data import making_flows as making
from tests.core.data.dense.test_segmentation import ade20k, write_mask
from tests.core.running.test_trainer import TINY, Notebook


def words(tmp_path, root, group="data"):
    return [
        *TINY,
        "method=mae",
        f"{group}=ade20k",
        f"{group}.path={root}",
        f"{group}.height=32",
        f"{group}.width=32",
        "optim.batch_size=2",
        "runtime.tensorboard=false",
        f"runtime.cache={tmp_path / 'cache'}",
        f"runtime.dir={tmp_path / 'run'}",
    ]


def last(given):
    """The command with the last of each option: those of a test replace those of all runs here."""
    return main(list({word.partition("=")[0]: word for word in given}.values()))


def spoiled(tmp_path):
    """A mask of another size than its image."""
    root = ade20k(tmp_path / "data")
    write_mask(root / "annotations" / "training" / "ADE_train_00000001.png", np.ones((9, 9)))
    return root


def test_a_bad_file_ends_the_command_with_one_line(tmp_path, capsys):
    assert last([*words(tmp_path, spoiled(tmp_path)), "evals=[]"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "error: data.path: " in said and "is of 9 x 9 px, its image" in said and "Traceback" not in said


def test_a_file_that_breaks_while_it_is_read_does_too(tmp_path, capsys):
    root = ade20k(tmp_path / "data")
    file = root / "images" / "training" / "ADE_train_00000000.jpg"
    file.write_bytes(file.read_bytes()[:-40])  # its head is whole
    assert last([*words(tmp_path, root), "evals=[]"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "ADE_train_00000000.jpg cannot be read as an image" in said and "Traceback" not in said


def test_one_that_breaks_in_a_loader_process_is_said_in_one_line_too(tmp_path, capsys):
    root = ade20k(tmp_path / "data")
    file = root / "images" / "training" / "ADE_train_00000000.jpg"
    file.write_bytes(file.read_bytes()[:-40])
    assert last([*words(tmp_path, root), "evals=[]", "runtime.workers=1"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "error: data.path: " in said and "Traceback" not in said and "worker" not in said


def test_a_mask_with_an_unknown_id_ends_the_command_with_one_line(tmp_path, capsys):
    root, ids = ade20k(tmp_path / "data"), np.full((12, 16), 200)
    write_mask(root / "annotations" / "validation" / "ADE_val_00000010.png", ids)
    assert last([*words(tmp_path, root, "eval_data"), "evals=[seg]", "data.num_train=8"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "has the id 200 (row 0, column 0), which is no class; allowed: 0-150" in said and "Traceback" not in said


@pytest.mark.parametrize("fault", ["magic", "nan", "size"])
def test_bad_flow_ends_the_command_with_one_line(fault, tmp_path, capsys):
    root = making.sintel(tmp_path / "data", height=16, width=32, scenes=1)
    top, flow = root / "Sintel" / "training", making.some_flow(16, 32)
    if fault == "size":
        making.write_picture(top / "clean" / "alley_1" / "frame_0002.png", making.picture(16, 40))
    flow[0, 2, 3] = np.nan if fault == "nan" else 1.0
    magic = b"PIEX" if fault == "magic" else b"PIEH"
    making.write_flo(top / "flow" / "alley_1" / "frame_0001.flo", flow, magic=magic)
    options = ["method=m_jepa", "optim.steps=1", "evals=[flow]", "optim.batch_size=2", "objective.flow_batch=2"]
    judged = ["eval_data=sintel", f"eval_data.path={root}", "eval_data.height=16", "eval_data.width=32"]
    here = ["runtime.tensorboard=false", f"runtime.cache={tmp_path / 'cache'}", f"runtime.dir={tmp_path / 'run'}"]
    assert last([*TINY, *options, *judged, *here, "data.num_train=8", "data.num_test=2"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    expected = {
        "magic": "has the magic number b'PIEX'; a .flo file begins with b'PIEH'",
        "nan": "holds nan at row 2, column 3; flow must be finite",
        "size": "the two frames of a pair must be of one size",
    }
    assert expected[fault] in said and "Traceback" not in said


def test_data_that_cannot_be_judged_on_is_known_before_training(tmp_path):
    record = Notebook(tmp_path / "run")
    run = load([*words(tmp_path, spoiled(tmp_path), "eval_data"), "evals=[collapse]", "data.num_train=8"])
    with pytest.raises(ConfigError, match=r"^eval_data\.path: .*ADE_train_00000001\.png is of 9 x 9 px"):
        train(run, record)
    assert record.points == {} and record.outcome is None


def test_only_the_options_in_a_message_are_renamed():
    message = "data.path=/mnt/data.d/my_data.csv: change data.size, or eval_data.path"
    assert (
        named(message, "eval_data")
        == "eval_data.path=/mnt/data.d/my_data.csv: change eval_data.size, or eval_data.path"
    )


def test_a_list_that_cannot_be_read_is_a_mistake_in_the_command(capsys):
    assert last(["flow_data.sets=[sintel:path=a]"]) == 2
    assert "cannot be read as key=value" in capsys.readouterr().err
