from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from core.data.digit_scenes import MOTIONS, PHOTOS, load_glyphs
from core.data.moving_digits import MovingDigits, MovingDigitsDataset


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def clips(cache: Path) -> MovingDigitsDataset:
    return MovingDigits(frames=6, num_train=300, num_test=64).load("train", cache)


@pytest.fixture(scope="module")
def crowd(cache: Path) -> MovingDigitsDataset:
    return MovingDigits(size=48, frames=3, num_train=300, num_digits_max=4, digit_min=14, digit_max=28).load(
        "train", cache
    )


def everything(dataset: MovingDigitsDataset) -> Tensor:
    return torch.arange(len(dataset))


def test_fetch_gives_uint8_clips_of_the_shape_in_the_spec(clips):
    batch = clips.fetch(torch.tensor([5, 3, 5]))
    assert batch.clips.dtype == torch.uint8
    assert batch.clips.shape == (3, 3, 6, 32, 32)
    assert (batch.clips[0] == batch.clips[2]).all()
    assert (batch.labels["digit"] == clips.labels()["digit"][[5, 3, 5]]).all()


def test_the_glyphs_are_scikit_learns_digits():
    ours = torch.cat([load_glyphs("train")[1], load_glyphs("test")[1]])
    assert ours.tolist() == load_digits().target.tolist()


def test_train_and_test_share_no_photograph():
    assert not set(PHOTOS["train"]) & set(PHOTOS["test"])


def test_the_same_options_give_the_same_bytes(clips, tmp_path):
    again = MovingDigits(frames=6, num_train=300, num_test=64).load("train", tmp_path)
    first = clips.fetch(everything(clips))
    second = again.fetch(everything(again))
    assert (first.clips == second.clips).all()
    assert all((first.labels[name] == second.labels[name]).all() for name in first.labels)


def test_a_shorter_set_is_the_start_of_a_longer_one(clips, cache):
    short = MovingDigits(frames=6, num_train=40).load("train", cache)
    assert (short.fetch(everything(short)).clips == clips.fetch(torch.arange(40)).clips).all()


def test_fingerprints_differ_where_pixels_do_and_nowhere_else(cache):
    def told(split="train", **options):
        return MovingDigits(**{"num_train": 20, "num_test": 20} | options).load(split, cache).fingerprint()

    assert told() == told(digit_min=20.0, digit_max=26.0, num_test=30)  # the size that null gives, another test split
    assert len({told(), told("test"), told(noise=0.1), told(gen_seed=1), told(pan=2)}) == 5


def test_another_seed_or_split_gives_other_clips(clips, cache):
    some = torch.arange(8)
    other = MovingDigits(frames=6, num_train=8, gen_seed=1).load("train", cache)
    test = MovingDigits(frames=6, num_test=8).load("test", cache)
    assert (other.fetch(some).clips != clips.fetch(some).clips).any()
    assert (test.fetch(some).clips != clips.fetch(some).clips).any()


def test_both_splits_are_normalised_by_the_train_splits_statistics(clips, cache):
    pixels = clips.fetch(torch.arange(128)).clips.double() / 255
    assert clips.spec.mean == pytest.approx(pixels.mean(dim=(0, 2, 3, 4)).tolist(), abs=6e-4)
    assert clips.spec.std == pytest.approx(pixels.std(dim=(0, 2, 3, 4)).tolist(), abs=6e-4)
    assert MovingDigits(frames=6, num_test=64).load("test", cache).spec.mean == clips.spec.mean


def test_the_global_generator_is_neither_read_nor_moved(tmp_path):
    before = torch.get_rng_state()
    MovingDigits(num_train=10, frames=2, noise=0.1).load("train", tmp_path)
    assert (torch.get_rng_state() == before).all()


def test_a_second_load_reads_what_the_first_wrote(tmp_path):
    options = MovingDigits(num_train=10)
    options.load("train", tmp_path)
    (clips,) = tmp_path.glob("moving_digits/*/clips.npy")
    pixels = np.load(clips)
    np.save(clips, 255 - pixels)
    assert (options.load("train", tmp_path).fetch(torch.arange(10)).clips.numpy() == 255 - pixels).all()


def test_the_length_of_one_split_does_not_change_the_other_in_the_cache(tmp_path):
    MovingDigits(num_train=10, num_test=4).load("test", tmp_path)
    MovingDigits(num_train=20, num_test=4).load("test", tmp_path)
    assert len(list((tmp_path / "moving_digits").iterdir())) == 1


def test_only_labels_that_vary_are_listed(cache, clips, crowd):
    assert MovingDigits(num_train=4).load("train", cache).spec.classes == {"digit": 10}
    assert clips.spec.classes == {"digit": 10, "motion": 10}
    assert crowd.spec.classes == {"digit": 10, "motion": 10, "count": 4, "dist": 4}
    assert crowd.labels().keys() == crowd.spec.classes.keys()


def test_every_class_of_every_label_occurs(crowd):
    for name, count in crowd.spec.classes.items():
        assert crowd.labels()[name].unique().tolist() == list(range(count)), name


def test_count_is_the_number_of_digits_and_the_nearest_comes_first(crowd):
    digits = crowd.digits(everything(crowd))
    assert ((digits >= 0).sum(dim=1) == crowd.labels()["count"] + 1).all()
    assert (digits[:, 0] == crowd.labels()["digit"]).all()


def test_a_nearer_digit_covers_more_pixels(crowd):
    area = (crowd.masks(everything(crowd))[:, 1] == 1).sum(dim=(1, 2)).double()
    by_depth = [area[crowd.labels()["dist"] == depth].mean() for depth in range(4)]
    assert by_depth == sorted(by_depth)


def test_masks_are_where_the_ink_is(cache):
    dark = MovingDigits(num_train=50, background=0).load("train", cache)
    pixels = dark.fetch(everything(dark)).clips[:, 0]
    masks = dark.masks(everything(dark))
    assert ((pixels > 128) == (masks == 1)).float().mean() > 0.995


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """[M, C, H, W] read where `flow` [M, 2, H, W] points."""
    size = frames.shape[-1]
    place = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy")) + 0.5
    grid = (place + flow).permute(0, 2, 3, 1) * 2 / size - 1
    return F.grid_sample(frames, grid, align_corners=False, padding_mode="border")


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_next_frame_read_along_the_flow_is_this_frame(clips, motion):
    chosen = (clips.labels()["motion"] == MOTIONS.index(motion)).nonzero().squeeze(1)
    frames = clips.fetch(chosen).clips.transpose(1, 2).float() / 255  # [B, T, C, H, W]
    now, then = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
    flow, digit = clips.flow(chosen).flatten(0, 1), clips.masks(chosen)[:, :-1].flatten(0, 1) > 0
    error = (warp(then, flow) - now).abs().mean(dim=1)[digit].mean()
    still = (then - now).abs().mean(dim=1)[digit].mean()
    assert error < 0.02
    if motion == "still":
        assert flow.abs().max() < 1e-4
    else:
        assert error < still / 4


def test_flow_is_zero_on_the_photograph(crowd):
    flow, masks = crowd.flow(torch.arange(50)), crowd.masks(torch.arange(50))
    assert flow.shape == (50, 2, 2, 48, 48)
    assert (flow.movedim(2, -1)[masks[:, :-1] == 0] == 0).all()


@pytest.mark.parametrize("motion, axis, sign", [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_a_translation_moves_the_way_it_is_called_in_most_frames(clips, motion, axis, sign):
    chosen = (clips.labels()["motion"] == MOTIONS.index(f"translate_{motion}")).nonzero().squeeze(1)
    flow = clips.flow(chosen).movedim(2, -1)[clips.masks(chosen)[:, :-1] > 0]
    assert (flow[:, axis] * sign > 0).float().mean() > 0.8
    assert flow[:, 1 - axis].abs().max() < 1e-3


def frame_features(frames: Tensor) -> np.ndarray:
    """Pixels, and the ink's mass, place and spread, of one frame [N, C, H, W]."""
    pixels = frames.float().mean(dim=1) / 255
    ink = (pixels - 0.4).clamp(min=0).flatten(1)
    place = torch.arange(32.0)
    x, y = place.repeat(32), place.repeat_interleave(32)
    mass = ink.sum(dim=1, keepdim=True)
    moments = torch.stack([(ink * v).sum(dim=1) for v in (x, y, x * x, y * y, x * y)], dim=1) / mass
    return torch.cat(
        (pixels.flatten(1), mass / 30, moments / torch.tensor([32.0, 32, 1024, 1024, 1024])), dim=1
    ).numpy()


def probe(train: tuple[np.ndarray, Tensor], test: tuple[np.ndarray, Tensor], alpha: float = 30.0) -> float:
    """Percent of `test` that a ridge classifier fitted to `train` gets right."""
    return 100 * RidgeClassifier(alpha=alpha).fit(train[0], train[1].numpy()).score(test[0], test[1].numpy())


@pytest.fixture(scope="module")
def motions(cache: Path) -> tuple[MovingDigitsDataset, MovingDigitsDataset]:
    options = MovingDigits(frames=4, num_train=4000, num_test=4000)
    return options.load("train", cache), options.load("test", cache)


@pytest.mark.parametrize("frame", [0, 2, 3])
def test_one_frame_does_not_tell_the_motion(motions, frame):
    train, test = (
        (frame_features(split.fetch(everything(split)).clips[:, :, frame]), split.labels()["motion"])
        for split in motions
    )
    assert probe(train, test) == pytest.approx(10, abs=3)


def test_the_whole_clip_tells_the_motion(motions):
    def change(split: MovingDigitsDataset) -> np.ndarray:
        clips = split.fetch(everything(split)).clips
        features = np.stack([frame_features(clips[:, :, frame])[:, -6:] for frame in range(4)], axis=1)
        steps = np.diff(features, axis=1)
        return np.concatenate([np.sign(steps) * np.sqrt(np.abs(steps)), np.abs(steps)], axis=1).reshape(len(clips), -1)

    train, test = ((change(split), split.labels()["motion"]) for split in motions)
    assert probe(train, test, alpha=0.1) > 40


def test_pixels_tell_the_digit(motions):
    train, test = (
        (frame_features(split.fetch(everything(split)).clips[:, :, 0]), split.labels()["digit"]) for split in motions
    )
    assert probe(train, test) > 40


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(size=4), r"data\.size must be in \[8, 512\] px, got 4"),
        (dict(frames=0), r"data\.frames must be in \[1, 256\], got 0"),
        (dict(background=1.5), r"data\.background must be in \[0, 1\], got 1\.5"),
        (
            dict(num_digits_min=3, num_digits_max=2),
            r"data\.num_digits_min must be in \[1, data\.num_digits_max\], got 3",
        ),
        (dict(digit_max=40.0), r"data\.digit_max must be in .*data\.size = 32\] px, got 40"),
        (dict(digit_min=30.0, digit_max=20.0), r"data\.digit_min must be in .*got 30"),
        (dict(num_train=0), r"data\.num_train must be in .*got 0"),
        (dict(speed=0.0), r"data\.speed must be in \(0, 2\], got 0"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        MovingDigits(**options)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="split must be one of train, test, got 'val'"):
        MovingDigits(num_train=4).load("val", tmp_path)


def test_a_pan_moves_the_scene_by_the_flow_it_tells(tmp_path):
    options = {"size": 32, "frames": 4, "num_train": 16, "background": 1.0}
    still = MovingDigits(**options).load("train", tmp_path)
    moving = MovingDigits(**options, pan=2.0).load("train", tmp_path)
    indices = torch.arange(16)
    clips, truth = moving.fetch(indices).clips.float() / 255, moving.flows(indices)
    shown = moving.masks(indices)[:, :-1] == 0
    flow = truth.flow
    assert flow.abs().amax() > 1 and not torch.equal(flow[:, :, 0][shown], torch.zeros(int(shown.sum())))
    # The next frame, looked up where each pixel goes, is this one, wherever the pixel is seen in both.
    goes_to = flow.movedim(2, -1) + torch.stack(
        torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="xy"), -1
    )
    then = clips[:, :, 1:].transpose(1, 2).flatten(0, 1)
    warped = torch.nn.functional.grid_sample(then, (goes_to / 16 - 1).flatten(0, 1), align_corners=False)
    now = clips[:, :, :-1].transpose(1, 2).flatten(0, 1)
    seen = (shown & ~truth.occluded).flatten(0, 1)
    error = (warped - now).abs().mean(1)
    unmoved = (then - now).abs().mean(1)
    # Of the middle pixel: digits mix with the photograph at their outlines, and it is looked up between pixels twice.
    assert error[seen].median() < 0.4 * unmoved[seen].median()
    assert torch.equal(moving.digits(indices), still.digits(indices))


def test_a_still_camera_leaves_every_pixel_and_its_cache_as_they_were(tmp_path):
    MovingDigits(num_train=8, frames=2, pan=0.0).load("train", tmp_path)
    folders = {path.name for path in (tmp_path / "moving_digits").iterdir()}
    MovingDigits(num_train=8, frames=2).load("train", tmp_path)
    assert {path.name for path in (tmp_path / "moving_digits").iterdir()} == folders


def test_a_pan_that_would_leave_the_photograph_is_refused():
    with pytest.raises(ValueError, match=r"data\.pan must be in \[0, data\.size / 4 / \(data\.frames - 1\) = 2\.66"):
        MovingDigits(frames=4, pan=3.0)
