"""STL-10 and CIFAR from tiny files in their real formats, and pickles that would do more than hold arrays."""

import codecs
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from core.data.downloaded.cifar import Cifar10, Cifar100
from core.data.downloaded.safe_pickle import read_arrays
from core.data.downloaded.stl10 import Part, Stl10
from tests.core.data import making_sets as making

# ---- STL-10 ----------------------------------------------------------------------------------------------------------


def test_stl10_s_columns_become_rows_and_its_labels_begin_at_0(tmp_path):
    data = Stl10(path=str(making.stl10(tmp_path)))
    assert (making.loaded_pixels(data, "train", tmp_path, 3) == making.picture(3, 96)).all()
    assert data.load("train", tmp_path).labels()["class"].tolist() == [i % 10 for i in range(20)]
    assert (making.loaded_pixels(data, "test", tmp_path, 5) == making.picture(1005, 96)).all()


def test_stl10_s_unlabeled_pictures_have_no_labels_and_need_no_labelled_files_to_learn_from(tmp_path):
    (making.stl10(tmp_path) / "stl10_binary" / "train_X.bin").unlink()
    data = Stl10(path=str(tmp_path), train=Part.unlabeled)
    train = data.load("train", tmp_path)
    assert len(train) == 12 and train.labels() == {} and data.spec().classes == {}
    assert (making.loaded_pixels(data, "train", tmp_path, 11) == making.picture(2011, 96)).all()
    test = data.load("test", tmp_path)
    assert len(test) == 20 and data.known_labels("test") == {} == test.labels()


def test_stl10_s_labelled_and_unlabeled_pictures_follow_one_another(tmp_path):
    data = Stl10(path=str(making.stl10(tmp_path)), train=Part.both)
    assert len(data.load("train", tmp_path / "cache")) == 32
    assert (making.loaded_pixels(data, "train", tmp_path / "cache", 20) == making.picture(2000, 96)).all()


def test_stl10_at_its_own_size_is_mapped_and_takes_no_room_in_the_cache(tmp_path):
    data = Stl10(path=str(making.stl10(tmp_path / "set")), train=Part.unlabeled)
    data.load("train", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_smaller_pictures_are_resized_with_antialiasing(tmp_path):
    data = Stl10(path=str(making.stl10(tmp_path)), size=32)
    expected = Image.fromarray(making.picture(0, 96)).resize((32, 32), Image.Resampling.BILINEAR)
    found = making.loaded_pixels(data, "train", tmp_path / "cache", 0)
    assert np.abs(found.astype(int) - np.asarray(expected, int)).max() <= 1


def test_a_cut_off_file_of_stl10_is_named(tmp_path):
    file = making.stl10(tmp_path) / "stl10_binary" / "unlabeled_X.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"unlabeled_X.bin is cut off: 331775 bytes are no whole number of pictures"):
        Stl10(path=str(tmp_path), train=Part.unlabeled).require_files()


def test_labels_of_another_number_of_pictures_are_refused(tmp_path):
    file = making.stl10(tmp_path) / "stl10_binary" / "train_y.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train_y.bin has 19 labels for 20 pictures"):
        Stl10(path=str(tmp_path)).load("train", tmp_path)


def test_a_label_of_no_class_is_refused(tmp_path):
    file = making.stl10(tmp_path) / "stl10_binary" / "train_y.bin"
    file.write_bytes(bytes([0, *file.read_bytes()[1:]]))
    with pytest.raises(ValueError, match=r"train_y.bin has the label -1; its classes are 0 to 9"):
        Stl10(path=str(tmp_path)).load("train", tmp_path)


def test_a_missing_file_of_a_set_that_is_there_is_named(tmp_path):
    (making.stl10(tmp_path) / "stl10_binary" / "train_y.bin").unlink()
    with pytest.raises(ValueError, match=r"stl10_binary has no train_y.bin: download stl10_binary.tar.gz"):
        Stl10(path=str(tmp_path)).require_files()


# ---- CIFAR -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [making.cifar10, making.cifar10_binary])
def test_cifar10_is_its_five_batches_in_order(make, tmp_path):
    data = Cifar10(path=str(make(tmp_path)))
    train = data.load("train", tmp_path / "cache")
    assert len(train) == 100 and train.labels()["class"].tolist() == [i % 10 for i in range(20)] * 5
    assert (making.loaded_pixels(data, "train", tmp_path / "cache", 47) == making.picture(207)).all()
    assert (making.loaded_pixels(data, "test", tmp_path / "cache", 1) == making.picture(501)).all()


@pytest.mark.parametrize("make", [making.cifar100, making.cifar100_binary])
def test_cifar100_has_fine_classes_and_when_asked_their_groups(make, tmp_path):
    make(tmp_path)
    assert Cifar100(path=str(tmp_path)).spec().classes == {"class": 100}
    data = Cifar100(path=str(tmp_path), superclass=True)
    labels = data.load("test", tmp_path / "cache").labels()
    assert data.spec().classes == {"class": 100, "superclass": 20}
    assert labels["class"].tolist() == list(range(40)) and labels["superclass"].tolist() == [*range(20), *range(20)]
    assert (making.loaded_pixels(data, "test", tmp_path / "cache", 3) == making.picture(103)).all()


def test_a_pickle_of_something_else_is_named(tmp_path):
    making.cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(making.pickled({b"labels": [1]}))
    with pytest.raises(ValueError, match=r"data_batch_3 is not a file of CIFAR-10: it has no data"):
        Cifar10(path=str(tmp_path)).load("train", tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {b"data": making.batch(0, 2).astype(np.int64), b"labels": [0, 1]},
            r"data must be an array \[N, 3072\] of uint8",
        ),
        ({b"data": making.batch(0, 2), b"labels": [b"0", b"1"]}, "labels must be a list of whole numbers"),
        ({b"data": making.batch(0, 2), b"labels": [0, 10]}, "has the label 10; its classes are 0 to 9"),
        ({b"data": making.batch(0, 2), b"labels": [0]}, "has 1 labels for 2 pictures"),
    ],
)
def test_wrong_arrays_in_a_pickle_are_refused(content, message, tmp_path):
    making.cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(making.pickled(content))
    with pytest.raises(ValueError, match=message):
        Cifar10(path=str(tmp_path)).load("train", tmp_path / "cache")


# ---- pickles ---------------------------------------------------------------------------------------------------------


class Runs:
    """What a pickle may ask for: any call."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(protocol, tmp_path):
    file, trace = tmp_path / "data_batch_1", tmp_path / "ran"
    file.write_bytes(pickle.dumps({b"data": Runs(os.mkdir, str(trace))}, protocol=protocol))
    with pytest.raises(ValueError, match=r"data_batch_1 cannot be read as a pickle of arrays: it asks for posix.mkdir"):
        read_arrays(file)
    assert not trace.exists()


@pytest.mark.parametrize("call", [(eval, "1"), (codecs.encode, "1", "rot13"), (np.load, "a"), (getattr, "a", "b")])
def test_no_function_is_had_from_a_pickle(call, tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps([Runs(*call)]))
    with pytest.raises(ValueError, match=r"a cannot be read as a pickle of arrays: it asks for"):
        read_arrays(tmp_path / "a")


def test_arrays_of_objects_hold_nothing_that_a_pickle_may_not(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps(np.array([Runs(os.getcwd)], object)))
    with pytest.raises(ValueError, match=r"it asks for posix.getcwd"):
        read_arrays(tmp_path / "a")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_from_pickles_of_any_format_up_to_4(protocol, tmp_path):
    content = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2]}
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol=min(protocol, 4)))
    found = read_arrays(tmp_path / "a")
    assert found[b"labels"] == [1, 2] and (found[b"data"] == content[b"data"]).all()


@pytest.mark.parametrize("cut", [0, 1, 10, 200, -1])
def test_a_cut_off_pickle_is_named(cut, tmp_path):
    (tmp_path / "a").write_bytes(making.pickled({b"data": making.batch(0, 2)})[:cut])
    with pytest.raises(ValueError, match=r"a cannot be read as a pickle of arrays"):
        read_arrays(tmp_path / "a")
