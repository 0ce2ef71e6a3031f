"""Clips of videos, crops and frames: what an encoder is shown, against showing it the same by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from core.data.augment import normalise
from core.evals import FrozenFeatures
from core.evals.frozen.clips import corners, plan
from core.models.vit import VisionTransformer, ViT, patchify
from core.types import Batch, DataSpec, Sampling, generator_for

IMAGE = DataSpec(1, frames=1, height=8, width=8, classes={"kind": 2}, mean=(0.4,), std=(0.2,))
CLIP = replace(IMAGE, frames=4)


@dataclass
class Noise:
    """Random clips; the label of video v is v modulo 2."""

    spec: DataSpec
    size: int = 6  # samples
    fetched: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.size

    def labels(self) -> dict[str, Tensor]:
        return {"kind": torch.arange(self.size) // self.spec.clips_per_video % 2}

    def fetch(self, indices: Tensor) -> Batch:
        self.fetched += indices.tolist()
        shape = (self.spec.channels, self.spec.frames, self.spec.height, self.spec.width)
        clips = [torch.randint(256, shape, generator=generator_for(int(index))) for index in indices]
        return Batch(torch.stack(clips).to(torch.uint8), {name: v[indices] for name, v in self.labels().items()})


def encoder_for(spec: DataSpec, tubelet: int = 1) -> VisionTransformer:
    encoder = ViT(width=16, depth=2, heads=2, patch=4, tubelet=tubelet).build(spec, generator_for(0))
    with torch.no_grad():
        for parameter in encoder.parameters():  # away from V-JEPA's small start, so that tokens differ
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator_for(1)))
    assert isinstance(encoder, VisionTransformer)
    return encoder.eval()


def features_of(encoder, data: Noise, built_for: DataSpec, **options) -> FrozenFeatures:
    options = {"device": "cpu", "batch_size": 4} | options
    return FrozenFeatures(encoder, data, data, prepare=normalise, built_for=built_for, **options)


def by_hand(encoder, clips: Tensor, built_for: DataSpec) -> Tensor:
    with torch.no_grad():
        return encoder((clips.float() / 255 - built_for.mean[0]) / built_for.std[0])


def close(tokens: Tensor, expected: Tensor) -> bool:
    return tokens.shape == expected.shape and torch.allclose(tokens.float(), expected, atol=5e-3)  # kept as float16


def test_tokens_are_the_encoder_s_and_are_kept_once():
    encoder, data = encoder_for(CLIP, tubelet=2), Noise(CLIP)
    features = features_of(encoder, data, CLIP)
    tokens = features.tokens("test")
    assert tokens.values.dtype == torch.float16
    assert close(tokens.values[:, 0], by_hand(encoder, data.fetch(torch.arange(6)).clips, CLIP))
    assert torch.equal(tokens.labels["kind"], torch.arange(6) % 2)
    before = list(data.fetched)
    assert features.tokens("test").values is tokens.values
    pooled = features.pooled("test")  # made on the way, without encoding anything again
    assert data.fetched == before
    assert torch.equal(pooled, features_of(encoder, Noise(CLIP), CLIP).pooled("test"))


def test_no_tokens_are_kept_unless_they_are_asked_for():
    features = features_of(encoder_for(CLIP), Noise(CLIP), CLIP)
    features.pooled("train")
    assert features._tokens == {}


def test_an_image_encoder_sees_a_clip_frame_by_frame():
    encoder, data = encoder_for(IMAGE), Noise(CLIP)
    features = features_of(encoder, data, IMAGE)
    clips = data.fetch(torch.arange(6)).clips
    frames = torch.stack([by_hand(encoder, clips[:, :, t : t + 1], IMAGE) for t in range(4)], dim=1)  # [B, T, n, D]
    assert close(features.tokens("test").values[:, 0], frames.flatten(1, 2))
    assert close(features.tokens("test", Sampling(average_frames=True)).values[:, 0], frames.mean(dim=1))
    assert torch.allclose(features.pooled("test"), frames.mean(dim=(1, 2)), atol=1e-4)


def test_a_video_encoder_sees_an_image_as_a_still_clip():
    encoder, data = encoder_for(CLIP, tubelet=2), Noise(IMAGE)
    still = data.fetch(torch.arange(6)).clips.expand(-1, -1, 4, -1, -1)
    tokens = features_of(encoder, data, CLIP).tokens("test").values
    assert close(tokens[:, 0], by_hand(encoder, still, CLIP))


def test_a_deflated_video_encoder_is_an_image_encoder_with_its_patch_weights_summed_over_time():
    encoder, data = encoder_for(CLIP, tubelet=2), Noise(IMAGE)
    tokens = features_of(encoder, data, CLIP).tokens("test", Sampling(deflate=True)).values
    images = (data.fetch(torch.arange(6)).clips.float() / 255 - 0.4) / 0.2
    with torch.no_grad():
        summed = encoder.embed.weight.view(16, 1, 2, 4, 4).sum(dim=2).flatten(1)  # (channel, frame, row, column)
        patches = patchify(images, encoder.grid._replace(t=1))
        x = torch.nn.functional.linear(patches, summed, encoder.embed.bias) + encoder.positions(None, torch.float32)[:4]
        expected = encoder.norm(encoder.blocks(x))
    assert tokens.shape[2] == 4
    assert close(tokens[:, 0], expected)


def test_a_long_video_is_cut_into_clips_whose_tokens_follow_one_another():
    encoder, data = encoder_for(CLIP, tubelet=2), Noise(replace(CLIP, frames=12))
    features = features_of(encoder, data, CLIP)
    video = data.fetch(torch.arange(6)).clips
    pieces = [by_hand(encoder, video[:, :, start : start + 4], CLIP) for start in (0, 4, 8)]
    assert close(features.tokens("test").values[:, 0], torch.cat(pieces, dim=1))
    assert close(features.tokens("test", Sampling(clips=1)).values[:, 0], pieces[1])
    views = features.tokens("test", Sampling(temporal_views=3)).values
    assert all(close(views[:, view], pieces[view]) for view in range(3))
    assert torch.allclose(features.pooled("test"), torch.stack(pieces).mean(dim=(0, 2)), atol=1e-4)


def test_several_clips_of_a_video_are_its_samples_in_order():
    encoder, data = encoder_for(CLIP), Noise(replace(CLIP, clips_per_video=3))
    features = features_of(encoder, data, CLIP)
    samples = by_hand(encoder, data.fetch(torch.arange(6)).clips, CLIP)
    tokens = features.tokens("test")
    assert close(tokens.values[:, 0], samples.view(2, -1, 16))
    assert tokens.labels["kind"].tolist() == features.labels("test")["kind"].tolist() == [0, 1]
    assert close(features.tokens("test", Sampling(clips=1)).values[:, 0], samples[[1, 4]])
    assert torch.allclose(features.pooled("test"), samples.view(2, -1, 16).mean(dim=1), atol=1e-4)


def test_spatial_views_are_crops_from_one_end_to_the_other():
    encoder, data = encoder_for(CLIP), Noise(replace(CLIP, width=14))
    views = features_of(encoder, data, CLIP).tokens("test", Sampling(spatial_views=3)).values
    clips = data.fetch(torch.arange(6)).clips
    for view, left in enumerate((0, 3, 6)):
        assert close(views[:, view], by_hand(encoder, clips[..., left : left + 8], CLIP))
    assert corners(replace(CLIP, height=12, width=14), CLIP, 1) == [(2, 3)]


def test_pixels_are_normalised_as_the_encoder_is_used_to():
    encoder, other = encoder_for(CLIP), replace(CLIP, mean=(0.9,), std=(0.5,))
    tokens = features_of(encoder, Noise(other), CLIP).tokens("test").values
    assert torch.equal(tokens, features_of(encoder, Noise(CLIP), CLIP).tokens("test").values)


def test_max_train_keeps_the_same_random_videos_with_their_labels():
    encoder = encoder_for(CLIP)
    features = features_of(encoder, Noise(CLIP, size=40), CLIP)
    few = features.tokens("train", Sampling(max_train=7))
    every = features.tokens("train")
    rows = [next(i for i in range(40) if torch.equal(every.values[i], tokens)) for tokens in few.values]
    assert rows == sorted(set(rows)) and rows != list(range(7))
    assert torch.equal(few.labels["kind"], every.labels["kind"][rows])
    assert len(features.tokens("test", Sampling(max_train=7)).values) == 40


def test_tokens_that_take_too_much_memory_are_refused_with_their_size():
    features = features_of(encoder_for(CLIP), Noise(CLIP), CLIP, max_gib=1e-6)
    with pytest.raises(ValueError, match=r"6 x 1 x 16 x 16 in half precision, take 3,072 bytes, more than runtime"):
        features.tokens("test")


@pytest.mark.parametrize(
    ("data", "sampling", "message"),
    [
        (replace(CLIP, channels=3, mean=(), std=()), Sampling(), "eval_data has 3 channels, the encoder takes 1"),
        (replace(CLIP, frames=2), Sampling(), "have 2 frames, fewer than the 4"),
        (replace(CLIP, frames=8, clips_per_video=2), Sampling(), "gives 2 clips a video of 8 frames each"),
        (replace(CLIP, height=4), Sampling(), "are 4x8 px, smaller than the encoder's 8x8"),
        (CLIP, Sampling(spatial_views=3), "spatial_views 3: the data's clips are as large as the encoder's"),
        (replace(CLIP, frames=8), Sampling(clips=3), "temporal_views 1 times clips 3: the data gives 2 clips a video"),
        (replace(CLIP, frames=12), Sampling(temporal_views=2), "temporal_views must divide it"),
    ],
)
def test_what_the_data_cannot_give_is_refused(data, sampling, message):
    with pytest.raises(ValueError, match=message):
        plan(data, CLIP, sampling)
