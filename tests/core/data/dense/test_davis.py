"""DAVIS folders: both layouts, lists, masks of one and of several objects, and every way to be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.augment import normalise
from core.data.dense.davis import Davis
from core.evals.frozen.features import FrozenFeatures
from core.evals.vos import Vos
from core.models import ViT
from core.models.resized import for_frames
from core.pictures.motion import tracks
from core.train import main
from core.types import DataError, generator_for


def draw(
    root: Path, name: str, frames: int, *, objects: tuple[int, ...] = (1, 2), size=(16, 24), below: str = ""
) -> None:
    """Squares that move by a pixel a frame, on noise, and their masks."""
    pixels, masks = root / "JPEGImages" / below / name, root / "Annotations" / below / name
    pixels.mkdir(parents=True), masks.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 60, (*size, 3)).astype(np.uint8)
    for frame in range(frames):
        picture, mask = noise.copy(), np.zeros(size, np.uint8)
        for place, number in enumerate(objects):
            rows, columns = slice(2 + 7 * place, 7 + 7 * place), slice(2 + frame, 8 + frame)
            mask[rows, columns], picture[rows, columns] = number, (200, 100 * place, 40)
        Image.fromarray(picture).save(pixels / f"{frame:05d}.jpg", quality=95)
        image = Image.fromarray(mask)
        if max(objects) < 255:
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(masks / f"{frame:05d}.png")


@pytest.fixture
def root(tmp_path) -> Path:
    draw(tmp_path, "cows", 6)
    draw(tmp_path, "bear", 4, objects=(255,), size=(16, 30))
    return tmp_path


def test_sequences_are_whole_and_differ_in_length_and_size(root) -> None:
    test = Davis(path=str(root), size=16).load("test", root)
    assert test.num_sequences() == 2
    bear, cows = test.sequence(0), test.sequence(1)
    assert (bear.name, bear.frames.shape, bear.objects.shape) == ("bear", (3, 4, 16, 30), (4, 16, 30))
    assert (cows.name, cows.frames.shape, cows.objects.shape) == ("cows", (3, 6, 16, 24), (6, 16, 24))
    assert bear.objects.unique().tolist() == [0, 1] and cows.objects.unique().tolist() == [0, 1, 2]
    assert (cows.objects[3, 2:7, 5:11] == 1).all() and (cows.frames[0, 3, 3:6, 6:10] > 150).all()


def test_frames_and_masks_are_resized_alike(root) -> None:
    video = Davis(path=str(root), size=32).load("test", root).sequence(1)
    assert video.frames.shape == (3, 6, 32, 48)
    assert torch.equal(
        video.objects[0, 1::2, 1::2], Davis(path=str(root), size=16).load("test", root).sequence(1)[2][0]
    )


def test_the_official_layout_has_resolutions_and_lists(tmp_path) -> None:
    for name in ("bear", "cows", "dog"):
        draw(tmp_path, name, 3, below="480p")
    lists = tmp_path / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("dog\n")
    (lists / "val.txt").write_text("cows\nbear\n")
    data = Davis(path=str(tmp_path))
    assert [sequence.name for sequence in data.sequences("train")] == ["dog"]
    assert [sequence.name for sequence in data.sequences("test")] == ["cows", "bear"]
    with pytest.raises(ValueError, match=r"data\.year=2016: .*val\.txt is missing; years with a val\.txt: 2017"):
        Davis(path=str(tmp_path), year="2016").sequences("test")


def test_the_lists_of_2016_name_files(tmp_path) -> None:
    draw(tmp_path, "bear", 2, below="480p")
    lists = tmp_path / "ImageSets" / "480p"
    lists.mkdir(parents=True)
    for name in ("train", "val"):
        lines = [f"/JPEGImages/480p/bear/{n:05d}.jpg /Annotations/480p/bear/{n:05d}.png" for n in range(2)]
        (lists / f"{name}.txt").write_text("\n".join(lines))
    assert [sequence.name for sequence in Davis(path=str(tmp_path), year="480p").sequences("test")] == ["bear"]


def test_max_frames_takes_the_first_ones(root) -> None:
    assert Davis(path=str(root), max_frames=3).load("test", root).sequence(1).frames.shape[1] == 3


def test_frames_are_in_the_order_of_their_numbers(tmp_path) -> None:
    draw(tmp_path, "bear", 12)
    for folder in ("JPEGImages", "Annotations"):
        for path in (tmp_path / folder / "bear").iterdir():
            path.rename(path.with_name(f"{int(path.stem)}{path.suffix}"))
    names = [path.stem for path in Davis(path=str(tmp_path)).sequences("test")[0].frames]
    assert names == [str(number) for number in range(12)]


def test_clips_are_pieces_of_the_sequences_cut_to_one_size(root) -> None:
    data = Davis(path=str(root), size=16, width=20, frames=2)
    train = data.load("train", root)
    assert (len(train), train.labels()) == (2 + 3, {})
    clips = train.fetch(torch.tensor([4, 0])).clips
    assert clips.shape == (2, 3, 2, 16, 20) and clips.dtype == torch.uint8
    assert torch.equal(clips[0], train.sequence(1).frames[:, 4:6, :, 2:22])
    assert torch.equal(clips[1], train.sequence(0).frames[:, :2, :, 5:25])


def test_a_void_pixel_does_not_count(root) -> None:
    path = root / "Annotations" / "cows" / "00002.png"
    values = np.asarray(Image.open(path)).copy()
    values[0, :5] = 255
    Image.fromarray(values).save(path)
    objects = Davis(path=str(root), size=16).load("test", root).sequence(1).objects
    assert (objects[2, 0, :5] == -1).all() and (objects != -1)[[0, 1, 3, 4, 5]].all()


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_folder_that_is_missing_is_named(root) -> None:
    with pytest.raises(ValueError, match=r"data\.path must be a folder with JPEGImages and Annotations.*nowhere"):
        Davis(path=str(root / "nowhere")).spec()


def test_a_sequence_without_annotation_is_named(root) -> None:
    (root / "Annotations" / "cows").rename(root / "elsewhere")
    with pytest.raises(ValueError, match=r"the sequence cows has no annotation"):
        Davis(path=str(root)).spec()


def test_a_missing_mask_is_named(root) -> None:
    (root / "Annotations" / "cows" / "00004.png").unlink()
    with pytest.raises(ValueError, match=r"cows has 6 frames and 5 masks; the first frame without one is 00004\.jpg"):
        Davis(path=str(root)).spec()


def test_a_mask_too_many_is_refused(root) -> None:
    (root / "JPEGImages" / "bear" / "00003.jpg").unlink()
    with pytest.raises(ValueError, match=r"bear has 3 frames and 4 masks"):
        Davis(path=str(root)).spec()


def test_unknown_objects_in_a_mask_are_named(root) -> None:
    Image.fromarray(np.full((16, 24), 7, np.uint8)).save(root / "Annotations" / "cows" / "00003.png")
    with pytest.raises(ValueError, match=r"cows/00003\.png shows the objects \[7\].*it has \[1, 2\]"):
        Davis(path=str(root)).load("test", root).sequence(1)


def test_a_mask_of_colours_is_refused(root) -> None:
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(root / "Annotations" / "cows" / "00000.png")
    with pytest.raises(ValueError, match=r"cows/00000\.png is an image of the mode RGB"):
        Davis(path=str(root)).load("test", root).sequence(1)


def test_a_mask_of_another_size_is_refused(root) -> None:
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(root / "Annotations" / "cows" / "00001.png")
    with pytest.raises(ValueError, match=r"cows/00001\.png is of 8 x 12 px, its image 00001\.jpg of 16 x 24"):
        Davis(path=str(root)).load("test", root).sequence(1)


def test_frames_of_several_sizes_are_refused(root) -> None:
    Image.new("RGB", (32, 16)).save(root / "JPEGImages" / "cows" / "00005.jpg")
    Image.new("L", (32, 16)).save(root / "Annotations" / "cows" / "00005.png")
    with pytest.raises(ValueError, match=r"cows/00005\.jpg is of another shape.*16x32 px, that to 16x24"):
        Davis(path=str(root), size=16).load("test", root).sequence(1)


@pytest.mark.parametrize("folder, name", [("JPEGImages", "00002.jpg"), ("Annotations", "00002.png")])
def test_a_damaged_file_is_named(root, folder, name) -> None:
    file = root / folder / "cows" / name
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match=rf"data\.path: .*{folder}/cows/{name} cannot be read as an image"):
        Davis(path=str(root)).load("test", root).sequence(1)


def test_clips_wider_than_the_frames_are_refused(root) -> None:
    with pytest.raises(ValueError, match=r"data\.width=28: the frames of cows are 16x24 px at data\.size=16"):
        Davis(path=str(root), size=16, width=28).load("train", root).fetch(torch.tensor([5]))


@pytest.mark.parametrize("name, value", [("size", 0), ("frames", 0), ("width", 0), ("max_frames", 1)])
def test_numbers_out_of_range_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=rf"data\.{name} must be (in|at least)"):
        Davis(path="x", **{name: value})


def annotate(root: Path, name: str, *kept: int) -> None:
    """Remove the masks of all frames but `kept`."""
    for path in (root / "Annotations" / name).iterdir():
        if int(path.stem) not in kept:
            path.unlink()


@pytest.mark.parametrize("kept", [(0, 1, 3), (1, 3, 5), (0, 1, 2, 3), (0, 2, 3, 4)])
def test_masks_that_are_not_of_every_kth_frame_are_refused(root, kept) -> None:
    annotate(root, "cows", *kept)
    with pytest.raises(ValueError, match=rf"the sequence cows has 6 frames and {len(kept)} masks"):
        Davis(path=str(root)).spec()


def test_a_mask_one_pixel_wider_than_its_frame_is_refused_with_both_sizes_or_resized(root) -> None:
    path = root / "Annotations" / "cows" / "00001.png"
    values = np.array(Image.open(path))
    Image.fromarray(np.pad(values, ((0, 0), (0, 1)))).save(path)
    with pytest.raises(DataError, match=r"00001\.png is of 16 x 25 px, .* of 16 x 24; data\.resize_masks=true"):
        Davis(path=str(root), size=16).load("test", root)
    video = Davis(path=str(root), size=16, resize_masks=True).load("test", root).sequence(1)
    assert (video.objects[1] == torch.from_numpy(values)).float().mean() > 0.95


def test_a_mask_of_another_shape_is_refused_even_where_masks_are_resized(root) -> None:
    Image.fromarray(np.zeros((24, 16), np.uint8)).save(root / "Annotations" / "cows" / "00001.png")
    with pytest.raises(DataError, match=r"of another shape, which data\.resize_masks=true does not resize"):
        Davis(path=str(root), resize_masks=True).load("test", root)


# ---- masks of some frames -------------------------------------------------------------------------------------------


def test_masks_of_every_second_frame_are_known_and_the_others_not_counted(root) -> None:
    annotate(root, "cows", 0, 2, 4)
    data = Davis(path=str(root), size=16)
    video = data.load("test", root).sequence(1)
    assert data.spec().has_objects and video.frames.shape[1] == 6 and video.known == (0, 2, 4)
    assert (video.objects[[1, 3, 5]] == -1).all() and (video.objects[4, 2:7, 6:12] == 1).all()


def test_an_object_that_comes_later_is_not_counted_where_masks_are_sparse(root) -> None:
    annotate(root, "cows", 0, 2, 4)
    values = np.asarray(Image.open(root / "Annotations" / "cows" / "00002.png")).copy()
    values[15] = 9
    Image.fromarray(values).save(root / "Annotations" / "cows" / "00002.png")
    Image.fromarray(np.full((16, 24), 9, np.uint8)).save(root / "Annotations" / "cows" / "00004.png")
    video = Davis(path=str(root), size=16).load("test", root).sequence(1)
    assert (video.objects[2, 15] == -1).all() and (video.objects[2, 2:7, 4:10] == 1).all()
    assert video.known == (0, 2)  # the third mask is the first of object 9 and says nothing of the others


def test_a_sequence_with_a_first_mask_alone_is_there_to_be_followed(root) -> None:
    annotate(root, "cows", 0)
    video = Davis(path=str(root), size=16).load("test", root).sequence(1)
    assert video.known == (0,) and video.frames.shape[1] == 6 and (video.objects[1:] == -1).all()


def test_a_set_with_first_masks_alone_cannot_be_scored_and_says_so(root) -> None:
    annotate(root, "cows", 0), annotate(root, "bear", 0)
    spec = Davis(path=str(root), size=16).spec()
    with pytest.raises(ValueError, match=r"evals\.vos needs videos whose objects are known in frames after the first"):
        Vos().check(ViT(), spec, spec)


# ---- what it is for --------------------------------------------------------------------------------------------------


def features_of(root: Path) -> FrozenFeatures:
    data = Davis(path=str(root), size=16)
    options = ViT(width=24, depth=1, heads=2, patch=2, tubelet=2)
    built_for = data.spec().__class__(3, 4, 8, 8)
    test = data.load("test", root)
    return FrozenFeatures(
        options.build(built_for, generator_for(0, "init")),
        test,
        test,
        prepare=normalise,
        device="cpu",
        batch_size=8,
        built_for=built_for,
        resize=lambda encoder, spec: for_frames(encoder, options, spec),
    )


def test_a_transformer_of_small_clips_follows_objects_in_it(root) -> None:
    found = Vos().run(features_of(root), seed=0)
    assert found["vos/jf"] > 60  # the squares' colours are all that it takes


def test_a_sequence_with_a_first_mask_alone_is_drawn_and_not_scored(root) -> None:
    both = Vos().run(features_of(root), seed=0)
    annotate(root, "bear", 0)
    bear_left_out = Vos().run(features_of(root), seed=0)
    shown, followed = tracks(Vos(), features_of(root))
    assert set(followed) == {"followed_0", "followed_1"} and shown["times_0"].tolist() == [0, 1, 2, 3]
    (root / "JPEGImages" / "bear").rename(root / "bear")
    cows = Vos().run(features_of(root), seed=0)
    assert cows["vos/jf"] == pytest.approx(bear_left_out["vos/jf"]) != both["vos/jf"]


def test_a_sequence_with_masks_of_every_second_frame_is_scored_and_drawn_on_these(root) -> None:
    annotate(root, "cows", 0, 2, 4)
    assert Vos().run(features_of(root), seed=0)["vos/jf"] > 60
    shown, _ = tracks(Vos(), features_of(root))
    assert shown["times_1"].tolist() == [0, 2, 4] and (shown["objects_1"] >= 0).all()


def test_a_run_is_trained_on_its_frames_and_judged_on_its_sequences(root, tmp_path, capsys) -> None:
    small = ["scale=smoke", "method=mae", "data=davis", f"data.path={root}", "data.size=16", "optim.steps=2"]
    small += [
        "encoder.patch=4",
        "evals=[vos]",
        f"runtime.dir={tmp_path / 'run'}",
        f"runtime.cache={tmp_path / 'cache'}",
    ]
    assert main(small) == 0
    assert re.search(r"^vos .* jf \d", capsys.readouterr().out, re.MULTILINE)
