from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from core.data.augment import normalise
from core.evals import EVALS, FrozenFeatures
from core.running.judging import changed
from core.types import Batch, DataSpec, EncoderModule, Grid, Look, Optimizer, generator_for

SPEC = DataSpec(1, frames=1, height=8, width=8, classes={"column": 4}, mean=(0.45,), std=(0.225,))


@dataclass
class Stripes:
    """Stripes whose label is the bright column of each patch, counting what is fetched."""

    size: int
    spec: DataSpec = field(default_factory=lambda: SPEC)
    fetched: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.size

    def labels(self) -> dict[str, Tensor]:
        return {"column": torch.arange(self.size) % 4}

    def fetch(self, indices: Tensor) -> Batch:
        self.fetched += indices.tolist()
        noise = torch.stack([torch.randint(20, (1, 1, 8, 8), generator=generator_for(int(i))) for i in indices])
        is_bright = torch.arange(8) % 4 == (indices % 4)[:, None, None, None, None]  # [B, 1, 1, 1, W]
        return Batch((100 * is_bright + noise).to(torch.uint8), {"column": indices % 4})


class TinyEncoder(EncoderModule):
    """One class token and four 4x4 patches, two linear blocks, dropout that must be off."""

    def __init__(self) -> None:
        super().__init__()
        self.grid, self.width, self.num_prefix = Grid(1, 2, 2), 6, 1
        self.embed = nn.Linear(16, 6)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.drop = nn.Dropout(0.5)
        generator = generator_for(0, "tiny")
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def all_tokens(self, clips: Tensor) -> list[Tensor]:
        patches = clips.unfold(3, 4, 4).unfold(4, 4, 4).reshape(len(clips), 4, 16)
        tokens = self.embed(patches)
        x = torch.cat([torch.full_like(tokens[:, :1], 1000.0), tokens], dim=1)  # the class token would show
        layers = []
        for block in self.blocks:
            x = x + self.drop(block(x))
            layers.append(x)
        return layers

    def forward(self, clips, keep=None, valid=None, hidden=None):
        return self.all_tokens(clips)[-1]

    def intermediate(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        assert keep is None
        return [tokens[:, self.num_prefix :] for tokens in self.all_tokens(clips)[-num_layers:]]


def frozen(encoder=None, *, train=24, test=10, **options) -> FrozenFeatures:
    options = {"device": "cpu", "batch_size": 8} | options
    return FrozenFeatures(encoder or TinyEncoder(), Stripes(train), Stripes(test), prepare=normalise, **options)


def test_pooled_equals_encoding_every_sample_by_itself():
    encoder = TinyEncoder().eval()
    pooled = frozen(encoder).pooled("test", num_layers=2)
    for index in range(10):
        clip = Stripes(10).fetch(torch.tensor([index])).clips
        layers = encoder.all_tokens((clip.float() / 255 - 0.45) / 0.225)
        expected = torch.cat([tokens[0, 1:].mean(dim=0) for tokens in layers])
        assert torch.allclose(pooled[index], expected, atol=1e-5)
    assert pooled.dtype == torch.float32 and pooled.shape == (10, 12)


def test_one_layer_is_the_last_one():
    features = frozen()
    assert torch.equal(features.pooled("test"), features.pooled("test", num_layers=2)[:, 6:])


def test_a_split_is_encoded_once_for_each_number_of_layers():
    train, test = Stripes(24), Stripes(10)
    features = FrozenFeatures(TinyEncoder(), train, test, prepare=normalise, device="cpu", batch_size=8)
    assert (train.fetched, test.fetched) == ([], [])
    for _ in range(3):
        features.pooled("train")
    assert (train.fetched, test.fetched) == (list(range(24)), [])
    features.pooled("train", num_layers=2)
    assert train.fetched == list(range(24)) * 2


def test_fewer_layers_are_read_from_more_without_encoding_again():
    features = frozen()
    two = features.pooled("train", num_layers=2)
    assert torch.equal(features.pooled("train"), two[:, 6:]) and features.used.clips == 24
    assert torch.equal(features.pooled("train"), frozen().pooled("train"))


def test_the_batch_size_does_not_matter():
    assert torch.allclose(frozen(batch_size=8).pooled("train"), frozen(batch_size=5).pooled("train"), atol=1e-6)


def test_autocast_changes_the_arithmetic_but_not_the_type():
    full, half = frozen().pooled("test"), frozen(autocast_dtype=torch.bfloat16).pooled("test")
    assert half.dtype == torch.float32
    assert torch.allclose(full, half, rtol=0.05, atol=0.05)
    assert not torch.equal(full, half)


def test_modes_of_the_encoder_are_put_back():
    encoder = TinyEncoder().train()
    encoder.blocks[0].eval()
    frozen(encoder).pooled("train")
    assert encoder.training and encoder.drop.training and not encoder.blocks[0].training


def test_a_probe_may_use_the_features_under_autograd():
    head = nn.Linear(6, 4)
    head(frozen().pooled("train")).sum().backward()
    assert head.weight.grad is not None


def test_max_train_takes_a_subset_with_its_labels():
    train = Stripes(40)
    features = FrozenFeatures(
        TinyEncoder(), train, Stripes(10), prepare=normalise, device="cpu", batch_size=8, max_train=12
    )
    pooled = features.pooled("train")
    assert len(pooled) == len(set(train.fetched)) == 12
    assert train.fetched != list(range(12))
    # Other batches round otherwise.
    torch.testing.assert_close(pooled, frozen(train=40).pooled("train")[train.fetched])
    assert torch.equal(features.labels("train")["column"], torch.tensor(train.fetched) % 4)
    assert len(features.pooled("test")) == 10


def test_max_train_beyond_the_split_takes_all_of_it():
    assert torch.equal(frozen(max_train=500).pooled("train"), frozen().pooled("train"))


@pytest.mark.parametrize("options", [{"max_train": 0}, {"batch_size": 0}])
def test_sizes_below_one_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        frozen(**options)


def test_features_that_are_not_finite_stop_the_evaluation():
    encoder = TinyEncoder()
    with torch.no_grad():
        encoder.embed.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="features of the train split are not finite"):
        frozen(encoder).pooled("train")


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_look_with_flips_is_each_sample_as_it_is_or_mirrored(num_layers):
    class Mirrored(Stripes):
        def fetch(self, indices: Tensor) -> Batch:
            batch = super().fetch(indices)
            return batch._replace(clips=batch.clips.flip(-1))

    features = frozen(change=changed)
    plain = features.pooled("train", num_layers)
    mirrored = FrozenFeatures(
        TinyEncoder(), Mirrored(24), Stripes(10), prepare=normalise, device="cpu", batch_size=8
    ).pooled("train", num_layers)
    looks = [features.augmented(Look(number, flip=True), num_layers) for number in range(2)]
    for look in looks:
        as_it_is, flipped = (torch.isclose(look, other, atol=1e-5).all(dim=1) for other in (plain, mirrored))
        assert (as_it_is | flipped).all() and as_it_is.any() and flipped.any()
    assert not torch.equal(looks[0], looks[1])
    assert torch.equal(features.augmented(Look(0), num_layers), plain)


def test_a_look_does_not_depend_on_how_many_samples_are_encoded_at_once():
    looks = [frozen(change=changed, batch_size=size).augmented(Look(0, 0.3, True)) for size in (8, 24)]
    assert torch.allclose(looks[0], looks[1], atol=1e-5)


def test_normalise_is_per_channel():
    spec = DataSpec(3, 1, 2, 2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    clips = torch.randint(256, (2, 3, 1, 2, 2), generator=generator_for(0)).to(torch.uint8)
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        expected = (clips[:, channel].float() / 255 - mean) / std
        assert torch.allclose(normalise(clips, spec)[:, channel], expected, atol=1e-5)


def test_a_mean_for_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="one value for each of its 1 channels"):
        DataSpec(1, 1, 8, 8, mean=(0.45, 0.45, 0.45), std=(0.2, 0.2, 0.2))


@pytest.mark.parametrize("name", ["attentive", "knn", "linear", "low_shot", "ridge", "vissl"])
def test_stripes_are_read_from_a_tiny_encoder(name):
    features = frozen(train=80, test=40, autocast_dtype=torch.bfloat16)
    options = {
        "attentive": {"heads": 2, "lrs": [0.03], "batch_size": 16},
        "vissl": {"layers": [1, 2], "optimizer": Optimizer.sgd, "lrs": [0.3], "batch_size": 16},
    }
    assert EVALS[name](**options.get(name, {})).run(features, seed=0)[f"{name}/column_top1"] > 90


class Narrow(TinyEncoder):
    """Has memory for so many clips at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.sizes = room, []

    def intermediate(self, clips, num_layers, keep=None):
        self.sizes.append(len(clips))
        if len(clips) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().intermediate(clips, num_layers, keep)


def test_a_batch_that_memory_has_no_room_for_is_encoded_in_smaller_parts_from_then_on():
    encoder = Narrow(room=3)
    features = frozen(encoder, train=20, test=4, batch_size=8)
    torch.testing.assert_close(features.pooled("train"), frozen(train=20, test=4).pooled("train"))
    assert encoder.sizes == [8, 4, *[2] * 10]


def test_a_single_clip_that_memory_has_no_room_for_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        frozen(Narrow(room=0), train=4, test=4, batch_size=4).pooled("train")
