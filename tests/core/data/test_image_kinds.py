"""Image files as people have them: wide grey values, suffixes, flat and unlabelled splits, another root for test."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.configuring.config import ConfigError, load
from core.configuring.places import located
from core.data.image_folder import ImageFolder
from core.data.pictures import SUFFIXES, read_or_reason, read_picture
from core.running.trainer import train
from tests.core.running.test_trainer import Notebook

CASES = Path(__file__).parent / "cases" / "images"
RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def saved(folder: Path, values: np.ndarray, name: str = "a.tif") -> Path:
    Image.fromarray(values).save(folder / name)
    return folder / name


def classes(root: Path, *names: str, num: int = 2, value: int = 90) -> Path:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(num):
            Image.new("RGB", (8, 8), (value, number, 0)).save(root / name / f"{number}.png")
    return root


def names(options: ImageFolder, split: str) -> list[str]:
    return [f"{file.parent.name}/{file.name}" for file, _ in options.entries(split)[0]]


# ---- values of more than 8 bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["f01.tif", "i32.tif"])
def test_real_and_32_bit_pictures_are_scaled_by_what_they_hold(name):
    picture = read_picture(CASES / name, 24, 1.0)
    assert (picture.min(), picture.max()) == (42, 152)


@pytest.mark.parametrize(
    "dtype, top",
    [(np.float32, 1), (np.float32, 255), (np.float32, 65535), (np.int32, 255), (np.int32, 65535), (np.uint16, 65535)],
)
def test_a_range_that_can_only_be_one_scale_is_shown_in_it(tmp_path, dtype, top):
    picture = read_picture(saved(tmp_path, (RAMP * top).astype(dtype)), 8, 1.0)
    assert np.abs(picture - RAMP * 255).max() <= 1


def test_16_bit_grey_of_the_other_byte_order_is_the_same_picture(tmp_path):
    values = (RAMP * 65535).astype(np.uint16)
    files = saved(tmp_path, values), saved(tmp_path, values.astype(">u2"), "b.tif"), saved(tmp_path, values, "c.png")
    first, *others = [read_picture(file, 8, 1.0) for file in files]
    assert all((first == other).all() for other in others) and (first[0] == values >> 8).all()


@pytest.mark.parametrize(
    "values, reason",
    [
        ((RAMP * 1.02).astype(np.float32), "real numbers go up to 1.02, of which the scale is not known"),
        ((RAMP * 1000).astype(np.float32), "real numbers go up to 1000, of which"),
        ((RAMP - 0.5).astype(np.float32), "real numbers go from -0.5 to 0.5"),
        (np.where(RAMP == 0, np.nan, RAMP).astype(np.float32), "not all finite"),
        (np.where(RAMP == 0, np.inf, RAMP).astype(np.float32), "not all finite"),
        (((RAMP - 0.5) * 200).astype(np.int32), "grey values go from -100 to 100"),
        ((RAMP * 1).astype(np.int32), "grey values go up to 1, of which"),
        ((RAMP * 300).astype(np.int32), "grey values go up to 300, of which"),
        ((RAMP * 1e6).astype(np.int32), "grey values go up to 1e\\+06, of which"),
        ((RAMP * 255).astype(np.uint16), "16-bit grey values go up to 255, of which"),
        ((RAMP * 4095).astype(np.uint16), "16-bit grey values go up to 4095, of which"),
    ],
)
def test_a_range_that_might_be_several_scales_is_a_reason_to_leave_out(tmp_path, values, reason):
    with pytest.raises(ValueError, match=reason):
        read_picture(saved(tmp_path, values), 8, 1.0)


def test_such_a_file_is_left_out_of_a_set_by_name_with_the_reason(tmp_path, caplog):
    root = classes(tmp_path / "images", "train/ant", "test/ant")
    saved(root / "train" / "ant", (RAMP - 0.5).astype(np.float32), "depth.tif")
    train = ImageFolder(path=str(root), size=8).load("train", tmp_path)
    assert train.excluded == ("train/ant/depth.tif",) and "real numbers go from -0.5 to 0.5" in caplog.text


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_all_zeros_are_black(tmp_path, dtype):
    assert (read_picture(saved(tmp_path, np.zeros((8, 8), dtype)), 8, 1.0) == 0).all()


def test_a_dark_16_bit_png_keeps_the_scale_that_its_format_has(tmp_path):
    values = (RAMP * 1023).astype(np.uint16)
    assert (read_picture(saved(tmp_path, values, "a.png"), 8, 1.0)[0] == values >> 8).all()


@pytest.mark.parametrize("top, is_shown", [(65535, True), (255, False)])
def test_16_bit_colours_are_shown_where_they_are_not_nearly_black(tmp_path, top, is_shown):
    tifffile = pytest.importorskip("tifffile", reason="Pillow writes no 16-bit colours")
    values = np.stack([RAMP * top] * 3, axis=-1).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    found = read_or_reason(tmp_path / "a.tif", 8, 1.0)
    assert (not isinstance(found, str)) == is_shown and (is_shown or "none of its 16-bit values reaches 4096" in found)


@pytest.mark.parametrize("mode, suffix", [("LA", "png"), ("PA", "tif"), ("CMYK", "tif"), ("CMYK", "jpg"), ("1", "tif")])
def test_other_kinds_of_8_bit_pictures_are_read(tmp_path, mode, suffix):
    Image.new("RGB", (8, 8), (255, 255, 255)).convert("L" if mode == "LA" else "RGB").convert(mode).save(
        tmp_path / f"a.{suffix}"
    )
    assert (read_picture(tmp_path / f"a.{suffix}", 8, 1.0) >= 254).all()


# ---- kinds of files ------------------------------------------------------------------------------------------------


def test_pictures_are_those_of_a_fixed_list_without_what_else_pillow_registers():
    assert {".jpg", ".jpe", ".jfif", ".tif", ".tiff", ".png", ".bmp", ".ppm", ".pgm", ".pnm", ".gif"} < {*SUFFIXES}
    assert not {".pfm", ".pdf", ".eps", ".h5", ".mpg", ".ico"} & {*SUFFIXES}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_that_pillow_can_also_write_is_read_back(tmp_path, suffix):
    format = Image.registered_extensions()[suffix]
    if format not in Image.SAVE:
        pytest.skip(f"Pillow does not write {format}")
    Image.new("RGB", (16, 16), (200, 200, 200)).save(tmp_path / f"a{suffix}", format=format)
    assert np.abs(read_picture(tmp_path / f"a{suffix}", 8, 1.0).astype(int) - 200).max() <= 3


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), (value, value, value)) for value in (40, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_picture(tmp_path / "a.gif", 8, 1.0) == 40).all()


def test_files_that_are_no_pictures_by_their_names_are_counted_and_named_in_one_line(tmp_path, caplog):
    root = classes(tmp_path / "images", "train/ant", "train/bee", "test/ant")
    for name in ("ant/a.heic", "bee/b.heic", "bee/notes.txt"):
        (root / "train" / name).write_text("no picture")
    (root / "train" / "ant" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(path=str(root), size=8).load("train", tmp_path)) == 4
    [line] = [record.getMessage() for record in caplog.records]
    assert "passed over 4 files" in line and "2 .heic" in line
    assert all(f"train/{name}" in line for name in ("ant/a.heic", "ant/gone.jpg", "bee/b.heic", "bee/notes.txt"))


def test_a_class_of_files_without_a_reader_says_what_it_holds(tmp_path):
    root = classes(tmp_path / "images", "train/ant", "test/ant")
    (root / "train" / "bee").mkdir()
    (root / "train" / "bee" / "b.heic").write_text("no picture")
    with pytest.raises(ValueError, match=r"class folder .*bee holds no images .*what it holds: b\.heic; fill it or"):
        ImageFolder(path=str(root)).spec()


# ---- splits --------------------------------------------------------------------------------------------------------


def test_images_of_val_without_class_folders_are_refused_with_what_to_do(tmp_path):
    root = classes(tmp_path / "images", "train/n01440764", "val", "test")
    with pytest.raises(ValueError, match=r"none called test .* or val .*with class folders; .*no labels: put those of"):
        ImageFolder(path=str(root)).spec()


@pytest.mark.parametrize("one, other", [("train", "training"), ("val", "valid"), ("test", "testing")])
def test_two_folders_for_one_split_are_refused(tmp_path, one, other):
    root = classes(tmp_path / "images", "train/ant", "test/ant")
    classes(root, *(f"{name}/ant" for name in (one, other) if not (root / name).exists()))
    with pytest.raises(ValueError, match=rf"has the folders {one} and {other}, which are one split"):
        [ImageFolder(path=str(root)).entries(split) for split in ("train", "test", "validation")]


@pytest.mark.parametrize("train, test", [("", ""), ("train/", ""), ("", "Val/"), ("Training/", "test/")])
def test_the_test_split_may_be_of_another_root(tmp_path, train, test):
    root = classes(tmp_path / "here", *(f"{train}{name}" for name in ("ant", "bee", "cat")))
    other = classes(tmp_path / "there", f"{test}cat", f"{test}ant", num=3, value=30)
    options = ImageFolder(path=str(root), test_path=str(other), size=8)
    assert options.spec().classes == {"class": 3} and len(options.load("train", tmp_path)) == 6
    held = options.load("test", tmp_path)
    assert held.labels()["class"].tolist() == [0] * 3 + [2] * 3
    assert (held.fetch(torch.arange(6)).clips[:, 0] == 30).all()


def test_a_test_path_beats_the_test_folder(tmp_path):
    root = classes(tmp_path / "here", "train/ant", "test/ant")
    other = classes(tmp_path / "there", "ant", num=5)
    assert len(ImageFolder(path=str(root), test_path=str(other)).entries("test")[0]) == 5


def test_a_class_that_only_the_test_path_has_is_refused(tmp_path):
    root, other = classes(tmp_path / "here", "ant"), classes(tmp_path / "there", "ant", "dog")
    with pytest.raises(ValueError, match=r"data\.test_path=.*there/dog is a class that here/ does not have"):
        ImageFolder(path=str(root), test_path=str(other)).spec()


def test_a_test_path_that_shares_images_with_train_is_refused(tmp_path):
    root = classes(tmp_path / "here", "ant", "bee")
    (tmp_path / "link").symlink_to(root)
    for test, said in ((tmp_path / "link", "is the train folder"), (tmp_path, "shares files with")):
        with pytest.raises(ValueError, match=said):
            ImageFolder(path=str(root), test_path=str(test)).spec()


def test_a_test_path_that_does_not_exist_is_named(tmp_path):
    root = classes(tmp_path / "here", "ant")
    with pytest.raises(ValueError, match=r"data\.test_path must be a folder .*nowhere', which does not exist"):
        ImageFolder(path=str(root), test_path=str(tmp_path / "nowhere")).spec()


def test_a_relative_test_path_starts_at_the_data_root(tmp_path):
    classes(tmp_path / "here", "ant"), classes(tmp_path / "there", "ant")
    words = ["data=image_folder", "data.path=here", "data.test_path=there", f"runtime.data_root={tmp_path}", "evals=[]"]
    run = load(words)
    assert run.data.test_path == "there" and located(run).data.test_path == str(tmp_path / "there")


def test_a_link_to_another_class_is_refused_as_an_image_has_one_class(tmp_path):
    root = classes(tmp_path / "images", "ant", "bee")
    (root / "wasp").symlink_to("bee")
    with pytest.raises(ValueError, match=r"bee and .*wasp are one folder by a link"):
        ImageFolder(path=str(root)).spec()


def test_three_thousand_classes_of_two_images_hold_out_one_of_each(tmp_path):
    content = (classes(tmp_path / "one", "ant", num=1) / "ant" / "0.png").read_bytes()
    for number in range(3000):
        folder = tmp_path / "images" / f"{number:04d}"
        folder.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            (folder / name).write_bytes(content)
    options = ImageFolder(path=str(tmp_path / "images"), size=8)
    train, test = (options.load(split, tmp_path / "cache") for split in ("train", "test"))
    assert train.spec.classes == {"class": 3000}
    assert train.labels()["class"].tolist() == test.labels()["class"].tolist() == list(range(3000))


def test_a_class_of_one_image_is_named(tmp_path):
    root = classes(tmp_path / "images", "ant", "bee")
    (root / "bee" / "1.png").unlink()
    with pytest.raises(ValueError, match="class bee needs two images, one to hold out; it has 1"):
        ImageFolder(path=str(root)).spec()


# ---- no labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_images_that_lie_in_the_folder_itself_have_no_labels(tmp_path, memory_gb):
    root = classes(tmp_path / "images", "", num=5)
    options = ImageFolder(path=str(root), size=8, memory_gb=memory_gb)
    train, test = options.load("train", tmp_path), options.load("test", tmp_path)
    assert options.spec().classes == {} and train.labels() == {} and (len(train), len(test)) == (4, 1)
    assert train.fetch(torch.arange(2)).labels == {} and len(list(options.sources())) == 5


@pytest.mark.parametrize("test", ["test", "Val/ant"])
def test_a_flat_train_folder_has_a_test_folder_of_whatever_kind(tmp_path, test):
    root = classes(tmp_path / "images", "train", test, num=3)
    options = ImageFolder(path=str(root), size=8)
    assert options.spec().classes == {} and [len(options.entries(split)[0]) for split in ("train", "test")] == [3, 3]


def test_a_flat_folder_has_a_test_path(tmp_path):
    root, other = classes(tmp_path / "here", "", num=3), classes(tmp_path / "there", "", num=2)
    options = ImageFolder(path=str(root), test_path=str(other), size=8)
    assert [len(options.entries(split)[0]) for split in ("train", "test")] == [3, 2]


def test_a_picture_beside_class_folders_leaves_them_classes(tmp_path):
    root = classes(tmp_path / "images", "", "ant", "bee")
    assert ImageFolder(path=str(root)).spec().classes == {"class": 2}


def test_evaluations_of_labels_are_refused_by_name_on_images_without(tmp_path):
    root = classes(tmp_path / "images", "", num=40)
    words = ["method=mae", "scale=smoke", "data=image_folder", f"data.path={root}", "data.size=16", "encoder.patch=4"]
    message = r"evals=knn,ridge: these need labels, and data=image_folder has none here: take evals=\[collapse\], judge"
    with pytest.raises(ConfigError, match=message):
        load([*words, "evals=[knn,ridge,collapse]"])
    run = load([*words, "evals=[collapse]", "optim.steps=1", "optim.batch_size=4", f"runtime.cache={tmp_path / 'c'}"])
    notes = Notebook(tmp_path / "run")
    train(run, notes)
    assert notes.outcome == "done" and "collapse/rankme" in notes.results


def test_an_empty_folder_says_what_to_put_into_it(tmp_path):
    with pytest.raises(ValueError, match=r"has neither images .* nor sub-folders; put the images of each class in a"):
        ImageFolder(path=str(tmp_path)).spec()
