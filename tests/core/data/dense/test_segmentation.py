"""Pascal VOC, Cityscapes and ADE20k in their layouts: the classes that were written come back."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.dense.placing import Fit
from core.data.dense.segmentation import Ade20k, Cityscapes, Voc
from core.types import DataError
from tests.core.data.making_flows import picture, write_picture

HEIGHT, WIDTH = 12, 16


def write_mask(file, ids, *, palette=False):
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(ids.astype(np.uint8))
    if palette:  # as VOC's: the pixels are indices into a table of colours
        mask.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    mask.save(file)


def ids_of(allowed, seed):
    return np.random.default_rng(seed).choice(np.array(allowed), (HEIGHT, WIDTH))


def voc(root, num=2):
    top = root / "VOCdevkit" / "VOC2012"
    (top / "ImageSets" / "Segmentation").mkdir(parents=True)
    for part, offset in (("train", 0), ("val", 10)):
        names = [f"2007_{offset + number:06d}" for number in range(num)]
        (top / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for number, name in enumerate(names, offset):
            pixels = picture(HEIGHT, WIDTH, seed=number)
            write_picture(top / "JPEGImages" / f"{name}.jpg", pixels)
            write_mask(top / "SegmentationClass" / f"{name}.png", ids_of([*range(21), 255], number), palette=True)
    return root


def cityscapes(root, num=2):
    for part, offset in (("train", 0), ("val", 10)):
        for number in range(offset, offset + num):
            stem = f"city{number}_000000_000019"
            write_picture(
                root / "leftImg8bit" / part / f"city{number}" / f"{stem}_leftImg8bit.png",
                picture(HEIGHT, WIDTH, seed=number),
            )
            ids = ids_of(range(34), number)
            write_mask(root / "gtFine" / part / f"city{number}" / f"{stem}_gtFine_labelIds.png", ids)
    return root


def ade20k(root, num=2):
    for part, name, offset in (("training", "train", 0), ("validation", "val", 10)):
        for number in range(offset, offset + num):
            stem = f"ADE_{name}_{number:08d}"
            write_picture(root / "images" / part / f"{stem}.jpg", picture(HEIGHT, WIDTH, seed=number))
            write_mask(root / "annotations" / part / f"{stem}.png", ids_of(range(151), number))
    return root


# Cityscapes' table of train ids (cityscapesScripts, labels.py)
TRAIN_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SETS = {
    "voc": (Voc, voc, 21, [*range(21), 255], lambda ids: np.where(ids == 255, -1, ids)),
    "cityscapes": (
        Cityscapes,
        cityscapes,
        19,
        range(34),
        lambda ids: np.vectorize(lambda n: TRAIN_IDS.index(n) if n in TRAIN_IDS else -1)(ids),
    ),
    "ade20k": (Ade20k, ade20k, 150, range(151), lambda ids: ids - 1),
}


def opened(name, root, tmp_path, split="train", **options):
    options = {"path": str(root), "height": HEIGHT, "width": WIDTH} | options
    return SETS[name][0](**options).load(split, tmp_path / "cache")


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("split, offset", [("train", 0), ("test", 10)])
def test_masks_come_back_as_classes_with_void_as_minus_one(name, split, offset, tmp_path):
    _, write, num_classes, allowed, expected = SETS[name]
    dataset = opened(name, write(tmp_path / "data"), tmp_path, split)
    segments = dataset.segments(torch.arange(2))
    assert segments.shape == (2, 1, HEIGHT, WIDTH) and segments.dtype == torch.int64
    for row in range(2):
        assert (segments[row, 0].numpy() == expected(ids_of(allowed, offset + row))).all()
    assert (segments == -1).any() and dataset.spec.segment_classes == num_classes and dataset.is_lazy


@pytest.mark.parametrize("name", SETS)
def test_an_image_is_a_clip_of_one_frame_beside_its_mask(name, tmp_path):
    dataset = opened(name, SETS[name][1](tmp_path / "data"), tmp_path)
    clips = dataset.fetch(torch.tensor([1, 0])).clips
    assert clips.shape == (2, 3, 1, HEIGHT, WIDTH) and clips.dtype == torch.uint8 and len(dataset) == 2
    if name == "cityscapes":  # the others are JPEG files
        written = np.stack([picture(HEIGHT, WIDTH, seed=seed) for seed in (1, 0)])
        assert (clips[:, :, 0].numpy() == written.transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize("name", SETS)
def test_a_missing_folder_is_named_with_what_it_must_hold(name, tmp_path):
    for path in ("", str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(ValueError, match=r"data\.path") as caught:
            SETS[name][0](path=path).spec()
        assert path in str(caught.value) and "must" in str(caught.value)


@pytest.mark.parametrize(
    "name, unknown, allowed", [("voc", 37, "0-20, 255"), ("cityscapes", 34, "0-33"), ("ade20k", 151, "0-150")]
)
def test_a_mask_with_an_unknown_id_is_refused_by_name(name, unknown, allowed, tmp_path):
    root = SETS[name][1](tmp_path / "data")
    file = next(f for f in sorted(root.rglob("*.png")) if "leftImg8bit" not in f.name)
    ids = np.full((HEIGHT, WIDTH), 1)
    ids[3, 5] = unknown
    write_mask(file, ids)
    dataset = opened(name, root, tmp_path)
    with pytest.raises(
        DataError, match=rf"{file.name} has the id {unknown} \(row 3, column 5\), .* allowed: {allowed}$"
    ):
        dataset.segments(torch.tensor([0]))


def test_masks_are_resized_to_the_nearest_id(tmp_path):
    dataset = opened("voc", voc(tmp_path / "data"), tmp_path, height=2 * HEIGHT, width=2 * WIDTH)
    ids = ids_of([*range(21), 255], 0)
    expected = np.where(ids == 255, -1, ids).repeat(2, 0).repeat(2, 1)
    assert (dataset.segments(torch.tensor([0]))[0, 0].numpy() == expected).all()


def test_padding_has_no_class(tmp_path):
    dataset = opened("ade20k", ade20k(tmp_path / "data"), tmp_path, height=16, width=20, fit=Fit.pad)
    segments = dataset.segments(torch.tensor([0]))[0, 0]
    assert (segments[2:14, 2:18].numpy() == ids_of(range(151), 0) - 1).all()
    segments[2:14, 2:18] = -1
    assert (segments == -1).all()


def test_a_mask_of_another_size_than_its_image_is_refused_before_training(tmp_path):
    root = ade20k(tmp_path / "data")
    write_mask(root / "annotations" / "training" / "ADE_train_00000001.png", np.ones((9, 9)))
    with pytest.raises(DataError, match=r"ADE_train_00000001\.png is of 9 x 9 px, its image .*\.jpg of 12 x 16"):
        opened("ade20k", root, tmp_path)


@pytest.mark.parametrize("name", SETS)
def test_a_mask_one_pixel_off_is_resized_where_it_may_be(name, tmp_path):
    root = SETS[name][1](tmp_path / "data")
    file = next(f for f in sorted(root.rglob("*.png")) if "leftImg8bit" not in f.name)
    write_mask(file, np.full((HEIGHT, WIDTH + 1), 7))
    with pytest.raises(DataError, match=r"is of 12 x 17 px, .* of 12 x 16; data\.resize_masks=true"):
        opened(name, root, tmp_path)
    assert opened(name, root, tmp_path, resize_masks=True).segments(torch.tensor([0])).shape == (1, 1, HEIGHT, WIDTH)


def test_the_parts_of_ade20k_may_be_called_in_any_case(tmp_path):
    root = ade20k(tmp_path / "data")
    for name in ("images", "annotations"):
        (root / name / "training").rename(root / name / "Train")
        (root / name / "validation").rename(root / name / "VAL")
    assert [len(opened("ade20k", root, tmp_path, split)) for split in ("train", "test")] == [2, 2]


def test_an_image_without_a_mask_is_named(tmp_path):
    root = ade20k(tmp_path / "data")
    (root / "annotations" / "training" / "ADE_train_00000001.png").unlink()
    with pytest.raises(DataError, match=r"annotations/training/ADE_train_00000001\.png: No such file"):
        opened("ade20k", root, tmp_path)


def test_a_coloured_mask_is_refused(tmp_path):
    root = ade20k(tmp_path / "data")
    write_picture(root / "annotations" / "training" / "ADE_train_00000000.png", picture(HEIGHT, WIDTH))
    dataset = opened("ade20k", root, tmp_path)
    with pytest.raises(DataError, match=r"ADE_train_00000000\.png is a picture of mode RGB, not a mask"):
        dataset.segments(torch.tensor([0]))


def test_an_empty_split_is_refused(tmp_path):
    root = ade20k(tmp_path / "data")
    for file in (root / "images" / "validation").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"must hold images and annotations.* it has no image"):
        Ade20k(path=str(root)).spec()


@pytest.mark.parametrize("options, message", [({"year": 2020}, r"data\.year must be in \[2007, 2012\], got 2020")])
def test_an_impossible_year_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Voc(**options)


@pytest.mark.parametrize("name", SETS)
def test_the_size_is_checked(name):
    with pytest.raises(ValueError, match=r"data\.width must be in \[8, 4096\] px, got 5000"):
        SETS[name][0](width=5000)
