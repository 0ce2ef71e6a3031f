import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop

from core.data.augment import Augment, _crop_boxes, augment, normalise
from core.types import DataSpec

WHOLE = dict(scale_min=1.0, aspect_min=1.0, aspect_max=1.0)


def raw(height: int, width: int) -> DataSpec:
    """A spec that leaves pixels in [0, 1] as they are."""
    return DataSpec(3, 1, height, width, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(9))


@pytest.mark.parametrize("size", [(20, 24), (48, 40), (64, 64)])
def test_a_crop_equals_torchvisions_resized_crop(size):
    clips, options = noise(6, 3, 2, 48, 40), Augment()
    ours = augment(clips, options, raw(*size), generator=seeded())
    boxes = _crop_boxes(options, 48, 40, torch.rand(6, 27, generator=seeded()))
    for sample, box in enumerate(torch.stack(boxes, dim=1).int().tolist()):
        theirs = resized_crop(clips[sample].transpose(0, 1).float(), *box, size=list(size), antialias=True) / 255
        assert torch.allclose(ours[sample].transpose(0, 1), theirs, atol=2e-5)


def test_crops_are_distributed_as_torchvisions_are():
    options = Augment(scale_min=0.2)
    ours = torch.stack(_crop_boxes(options, 40, 30, torch.rand(4000, 27, generator=seeded())), dim=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampler, image = RandomResizedCrop(1, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)), torch.zeros(3, 40, 30)
        drawn = [sampler.make_params([image]) for _ in range(2000)]
    theirs = torch.tensor([[box[key] for key in ("top", "left", "height", "width")] for box in drawn]).float()
    assert torch.allclose(ours.mean(dim=0), theirs.mean(dim=0), atol=0.6)
    assert torch.allclose(ours.std(dim=0), theirs.std(dim=0), atol=0.6)


def test_a_crop_lies_within_the_clip_and_has_an_allowed_area():
    top, left, height, width = _crop_boxes(Augment(scale_max=0.8), 40, 30, torch.rand(2000, 27, generator=seeded()))
    assert top.min() >= 0 and left.min() >= 0
    assert (top + height).max() <= 40 and (left + width).max() <= 30
    area = height * width / (40 * 30)
    assert area.min() > 0.3 - 0.04 and area.max() < 0.8 + 0.04


def test_center_crop_keeps_crops_in_the_middle():
    options = Augment(center_crop=0.5)
    top, left, height, width = _crop_boxes(options, 40, 40, torch.rand(500, 27, generator=seeded()))
    assert top.min() >= 10 and left.min() >= 10 and (top + height).max() <= 30 and (left + width).max() <= 30


def test_without_crop_and_flip_pixels_are_only_normalised():
    clips = noise(4, 3, 1, 16, 16)
    spec = DataSpec(3, 1, 16, 16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    expected = (clips / 255 - torch.tensor(spec.mean).view(3, 1, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1, 1)
    assert torch.allclose(augment(clips, Augment(**WHOLE), spec, generator=seeded()), expected, atol=1e-5)
    assert torch.allclose(normalise(clips, spec), expected, atol=1e-5)


def test_normalise_resizes_what_is_stored_larger():
    assert normalise(noise(2, 3, 1, 24, 24), raw(16, 16)).shape == (2, 3, 1, 16, 16)
    assert torch.allclose(
        normalise(torch.full((1, 3, 1, 24, 24), 51, dtype=torch.uint8), raw(16, 16)), torch.tensor(0.2)
    )


def test_every_frame_of_a_clip_is_changed_alike():
    clips = noise(5, 3, 1, 16, 16).repeat(1, 1, 4, 1, 1)
    changed = augment(clips, Augment(flip=True, color=1), raw(16, 16), generator=seeded())
    assert all(torch.allclose(changed[:, :, 0], changed[:, :, frame], atol=1e-6) for frame in range(1, 4))


@pytest.mark.parametrize("crop", [WHOLE, dict(scale_min=0.5)])
def test_about_half_of_the_clips_are_mirrored(crop):
    clips = noise(400, 3, 1, 8, 8)
    plain = augment(clips, Augment(**crop), raw(8, 8), generator=seeded())
    flipped = augment(clips, Augment(**crop, flip=True), raw(8, 8), generator=seeded())
    same = (plain - flipped).abs().amax(dim=(1, 2, 3, 4)) < 1e-5
    mirrored = (plain.flip(-1) - flipped).abs().amax(dim=(1, 2, 3, 4)) < 1e-5
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("options", [Augment(), Augment(flip=True, color=0.5), Augment(**WHOLE, flip=True)])
def test_parts_of_a_batch_are_changed_as_the_whole_batch_is(options):
    clips = noise(6, 3, 1, 12, 12)
    whole = augment(clips, options, raw(12, 12), generator=seeded())
    parts = [
        augment(clips[3 * rank : 3 * rank + 3], options, raw(12, 12), generator=seeded(), rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


def test_colour_moves_brightness_and_keeps_pixels_in_range():
    clips = noise(64, 3, 1, 8, 8)
    plain = augment(clips, Augment(**WHOLE), raw(8, 8), generator=seeded())
    coloured = augment(clips, Augment(**WHOLE, color=1), raw(8, 8), generator=seeded())
    assert coloured.min() >= 0 and coloured.max() <= 1
    ratio = coloured.mean(dim=(1, 2, 3, 4)) / plain.mean(dim=(1, 2, 3, 4))
    assert ratio.min() < 0.8 and ratio.max() > 1.15


def test_hue_and_saturation_leave_grey_grey():
    grey = noise(16, 1, 1, 8, 8).expand(-1, 3, -1, -1, -1)
    coloured = augment(grey, Augment(**WHOLE, color=1), raw(8, 8), generator=seeded())
    assert torch.allclose(coloured[:, 0], coloured[:, 1], atol=0.01) and torch.allclose(
        coloured[:, 0], coloured[:, 2], atol=0.01
    )


def test_the_clips_given_are_not_changed():
    clips = noise(4, 3, 1, 12, 12)
    before = clips.clone()
    for options in (Augment(), Augment(**WHOLE), Augment(flip=True, color=1)):
        augment(clips, options, raw(12, 12), generator=seeded())
    assert (clips == before).all()


def test_the_global_generator_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    augment(noise(4, 3, 1, 12, 12), Augment(flip=True, color=1), raw(12, 12), generator=seeded())
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(scale_min=0.0), r"augment\.scale_min must be in \(0, augment\.scale_max = 1\], got 0"),
        (dict(scale_min=0.9, scale_max=0.5), r"augment\.scale_min must be in .*0\.5\], got 0\.9"),
        (dict(scale_max=1.2), r"augment\.scale_max must be in \(0, 1\], got 1\.2"),
        (dict(aspect_min=2.0), r"augment\.aspect_min must be in .*got 2"),
        (dict(color=-1.0), r"augment\.color must be in \[0, 2\], got -1"),
        (dict(center_crop=0.0), r"augment\.center_crop must be in \(0, 1\], got 0"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)
