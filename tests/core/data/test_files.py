"""Data sets read from files: npz, idx, image_folder, torchvision."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from core.data import DATA
from core.data.array_files import Idx, Npz
from core.data.image_folder import ImageFolder
from core.data.pictures import read_picture
from core.data.torchvision_set import Torchvision


def arrays(num: int, *shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (num, *shape), dtype=np.uint8), np.arange(num, dtype=np.uint8) % 3


def write_npz(path: Path, *shape: int, **more: np.ndarray) -> Path:
    (x, y), (x_test, y_test) = arrays(9, *shape), arrays(6, *shape, seed=1)
    np.savez(path, **{"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test} | more)
    return path


def write_idx(folder: Path, *, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, seed in (("train", 0), ("t10k", 1)):
        for values, name in zip(arrays(9, 10, 12, seed=seed), ("images-idx3-ubyte", "labels-idx1-ubyte"), strict=True):
            head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            content = head + values.tobytes()
            file = folder / f"{prefix}-{name}{'.gz' if zipped else ''}"
            file.write_bytes(gzip.compress(content) if zipped else content)
    return folder


def write_images(root: Path, *splits: str, num: int = 5) -> Path:
    """`num` images of random size and pixels in each of three classes, in each split folder if there are any."""
    draw = np.random.default_rng(0)
    for folder in (root / split for split in (splits or ("",))):
        for name in ("ant", "bee", "cat"):
            (folder / name).mkdir(parents=True)
            for number in range(num):
                pixels = draw.integers(0, 256, (*draw.integers(10, 30, 2), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return root


# ---- npz and idx ------------------------------------------------------------------------------------


def test_npz_gives_the_arrays_with_grey_as_three_channels(tmp_path):
    dataset = Npz(path=str(write_npz(tmp_path / "a.npz", 10, 12))).load("train", tmp_path)
    images, labels = arrays(9, 10, 12)
    batch = dataset.fetch(torch.tensor([4, 0]))
    assert batch.clips.shape == (2, 3, 1, 10, 12) and batch.clips.dtype == torch.uint8
    assert (batch.clips[:, :, 0].numpy() == images[[4, 0], None]).all()
    assert batch.labels["class"].tolist() == labels[[4, 0]].tolist()
    assert dataset.spec.classes == {"class": 3}


def test_npz_takes_colour_images_and_a_name_for_the_label(tmp_path):
    dataset = Npz(path=str(write_npz(tmp_path / "a.npz", 10, 12, 3)), label="garment").load("test", tmp_path)
    images, _ = arrays(6, 10, 12, 3, seed=1)
    assert (dataset.fetch(torch.arange(6)).clips[:, :, 0].numpy() == images.transpose(0, 3, 1, 2)).all()
    assert dataset.spec.classes == {"garment": 3} and dataset.labels().keys() == {"garment"}


def test_npz_is_normalised_by_the_train_splits_statistics(tmp_path):
    options = Npz(path=str(write_npz(tmp_path / "a.npz", 10, 12)))
    pixels = arrays(9, 10, 12)[0] / 255
    for split in ("train", "test"):
        spec = options.load(split, tmp_path).spec
        assert spec.mean == pytest.approx([pixels.mean()] * 3, abs=1e-4)
        assert spec.std == pytest.approx([pixels.std()] * 3, abs=1e-4)


def test_npz_is_resized_with_antialiasing(tmp_path):
    dataset = Npz(path=str(write_npz(tmp_path / "a.npz", 20, 20)), size=8).load("train", tmp_path)
    expected = F.interpolate(
        torch.from_numpy(arrays(9, 20, 20)[0])[:, None].float(), (8, 8), mode="bilinear", antialias=True
    )
    assert (dataset.fetch(torch.arange(9)).clips[:, 0, 0].float() - expected[:, 0]).abs().max() <= 0.51
    assert (dataset.spec.height, dataset.spec.width) == (8, 8)


def test_classes_of_arrays_that_count_from_1_are_refused_before_anything_is_loaded(tmp_path):
    more = {name: arrays(num, 8, 8)[1] + 1 for name, num in (("y_train", 9), ("y_test", 6))}
    data = Npz(path=str(write_npz(tmp_path / "a.npz", 8, 8, **more)))
    with pytest.raises(ValueError, match=r"a\.npz, split train: labels start at 0, and these are 1 to 3; subtract 1"):
        data.spec()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_gives_the_arrays(tmp_path, zipped):
    options = Idx(path=str(write_idx(tmp_path / "idx", zipped=zipped)))
    for split, seed in (("train", 0), ("test", 1)):
        images, labels = arrays(9, 10, 12, seed=seed)
        batch = options.load(split, tmp_path).fetch(torch.arange(9))
        assert (batch.clips[:, 0, 0].numpy() == images).all()
        assert batch.labels["class"].tolist() == labels.tolist()


def test_a_cut_off_idx_file_is_named(tmp_path):
    file = write_idx(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"data\.path: .*train-images-idx3-ubyte is cut off"):
        Idx(path=str(tmp_path)).load("train", tmp_path)


def test_an_archive_without_an_array_names_it(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=arrays(4, 8, 8)[0])
    with pytest.raises(ValueError, match=r"data\.path=.*a\.npz has no y_train; it has x_train"):
        Npz(path=str(tmp_path / "a.npz")).load("train", tmp_path)


def test_an_archive_that_is_none_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"data\.path=.*a\.npz is not a whole \.npz file"):
        Npz(path=str(tmp_path / "a.npz")).load("train", tmp_path)


@pytest.mark.parametrize(
    "array, message",
    [
        (dict(x_train=np.zeros((9, 8, 8), np.float32)), "images must be uint8, got float32"),
        (dict(x_train=np.zeros((9, 8, 8, 2), np.uint8)), r"images must be \[N, H, W\] or .*got \[9, 8, 8, 2\]"),
        (dict(y_train=np.zeros(4, np.int64)), "needs one label an image, got 9 images"),
        (dict(y_train=np.full(9, -1)), "labels must be integers from 0"),
        (dict(y_train=np.array(["cat"] * 9)), "labels must be integers from 0, got <U3 such as cat"),
        (dict(y_train=np.full(9, True)), "labels must be integers from 0, got bool such as True"),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        Npz(path=str(write_npz(tmp_path / "a.npz", 8, 8, **array))).load("train", tmp_path)


# ---- image_folder -----------------------------------------------------------------------------------


def test_split_folders_are_the_splits(tmp_path):
    options = ImageFolder(path=str(write_images(tmp_path / "images", "train", "test")), size=8)
    train, test = options.load("train", tmp_path), options.load("test", tmp_path)
    assert len(train) == len(test) == 15
    assert train.spec.classes == {"class": 3}
    assert train.labels()["class"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert (train.fetch(torch.arange(15)).clips != test.fetch(torch.arange(15)).clips).any()


@pytest.mark.parametrize("name", ["validation", "val"])
def test_without_a_test_folder_the_validation_folder_is_tested_on(tmp_path, name):
    options = ImageFolder(path=str(write_images(tmp_path / "images", "train", name)), size=8)
    assert len(options.load("test", tmp_path)) == len(options.load("validation", tmp_path)) == 15


def test_without_split_folders_a_fixed_share_of_each_class_is_held_out(tmp_path):
    root = str(write_images(tmp_path / "images"))
    (train, _), (test, _) = (ImageFolder(path=root).entries(split) for split in ("train", "test"))
    assert len(train) == 12 and [label for _, label in test] == [0, 1, 2]
    assert not {file for file, _ in train} & {file for file, _ in test}
    assert ImageFolder(path=root).entries("test")[0][:] == test[:]
    seeds = [ImageFolder(path=root, split_seed=seed).entries("test")[0] for seed in range(4)]
    assert any(other[:] != test[:] for other in seeds)


def test_pictures_are_the_resized_middle_of_the_files(tmp_path):
    root = write_images(tmp_path / "images", "train", "test")
    Image.fromarray(arrays(1, 24, 16, 3)[0][0]).save(root / "train" / "ant" / "0.png")
    clips = ImageFolder(path=str(root), size=16).load("train", tmp_path).fetch(torch.tensor([0])).clips
    assert (clips[0, :, 0].permute(1, 2, 0).numpy() == arrays(1, 24, 16, 3)[0][0][4:20]).all()


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_more_may_be_stored_than_the_model_sees(tmp_path, memory_gb):
    root = write_images(tmp_path / "images", "train", "test")
    dataset = ImageFolder(path=str(root), size=8, store_size=12, memory_gb=memory_gb).load("train", tmp_path)
    assert dataset.fetch(torch.arange(3)).clips.shape == (3, 3, 1, 12, 12)
    assert (dataset.spec.height, dataset.spec.width) == (8, 8)


def test_a_set_too_large_for_memory_gives_the_same_batches(tmp_path):
    root = str(write_images(tmp_path / "images", "train", "test"))
    held = ImageFolder(path=root, size=8, crop=0.8).load("train", tmp_path)
    lazy = ImageFolder(path=root, size=8, crop=0.8, memory_gb=0).load("train", tmp_path)
    assert lazy.is_lazy and not held.is_lazy
    some = torch.tensor([14, 3, 3, 7])
    assert (held.fetch(some).clips == lazy.fetch(some).clips).all()
    assert (held.fetch(some).labels["class"] == lazy.fetch(some).labels["class"]).all()


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_an_unreadable_image_is_named_and_left_out_at_every_load(tmp_path, caplog, memory_gb):
    root = write_images(tmp_path / "images", "train", "test")
    whole = (root / "train" / "bee" / "2.png").read_bytes()
    (root / "train" / "bee" / "2.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "cat" / "0.jpg").write_text("not an image")
    for _ in range(2):
        caplog.clear()
        dataset = ImageFolder(path=str(root), size=8, memory_gb=memory_gb).load("train", tmp_path)
        assert dataset.excluded == ("train/bee/2.png", "train/cat/0.jpg")  # not by where this machine keeps them
        assert "bee/2.png" in caplog.text and "cat/0.jpg" in caplog.text
        assert len(dataset) == 14 and len(dataset.fetch(torch.arange(14)).clips) == 14
        assert dataset.labels()["class"].tolist() == [0] * 5 + [1] * 4 + [2] * 5


def test_an_image_lost_while_a_lazy_set_is_used_stops_the_run(tmp_path):
    root = write_images(tmp_path / "images", "train", "test")
    lazy = ImageFolder(path=str(root), size=8, memory_gb=0).load("train", tmp_path)
    (root / "train" / "ant" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"ant/1\.png could be read when .* restore it"):
        lazy.fetch(torch.arange(3))


def test_a_changed_file_is_read_again(tmp_path):
    root = write_images(tmp_path / "images", "train", "test")
    options, file = ImageFolder(path=str(root), size=8), root / "train" / "ant" / "0.png"
    options.load("train", tmp_path)
    Image.new("RGB", (10, 10), (7, 7, 7)).save(file)
    os.utime(file, ns=(1, 1))
    assert (options.load("train", tmp_path).fetch(torch.tensor([0])).clips == 7).all()


@pytest.mark.parametrize(
    "mode, colour", [("L", 200), ("RGBA", (200, 200, 200, 0)), ("P", 3), ("I;16", 200 << 8), ("1", 1)]
)
def test_every_kind_of_image_becomes_three_8_bit_channels(tmp_path, mode, colour):
    image = Image.new(mode, (12, 12), colour)
    if mode == "P":
        image.putpalette([200] * 768)
        image.info["transparency"] = bytes(range(256))
    image.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", 8, 1.0)
    assert picture.shape == (3, 8, 8) and (picture == (255 if mode == "1" else 200)).all()


def test_an_empty_class_folder_is_refused(tmp_path):
    root = write_images(tmp_path / "images", "train", "test")
    (root / "train" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"data\.path: class folder .*dog holds no images .*fill it or remove"):
        ImageFolder(path=str(root)).load("train", tmp_path)


def test_a_class_with_no_readable_image_is_refused(tmp_path):
    root = write_images(tmp_path / "images", "train", "test", num=1)
    (root / "train" / "bee" / "0.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"data\.path=.*no image of class bee can be read"):
        ImageFolder(path=str(root), size=8).load("train", tmp_path)


def test_a_class_that_only_the_test_folder_has_is_refused(tmp_path):
    root = write_images(tmp_path / "images", "train", "test")
    (root / "test" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"data\.path=.*test/dog is a class that train/ does not have"):
        ImageFolder(path=str(root)).load("test", tmp_path)


def test_a_folder_without_images_or_class_folders_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path: .* has neither images .* nor sub-folders"):
        ImageFolder(path=str(tmp_path)).load("train", tmp_path)


# ---- torchvision ------------------------------------------------------------------------------------


def test_a_torchvision_set_with_a_train_argument_is_read(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    options = Torchvision(name="MNIST", path=str(tmp_path), size=10, label="digit")
    for split, seed in (("train", 0), ("test", 1)):
        dataset = options.load(split, tmp_path / "cache")
        images, labels = arrays(9, 10, 12, seed=seed)
        assert (dataset.fetch(torch.arange(9)).clips[:, 0, 0].numpy() == images[:, :, 1:11]).all()
        assert dataset.labels()["digit"].tolist() == labels.tolist()
        assert dataset.spec.classes == {"digit": 10}


def test_a_torchvision_set_too_large_for_memory_gives_the_same_batches(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    held = Torchvision(name="MNIST", path=str(tmp_path), size=8).load("train", tmp_path / "cache")
    lazy = Torchvision(name="MNIST", path=str(tmp_path), size=8, memory_gb=0).load("train", tmp_path / "cache")
    assert lazy.is_lazy and (held.fetch(torch.arange(9)).clips == lazy.fetch(torch.arange(9)).clips).all()


def test_a_torchvision_set_without_splits_is_divided(tmp_path):
    root = write_images(tmp_path / "images" / "caltech101" / "101_ObjectCategories", num=5)
    (root / "BACKGROUND_Google").mkdir()
    (root.parent / "Annotations").mkdir()
    options = Torchvision(name="Caltech101", path=str(tmp_path / "images"), size=8)
    for name in ("ant", "bee", "cat"):
        for number in range(5):
            with Image.open(root / name / f"{number}.png") as image:
                image.save(root / name / f"image_{number + 1:04d}.jpg")
            (root / name / f"{number}.png").unlink()
    assert [len(options.load(split, tmp_path / "cache")) for split in ("train", "test")] == [12, 3]


def test_an_unknown_torchvision_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.name must be a class of torchvision\.datasets, .*got 'CIFAR11'"):
        Torchvision(name="CIFAR11", path=str(tmp_path)).load("train", tmp_path)


def test_a_torchvision_set_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"data\.name=CIFAR10 cannot be opened in data\.path=.*data\.download=true"):
        Torchvision(name="CIFAR10", path=str(tmp_path)).load("train", tmp_path)


# ---- what all of them share -------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(DATA.keys() - {"moving_digits", "torchvision", "flow_mixture"}))
@pytest.mark.parametrize("path", ["", "no/such/place"])
def test_a_missing_path_is_refused_by_name(tmp_path, name, path):
    with pytest.raises(ValueError, match=rf"data\.path must be .*'{path}'"):
        DATA[name](path=path).load("train", tmp_path)


@pytest.mark.parametrize("name", sorted(DATA.keys() - {"moving_digits", "flow_mixture"}))
def test_a_size_out_of_range_is_refused_by_name(name):
    option = "size" if hasattr(DATA[name], "size") else "height"
    with pytest.raises(ValueError, match=rf"data\.{option} must be in \[8, .*got 3"):
        DATA[name](**{option: 3})


@pytest.mark.parametrize("name", sorted(DATA))
def test_an_unknown_split_is_refused(tmp_path, name):
    options = DATA[name]() if name == "moving_digits" else DATA[name](path=str(tmp_path))
    with pytest.raises(ValueError, match="split must be one of train, test"):
        options.load("extra", tmp_path)
