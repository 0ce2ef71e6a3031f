"""What is known of every pixel of moving digits: its class, whose it is, and whether it is seen in the next frame."""

import pytest
import torch

from core.data.moving_digits import MovingDigits, MovingDigitsDataset

SOME = torch.arange(80)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> MovingDigitsDataset:
    """Digits large enough for their cells to hide each other."""
    data = MovingDigits(
        size=48, frames=4, num_train=100, num_digits_min=2, num_digits_max=4, digit_min=20, digit_max=40
    )
    return data.load("train", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> MovingDigitsDataset:
    return MovingDigits(frames=6, num_train=100).load("train", tmp_path_factory.mktemp("cache"))


def test_a_pixel_has_the_class_of_its_digit_or_0(crowd):
    segments, masks, digits = crowd.segments(SOME), crowd.masks(SOME), crowd.digits(SOME)
    assert segments.dtype == torch.int64 and segments.shape == (80, 4, 48, 48)
    assert crowd.spec.segment_classes == 11 and set(segments.unique().tolist()) == set(range(11))
    assert torch.equal(segments == 0, masks == 0)
    for clip in range(20):
        for number in range(4):
            assert (segments[clip][masks[clip] == number + 1] == digits[clip, number] + 1).all()


def test_images_have_classes_and_no_motion():
    spec = MovingDigits(frames=1).spec()
    assert spec.segment_classes == 11 and not spec.has_flow and not spec.has_objects


def test_a_sequence_is_a_clip_with_its_masks(crowd):
    assert crowd.spec.has_objects
    video = crowd.sequence(7)
    assert torch.equal(video.frames, crowd.fetch(torch.tensor([7])).clips[0])
    assert torch.equal(video.objects, crowd.masks(torch.tensor([7]))[0])


def test_the_flow_of_flows_is_known_everywhere(crowd):
    truth = crowd.flows(SOME)
    assert crowd.spec.has_flow and truth.valid.all()
    assert torch.equal(truth.flow, crowd.flow(SOME))
    assert truth.occluded.shape == truth.valid.shape == (80, 3, 48, 48)


def test_the_photograph_is_occluded_where_a_digit_comes(crowd):
    masks, occluded = crowd.masks(SOME), crowd.flows(SOME).occluded
    photo = masks[:, :-1] == 0
    assert torch.equal(occluded & photo, photo & (masks[:, 1:] > 0))


def test_the_nearest_digit_is_never_occluded_inside_the_frame(crowd):
    masks, truth = crowd.masks(SOME), crowd.flows(SOME)
    place = torch.stack(torch.meshgrid(torch.arange(48) + 0.5, torch.arange(48) + 0.5, indexing="xy"))
    goes_to = place + truth.flow
    inside = ((goes_to >= 0) & (goes_to <= 48)).all(2)
    nearest = masks[:, :-1] == 1
    assert torch.equal(truth.occluded & nearest, ~inside & nearest)
    assert (~inside & nearest).any()


def test_a_farther_digit_is_occluded_where_a_nearer_one_is_in_the_next_frame(crowd):
    masks, truth = crowd.masks(SOME), crowd.flows(SOME)
    clip, time, y, x = (masks[:, :-1] > 1).nonzero(as_tuple=True)
    flow = truth.flow[clip, time, :, y, x]
    # A pixel that moves by no fraction lands on one whose own cover says who is there; others land between pixels.
    landing = torch.stack([x, y], dim=1) + flow
    column, row = landing.round().long().unbind(1)
    inside = (column >= 0) & (column < 48) & (row >= 0) & (row < 48)
    owner = masks[clip, time, y, x][inside]
    there = masks[clip, time + 1, row.clamp(0, 47), column.clamp(0, 47)][inside]
    hidden = (there > 0) & (there < owner)
    agreed = (truth.occluded[clip, time, y, x][inside] == hidden).float().mean()
    assert hidden.any() and agreed > 0.97


def test_one_digit_that_stands_still_occludes_nothing(single):
    still = (single.labels()["motion"] == 9).nonzero().squeeze(1)
    assert len(still) and not single.flows(still).occluded.any()
