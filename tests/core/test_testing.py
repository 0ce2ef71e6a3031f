"""What `core.testing` refuses, and that what this tree has passes."""

from dataclasses import dataclass

import pytest
import torch

from core import testing
from core.data.moving_digits import MovingDigits
from core.evals import EVALS
from core.losses import LOSSES
from core.masks import MASKS
from core.models.decoder import Decoder
from core.models.narrow import Narrow
from core.models.resnet import ResNet
from core.models.vit import ViT
from core.objectives import OBJECTIVES
from core.plugins import FrameEncoder, TokenEncoder
from core.targets import TARGETS
from core.types import Loss, Mask, Target, TargetModule, View

DIGITS = MovingDigits(num_train=48, num_test=32)
TINY_RESNET = ResNet(widths=[8, 8], depths=[1, 1], levels=2)


@pytest.mark.parametrize("name", [name for name in MASKS if name != "time"])
def test_our_masks_pass(name):
    testing.check_mask(MASKS[name])


@pytest.mark.parametrize("name", LOSSES)
def test_our_losses_pass(name):
    testing.check_loss(LOSSES[name])


@pytest.mark.parametrize("name", ["pixels", "hog", "ema"])
def test_our_targets_pass(name):
    testing.check_target(TARGETS[name])


@pytest.mark.parametrize("name", ["ridge", "knn", "collapse", "linear"])
def test_our_evaluations_pass(name):
    testing.check_evaluation(EVALS[name], DIGITS)


@pytest.mark.parametrize("name", ["masked", "supervised", "vicreg"])
def test_our_objectives_pass(name):
    testing.check_objective(OBJECTIVES[name])


def test_our_encoders_predictors_and_digits_pass():
    testing.check_encoder(ViT(width=32, depth=2, heads=2, patch=8, class_token=True))
    testing.check_encoder(TINY_RESNET)
    testing.check_predictor(Narrow(depth=1, width=16, heads=2))
    testing.check_predictor(Decoder(depth=1, width=16, heads=2))
    testing.check_dataset(DIGITS)


@dataclass
class Global(Mask):
    def sample(self, grid, batch_size, generator):
        order = torch.rand(batch_size, grid.num_patches).argsort(1)
        return [View(order[:, :4], order[:, 4:])]


@dataclass
class Overlapping(Mask):
    def sample(self, grid, batch_size, generator):
        order = torch.rand(batch_size, grid.num_patches, generator=generator).argsort(1)
        return [View(order[:, :4], order[:, 3:])]


@dataclass
class Deaf(Loss):
    def __call__(self, prediction, target, valid=None):
        return {"loss": (prediction.float() - target.float()).square().mean()}


@dataclass
class Half(Loss):
    def __call__(self, prediction, target, valid=None):
        each = (prediction - target).square().mean(-1)
        return {"loss": each.mean() if valid is None else each[valid].mean()}


@dataclass
class Gradient(Target):
    def build(self, encoder, spec):
        return Features(encoder)


class Features(TargetModule):
    def __init__(self, encoder):
        super().__init__()
        self.read, self.out_dim = encoder, encoder.width

    def forward(self, clips, views):
        return [self.read(clips).gather(1, v.target[..., None].expand(-1, -1, self.out_dim)) for v in views]


@pytest.mark.parametrize(
    ("check", "component", "message"),
    [
        (testing.check_mask, Global, "draws from torch's global generator"),
        (testing.check_mask, Overlapping, "a patch is both context and target"),
        (testing.check_loss, Deaf, "places that are not valid count"),
        (testing.check_loss, Half, "under bfloat16 autocast it is torch.bfloat16"),
        (testing.check_target, Gradient, "has a gradient: the model would move its target"),
    ],
)
def test_what_breaks_the_contract_is_told(check, component, message):
    with pytest.raises(AssertionError, match=message):
        check(component)


@dataclass
class Convolution(FrameEncoder):
    width: int = 6
    dropout: float = 0.0

    def token_width(self):
        return self.width

    def stride(self):
        return 8

    def network(self, spec):
        return torch.nn.Sequential(torch.nn.Conv2d(spec.channels, 6, 8, 8), torch.nn.Dropout(self.dropout))


@dataclass
class Parts(TokenEncoder):
    def token_width(self):
        return 8

    def stride(self):
        return 8

    def network(self, spec):
        network = torch.nn.Module()
        network.patch = torch.nn.Conv2d(spec.channels, 8, 8, 8)
        network.blocks = torch.nn.ModuleList([torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)])
        network.norm = torch.nn.LayerNorm(8)
        return network

    def embed(self, network, frames):
        return network.patch(frames).flatten(2).mT


def test_wrapped_modules_pass():
    testing.check_encoder(Convolution)
    testing.check_encoder(Parts)


def test_a_wrapped_network_that_is_not_what_its_options_say_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"network gives \[2, 6, 4, 4\] .* say a map \[2, 7, 4, 4\]"):
        testing.check_encoder(Convolution(width=7))


def test_a_wrapped_network_that_draws_in_training_is_refused():
    with pytest.raises(ValueError, match=r"has Dropout\(0.5\) at 1, which draws from the global generator"):
        testing.check_encoder(Convolution(dropout=0.5))


def test_a_wrapped_transformer_takes_images_only():
    with pytest.raises(ValueError, match="takes images, and the data gives clips of 4 frames"):
        testing.check_encoder(Parts, testing.IMAGES.__class__(3, 4, 32, 32))
