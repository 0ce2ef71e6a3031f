"""What is told of labels before loading is what loading gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.array_files import Npz
from core.data.image_folder import ImageFolder
from core.data.moving_digits import MovingDigits
from core.data.video.videos import FrameFolder


def write(folder, num):
    folder.mkdir(parents=True)
    for i in range(num):
        Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")


def images(root):
    for name, num in (("cat", 3), ("dog", 5)):
        write(root / name, num)
    return ImageFolder(path=str(root), size=8)


def unlabelled(root):
    write(root / "flat", 4)
    return ImageFolder(path=str(root / "flat"), size=8)


def frames(root):
    for name in ("wave", "jump", "jump2"):
        for video in ("a", "b", "c"):
            write(root / name / video, 4)
    return FrameFolder(path=str(root), size=8, frames=2, stride=1, clips_per_video=1)


def archive(root):
    root.mkdir()
    pixels = np.zeros((5, 16, 16), np.uint8)
    np.savez(root / "a.npz", x_train=pixels, y_train=[0, 1, 2, 1, 0], x_test=pixels[:2], y_test=[2, 0])
    return Npz(path=str(root / "a.npz"), label="kind")


def digits(root):
    return MovingDigits(size=16, num_train=300, num_test=130)


def scenes(root):
    return MovingDigits(size=32, frames=2, num_train=130, num_test=20, num_digits_max=3, pan=0.5)


@pytest.mark.parametrize("make", [images, unlabelled, frames, archive, digits, scenes])
@pytest.mark.parametrize("split", ["train", "test"])
def test_known_labels_are_those_of_the_loaded_split(make, split, tmp_path):
    data = make(tmp_path / "set")
    known, loaded = data.known_labels(split), data.load(split, tmp_path / "cache").labels()
    assert known.keys() == loaded.keys()
    assert all(torch.equal(known[name], loaded[name]) for name in loaded)


def test_a_large_drawn_set_tells_none_before_it_is_loaded():
    assert MovingDigits(num_train=1_000_000).known_labels("train") is None
