"""Encoder and predictor against transformers' V-JEPA 2 with the same weights, where the two versions coincide.

V-JEPA 2 rotates queries and keys by position where V-JEPA adds a table to the tokens. Told that every token lies at
position 0 it rotates nothing, and its blocks are V-JEPA's.
"""

import pytest
import torch
from torch import Tensor, nn
from transformers import VJEPA2Config, VJEPA2Model

from core.models import ViT
from core.models.narrow import Narrow, NarrowPredictor
from core.models.vit import VisionTransformer, patchify
from core.types import DataSpec, View, generator_for
from tests.core.models.test_vit import shake

CLIP = DataSpec(channels=3, frames=4, height=16, width=16)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def encoder() -> VisionTransformer:
    built = ViT(width=24, depth=2, heads=2, patch=4, tubelet=2).build(CLIP, generator_for(0, "encoder"))
    assert isinstance(built, VisionTransformer)
    shake(built)
    return built


@pytest.fixture
def theirs() -> VJEPA2Model:
    config = VJEPA2Config(
        patch_size=4,
        crop_size=16,
        frames_per_clip=4,
        tubelet_size=2,
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        mlp_ratio=4.0,
        pred_hidden_size=12,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=2,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws its weights from the global generator
        return VJEPA2Model(config).eval()


@torch.no_grad()
def copy_block(ours: nn.Module, layer: nn.Module) -> None:
    query, key, value = (layer.attention.query, layer.attention.key, layer.attention.value)
    for part, weight, bias in zip(
        (query, key, value), ours.attn.qkv.weight.chunk(3), ours.attn.qkv.bias.chunk(3), strict=True
    ):
        part.weight.copy_(weight)
        part.bias.copy_(bias)
    pairs = [
        (ours.attn.proj, layer.attention.proj), (ours.norm1, layer.norm1), (ours.norm2, layer.norm2),
        (ours.mlp.fc1, layer.mlp.fc1), (ours.mlp.fc2, layer.mlp.fc2),
    ]  # fmt: skip
    for source, copy in pairs:
        copy.load_state_dict(source.state_dict())


def through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    nowhere = torch.zeros(x.shape[:2], dtype=torch.long)  # position 0: no rotation
    for layer in layers:
        x = layer(x, position_mask=nowhere)[0]
    return x


def clips() -> Tensor:
    return torch.randn(2, 3, 4, 16, 16, generator=generator_for(0, "clips"))


def split() -> tuple[Tensor, Tensor]:
    order = torch.rand(2, 32, generator=generator_for(0, "split")).argsort(1)
    return order[:, :9], order[:, 9:25]


def gather(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def embedded(theirs: VJEPA2Model, encoder: VisionTransformer) -> Tensor:
    """Every tubelet through their convolution, with our weights: [B, N, D]."""
    convolution = theirs.encoder.embeddings.patch_embeddings.proj
    with torch.no_grad():
        convolution.weight.copy_(encoder.embed.weight.view_as(convolution.weight))
        convolution.bias.copy_(encoder.embed.bias)
        return theirs.encoder.embeddings(clips().transpose(1, 2))


def test_embedding_the_kept_tubelets_alone_equals_v_jepa_2_s_convolution_of_the_clip(encoder, theirs):
    keep, _ = split()
    with torch.no_grad():
        ours = encoder.embed(patchify(clips(), encoder.grid, keep))
    torch.testing.assert_close(ours, gather(embedded(theirs, encoder), keep), **CLOSE)


def test_an_encoded_context_equals_v_jepa_2_s_layers(encoder, theirs):
    keep, _ = split()
    for ours, layer in zip(encoder.blocks, theirs.encoder.layer, strict=True):
        copy_block(ours, layer)
    theirs.encoder.layernorm.load_state_dict(encoder.norm.state_dict())
    everything = embedded(theirs, encoder) + encoder.positions(None, torch.float32)
    with torch.no_grad():
        expected = theirs.encoder.layernorm(through(theirs.encoder.layer, gather(everything, keep)))
        torch.testing.assert_close(encoder(clips(), keep), expected, **CLOSE)


def test_a_prediction_equals_v_jepa_2_s_predictor_layers_on_context_and_mask_tokens(encoder, theirs):
    predictor = Narrow(depth=2, width=12, heads=2).build(encoder, 24, 1, generator_for(0, "predictor"))
    assert isinstance(predictor, NarrowPredictor)
    shake(predictor)
    for ours, layer in zip(predictor.blocks, theirs.predictor.layer, strict=True):
        copy_block(ours, layer)
    pairs = [
        (predictor.norm, theirs.predictor.layernorm),
        (predictor.head, theirs.predictor.proj),
        (predictor.embed, theirs.predictor.embeddings.predictor_embeddings),
    ]
    for source, copy in pairs:
        copy.load_state_dict(source.state_dict())
    context, target = split()
    tokens = torch.randn(2, 9, 24, generator=generator_for(0, "tokens"))
    with torch.no_grad():
        seen = theirs.predictor.embeddings.predictor_embeddings(tokens) + predictor.positions(context, torch.float32)
        blank = predictor.mask_token[0] + predictor.positions(target, torch.float32)
        x = through(theirs.predictor.layer, torch.cat([seen, blank], dim=1))[:, 9:]
        expected = theirs.predictor.proj(theirs.predictor.layernorm(x))
        torch.testing.assert_close(predictor(tokens, View(context, target)), expected, **CLOSE)
