"""A masked autoencoder of ours against transformers' VideoMAE with the same weights.

They differ in three things, which are set alike here: VideoMAE's positions are a wave over the number of the token, it
has no bias between encoder and decoder, and transformers' last norm has torch's default eps. A bias of the keys, which
VideoMAE does not have, is left in ours: it adds the same to every key's score, and a softmax does not see it.
"""

import pytest
import torch
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD
from core.losses import MSE
from core.masks.space import SpaceMask
from core.models import Decoder, ViT
from core.models.positions import sincos
from core.objectives.masked import MaskedLearner, MaskedPrediction
from core.targets.pixels import PixelNorm, PixelTarget
from core.types import DataSpec, Parts, View, generator_for
from tests.core.models.test_vit import shake

CLIP = DataSpec(channels=3, frames=4, height=16, width=16, mean=IMAGENET_MEAN, std=IMAGENET_STD)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def ours() -> MaskedLearner:
    parts = Parts(
        ViT(width=24, depth=2, heads=2, patch=4, tubelet=2),
        SpaceMask(ratio=0.75),
        PixelTarget(norm=PixelNorm.cube_channel),
        Decoder(width=12, depth=2, heads=2),
        MSE(),
    )
    learner = MaskedPrediction().build(parts, CLIP, 0)
    assert isinstance(learner, MaskedLearner)
    shake(learner)
    with torch.no_grad():
        learner.predictor.embed.bias.zero_()
    return learner


@pytest.fixture
def theirs(ours) -> VideoMAEForPreTraining:
    config = VideoMAEConfig(
        image_size=16,
        patch_size=4,
        num_frames=4,
        tubelet_size=2,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        layer_norm_eps=1e-6,
        use_mean_pooling=False,  # with it, the encoder has no last norm
        decoder_hidden_size=12,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=48,
        norm_pix_loss=True,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws its weights from the global generator
        model = VideoMAEForPreTraining(config).eval()
    copy_weights(ours, model)
    return model


@torch.no_grad()
def copy_weights(ours: MaskedLearner, model: VideoMAEForPreTraining) -> None:
    encoder, decoder = ours.encoder, ours.predictor
    convolution = model.videomae.embeddings.patch_embeddings.projection
    convolution.weight.copy_(encoder.embed.weight.view_as(convolution.weight))
    convolution.bias.copy_(encoder.embed.bias)
    model.encoder_to_decoder.weight.copy_(decoder.embed.weight)
    model.mask_token.copy_(decoder.mask_token.view_as(model.mask_token))
    model.videomae.embeddings.position_embeddings = sincos(encoder.grid, 24)[None]
    model.position_embeddings = sincos(encoder.grid, 12)[None]
    model.decoder.norm.eps = 1e-6
    pairs = [(encoder.norm, model.videomae.layernorm), (decoder.norm, model.decoder.norm)]
    pairs += [(decoder.head, model.decoder.head)]
    blocks = [*encoder.blocks, *decoder.blocks]
    for block, layer in zip(blocks, [*model.videomae.encoder.layer, *model.decoder.decoder_layers], strict=True):
        pairs += copied_block(block, layer)
    for source, copy in pairs:
        copy.load_state_dict(source.state_dict())


def copied_block(block: nn.Module, layer: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Copies queries, keys and values; the parts that remain, ours and theirs."""
    attention = layer.attention.attention
    parts = (attention.query, attention.key, attention.value)
    for part, weight, bias in zip(parts, block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True):
        part.weight.copy_(weight)
        if part.bias is not None:
            part.bias.copy_(bias)
    return [
        (block.attn.proj, layer.attention.output.dense), (block.norm1, layer.layernorm_before),
        (block.norm2, layer.layernorm_after), (block.mlp.fc1, layer.intermediate.dense),
        (block.mlp.fc2, layer.output.dense),
    ]  # fmt: skip


def clips() -> Tensor:
    return torch.randn(3, 3, 4, 16, 16, generator=generator_for(0, "clips"))


def tubes(ours: MaskedLearner) -> tuple[View, Tensor]:
    """VideoMAE's masks as ours and as flags of the hidden patches."""
    (view,) = SpaceMask(ratio=0.75).sample(ours.encoder.grid, 3, generator_for(0, "mask"))
    return view, torch.zeros(3, ours.encoder.grid.num_patches, dtype=torch.bool).scatter_(1, view.target, True)


def test_the_encoded_context_equals_videomae_s(ours, theirs):
    view, hidden = tubes(ours)
    with torch.no_grad():
        expected = theirs.videomae(clips().transpose(1, 2), bool_masked_pos=hidden).last_hidden_state
        torch.testing.assert_close(ours.encoder(clips(), view.context), expected, **CLOSE)


def test_predictions_loss_and_gradients_equal_videomae_s(ours, theirs):
    view, hidden = tubes(ours)
    expected = theirs(clips().transpose(1, 2), bool_masked_pos=hidden)
    torch.testing.assert_close(ours.predictor(ours.encoder(clips(), view.context), view), expected.logits, **CLOSE)
    loss = ours(clips(), {}, [view])["loss"]
    torch.testing.assert_close(loss, expected.loss, **CLOSE)
    loss.backward()
    expected.loss.backward()
    gradient = theirs.videomae.embeddings.patch_embeddings.projection.weight.grad.view_as(ours.encoder.embed.weight)
    torch.testing.assert_close(ours.encoder.embed.weight.grad, gradient, **CLOSE)
