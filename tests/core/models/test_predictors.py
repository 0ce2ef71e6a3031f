"""The predictors against transformers, and what they promise."""

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from core.losses import MSE
from core.models import PREDICTORS, Decoder, Narrow, ViT
from core.models.blocks import Init
from core.models.positions import Position, sincos
from core.targets import PixelTarget
from core.types import DataSpec, View, generator_for
from tests.core.models.test_vit import clips_of, shake

IMAGE = DataSpec(channels=3, frames=1, height=16, width=16)
CLIP = DataSpec(channels=3, frames=4, height=16, width=16)
TINY = {"narrow": Narrow(depth=2, width=16, heads=2), "decoder": Decoder(depth=2, width=16, heads=2)}


def encoder_of(spec=IMAGE, **options):
    encoder = ViT(width=24, depth=2, heads=2, patch=4, **options).build(spec, generator_for(0, "init"))
    shake(encoder)
    return encoder


def build(predictor, encoder, kinds=1, out_dim=10):
    module = predictor.build(encoder, out_dim, kinds, generator_for(0, "predictor"))
    shake(module)
    return module


def split(grid, num_context, num_target, batch=2, seed=0):
    order = torch.rand(batch, grid.num_patches, generator=generator_for(seed, "mask")).argsort(1)
    return View(order[:, :num_context], order[:, num_context : num_context + num_target])


def copy_layers(ours, theirs):
    for block, layer in zip(ours, theirs, strict=True):
        parts = (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj)
        for part, weight, bias in zip(parts, block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True):
            part.weight.data.copy_(weight)
            part.bias.data.copy_(bias)
        layer.attention.o_proj.load_state_dict(block.attn.proj.state_dict())
        layer.mlp.fc1.load_state_dict(block.mlp.fc1.state_dict())
        layer.mlp.fc2.load_state_dict(block.mlp.fc2.state_dict())
        layer.layernorm_before.load_state_dict(block.norm1.state_dict())
        layer.layernorm_after.load_state_dict(block.norm2.state_dict())


def test_the_mae_loss_equals_transformers():
    encoder = encoder_of(class_token=True)
    target = PixelTarget().build(encoder, IMAGE)
    predictor = build(Decoder(depth=2, width=16, heads=2), encoder, out_dim=target.out_dim)
    config = ViTMAEConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=16,
        patch_size=4,
        layer_norm_eps=1e-6,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        mask_ratio=0.75,
        norm_pix_loss=True,
    )
    with torch.random.fork_rng():
        theirs = ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        embeddings, decoder = theirs.vit.embeddings, theirs.decoder
        projection = embeddings.patch_embeddings.projection
        projection.weight.copy_(encoder.embed.weight.view(projection.weight.shape))
        projection.bias.copy_(encoder.embed.bias)
        embeddings.cls_token.copy_(encoder.class_token[None])
        copy_layers(encoder.blocks, theirs.vit.layers)
        theirs.vit.layernorm.load_state_dict(encoder.norm.state_dict())
        decoder.decoder_embed.load_state_dict(predictor.embed.state_dict())
        decoder.mask_token.copy_(predictor.mask_token[None, None])
        # transformers leaves both at zero when it builds from a config; a checkpoint brings the sin-cos ones.
        embeddings.position_embeddings[:, 1:] = sincos(encoder.grid, 24)
        decoder.decoder_pos_embed[:, 1:] = sincos(encoder.grid, 16)
        copy_layers(predictor.blocks, decoder.decoder_layers)
        decoder.decoder_norm.load_state_dict(predictor.norm.state_dict())
        decoder.decoder_pred.load_state_dict(predictor.head.state_dict())

    clips, noise = clips_of(IMAGE), torch.rand(2, 16, generator=generator_for(0, "noise"))
    order = noise.argsort(1)
    view = View(order[:, :4], order[:, 4:])
    ours = MSE()(predictor(encoder(clips, view.context), view), target(clips, [view])[0])["loss"]
    expected = theirs(clips[:, :, 0], noise=noise)
    torch.testing.assert_close(ours, expected.loss, atol=1e-5, rtol=1e-5)
    predictions = expected.logits.gather(1, view.target[..., None].expand(-1, -1, 48))
    torch.testing.assert_close(predictor(encoder(clips, view.context), view), predictions, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PREDICTORS)
def test_predictions_are_at_the_targets_in_their_order(name):
    encoder = encoder_of()
    predictor = build(TINY[name], encoder)
    view, clips = split(encoder.grid, 6, 10), clips_of(IMAGE)
    tokens = encoder(clips, view.context)
    flipped = view._replace(target=view.target.flip(1))
    out = predictor(tokens, view)
    assert out.shape == (2, 10, 10)
    torch.testing.assert_close(predictor(tokens, flipped), out.flip(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("class_token", [False, True])
def test_padding_changes_no_prediction(name, class_token):
    encoder = encoder_of(class_token=class_token)
    predictor = build(TINY[name], encoder)
    view, clips = split(encoder.grid, 5, 7), clips_of(IMAGE)
    padded = View(
        torch.cat([view.context, view.context[:, :1].expand(-1, 2)], dim=1),
        torch.cat([view.target, view.target[:, :1].expand(-1, 3)], dim=1),
        torch.arange(7).expand(2, -1) < 5,
        torch.arange(10).expand(2, -1) < 7,
    )
    expected = predictor(encoder(clips, view.context), view)
    out = predictor(encoder(clips, padded.context, padded.context_valid), padded)
    torch.testing.assert_close(out[:, :7], expected, atol=1e-5, rtol=1e-5)


def test_the_decoder_covers_the_grid_when_the_mask_does_not():
    """A patch in neither part is a mask token, so it changes the others' predictions but has none of its own."""
    encoder = encoder_of()
    predictor = build(TINY["decoder"], encoder)
    whole = split(encoder.grid, 6, 10)
    part = whole._replace(target=whole.target[:, :4])
    tokens = encoder(clips_of(IMAGE), whole.context)
    torch.testing.assert_close(predictor(tokens, part), predictor(tokens, whole)[:, :4], atol=1e-5, rtol=1e-5)


def test_the_dense_decoder_is_given_every_token_in_raster_order():
    encoder = encoder_of(class_token=True)
    predictor = build(Decoder(depth=2, width=16, heads=2, dense_encoder=True), encoder)
    view, clips = split(encoder.grid, 6, 10), clips_of(IMAGE)
    tokens = encoder(clips, hidden=view.target)
    order = torch.arange(16).expand(2, -1)
    everything = predictor(tokens, View(order[:, :0], order))  # every patch predicted, in raster order
    expected = everything.gather(1, view.target[..., None].expand(-1, -1, 10))
    torch.testing.assert_close(predictor(tokens, view), expected, atol=1e-5, rtol=1e-5)
    assert "mask_token" not in dict(predictor.named_parameters())
    assert "mask_token" in dict(encoder.named_parameters())


def test_stacked_views_are_independent_sequences():
    encoder = encoder_of(class_token=True)
    predictor = build(TINY["narrow"], encoder)
    first, second = split(encoder.grid, 5, 4), split(encoder.grid, 5, 4, seed=1)
    second = second._replace(context=first.context)
    tokens = encoder(clips_of(IMAGE), first.context)
    separate = torch.cat([predictor(tokens, first), predictor(tokens, second)])
    stacked = View(torch.cat([first.context, second.context]), torch.cat([first.target, second.target]))
    torch.testing.assert_close(predictor(tokens, stacked), separate, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predictor(tokens.repeat(2, 1, 1), stacked), separate, atol=1e-5, rtol=1e-5)


def test_each_kind_of_mask_has_its_own_token():
    encoder = encoder_of()
    predictor = build(TINY["narrow"], encoder, kinds=2)
    view = split(encoder.grid, 6, 10)
    tokens = encoder(clips_of(IMAGE), view.context)
    assert not torch.allclose(predictor(tokens, view), predictor(tokens, view._replace(kind=1)))


def test_a_decoder_does_not_rotate():
    with pytest.raises(ValueError, match=r"predictor.position=rope is for encoders"):
        Decoder(position=Position.rope)


@pytest.mark.parametrize("position", [p for p in Position if p is not Position.rope])
def test_the_decoder_of_a_clip_knows_where_its_tokens_are(position):
    encoder = encoder_of(CLIP, tubelet=2, position=position, class_token=True)
    predictor = build(Decoder(depth=2, width=16, heads=2, position=position), encoder)
    view = split(encoder.grid, 8, 24)
    tokens = encoder(clips_of(CLIP), view.context)
    swapped = view._replace(context=view.context.flip(1))
    assert not torch.allclose(predictor(tokens, view), predictor(tokens, swapped), atol=1e-3)


@pytest.mark.parametrize("name", PREDICTORS)
def test_building_reads_the_given_generator_and_no_other(name):
    encoder, before = encoder_of(), torch.get_rng_state()
    modules = [TINY[name].build(encoder, 10, 1, generator_for(seed)) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    first, same, other = (module.state_dict() for module in modules)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["mask_token"], other["mask_token"])


def test_v_jepa_s_mask_tokens_begin_at_zero_and_all_else_as_i_jepa_s():
    plain, zeroed = (
        Narrow(depth=2, width=16, heads=2, init=init).build(encoder_of(), 10, 2, generator_for(0)).state_dict()
        for init in (Init.jepa, Init.vjepa)
    )
    assert zeroed.pop("mask_token").abs().sum() == 0 and plain.pop("mask_token").abs().sum() > 0
    assert all(torch.equal(plain[key], zeroed[key]) for key in plain)


@pytest.mark.parametrize("kind", PREDICTORS.values())
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5, "width": 32}, "predictor.width must be a multiple of predictor.heads, got 32 and 5"),
        ({"depth": 0}, "predictor.depth must be at least 1, got 0"),
        ({"width": 6, "heads": 2}, "predictor.width must be a multiple of 4, got 6"),
    ],
)
def test_options_out_of_range_are_refused_by_name(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)
