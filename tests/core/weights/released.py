"""Tiny random models of other projects, saved as those projects save theirs."""

from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from transformers import (
    IJepaConfig,
    IJepaModel,
    PreTrainedModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    VJEPA2Config,
    VJEPA2Model,
)

from core.models import ViT
from core.models.vit import VisionTransformer
from core.types import DataSpec, generator_for
from core.weights import WeightsFile
from tests.core.models.test_vit import shake

IMAGE = DataSpec(channels=3, frames=1, height=16, width=16)
CLIP = DataSpec(channels=3, frames=4, height=16, width=16)
COMMON = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = COMMON | {"intermediate_size": 96, "image_size": 16, "patch_size": 4}
DECODER = {
    "decoder_hidden_size": 12,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24,
}


def made(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):  # transformers draws its weights from the global generator
        model = kind(config).eval()
    trained = nn.ParameterList(p for name, p in model.named_parameters() if p.requires_grad)
    shake(trained)
    return model


def vit_mae() -> ViTMAEForPreTraining:
    model = made(ViTMAEForPreTraining, ViTMAEConfig(**VIT, **DECODER, mask_ratio=0.0, layer_norm_eps=1e-6))
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    with torch.random.fork_rng(devices=[]):
        model.vit.embeddings.initialize_weights()  # its sin-cos table, which the constructor leaves at zero
    return model


def ijepa() -> IJepaModel:
    return made(IJepaModel, IJepaConfig(**VIT, layer_norm_eps=1e-6))


def video_mae() -> VideoMAEForPreTraining:
    options = {"num_frames": 4, "tubelet_size": 2, "use_mean_pooling": False, "layer_norm_eps": 1e-6}
    return made(VideoMAEForPreTraining, VideoMAEConfig(**VIT, **DECODER, **options))


def vjepa2() -> VJEPA2Model:
    options = {"patch_size": 4, "crop_size": 16, "frames_per_clip": 4, "tubelet_size": 2, "mlp_ratio": 4.0}
    predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    return made(VJEPA2Model, VJEPA2Config(**COMMON, **options, **predictor))


def timm_vit(**options: Any) -> TimmViT:
    numbers: dict = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}
    with torch.random.fork_rng(devices=[]):
        model = TimmViT(**numbers | {"global_pool": "token"} | options).eval()
    shake(model)
    return model


def ours(spec: DataSpec = IMAGE, **options: Any) -> tuple[ViT, VisionTransformer]:
    """Options of the tiny encoder and the encoder, drawn at random."""
    chosen = ViT(**{"width": 24, "depth": 2, "heads": 2, "patch": 4} | options)
    built = chosen.build(spec, generator_for(0, "init"))
    assert isinstance(built, VisionTransformer)
    return chosen, built


def filled(path: Path, spec: DataSpec = IMAGE, *, weights: dict | None = None, **options: Any) -> VisionTransformer:
    """The tiny encoder, started from the file at `path`."""
    chosen, built = ours(spec, **options)
    WeightsFile(path=str(path), **weights or {}).load([built], chosen, spec, Path("/"))
    return built


def pixels(spec: DataSpec) -> Tensor:
    shape = (2, spec.channels, spec.frames, spec.height, spec.width)
    return torch.randn(shape, generator=generator_for(0, "pixels"))
