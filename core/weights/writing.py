"""An encoder as files that timm reads: its state under timm's names, and the arguments to build it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.models.positions import Position
from core.models.vit import VisionTransformer, ViT
from core.types import DataSpec, EncoderModule


def timm_state(encoder: VisionTransformer) -> dict[str, Tensor]:
    """The parameters under timm's names, float32 on the CPU.

    Positions are one table `pos_embed` [1, P + N, D] with the class token's first; those learned for space and time
    apart keep MAE-ST's names, and an encoder that rotates has none.
    """
    own = {name: value.detach().float().cpu() for name, value in encoder.state_dict().items()}
    own.pop("mask_token", None)
    depth, area = encoder.tubelet, encoder.patch
    kernel = (depth, area, area) if encoder.grid.t > 1 or depth > 1 else (area, area)
    weight = own.pop("embed.weight")
    state = {
        "patch_embed.proj.weight": weight.reshape(len(weight), -1, *kernel),
        "patch_embed.proj.bias": own.pop("embed.bias"),
    }
    if encoder.num_prefix:
        state["cls_token"] = own.pop("class_token")[None]
    positions = encoder.positions
    learned = {name: own.pop(name) for name in list(own) if name.startswith("positions.")}
    prefix = learned.get("positions.prefix", torch.zeros(encoder.num_prefix, encoder.width))
    if positions.kind is Position.learned and encoder.grid.t > 1:
        state["pos_embed_spatial"] = learned["positions.space"][None]
        state["pos_embed_temporal"] = learned["positions.time"][None]
        if encoder.num_prefix:
            state["pos_embed_class"] = prefix[None]
    elif positions.kind is not Position.rope:
        table = positions(None, torch.float32).detach().cpu()
        state["pos_embed"] = torch.cat([prefix, table])[None]
    return {name: value.contiguous() for name, value in (state | own).items()}


def timm_config(options: ViT, spec: DataSpec) -> dict[str, Any]:
    """What `timm.create_model("local-dir:FOLDER")` needs; for encoders of images, as timm has no other."""
    return {
        "architecture": "vit_base_patch16_224",  # whose every size is overridden
        "num_classes": 0,
        "model_args": {
            "img_size": [spec.height, spec.width],
            "in_chans": spec.channels,
            "patch_size": options.patch,
            "embed_dim": options.width,
            "depth": options.depth,
            "num_heads": options.heads,
            "mlp_ratio": options.mlp_ratio,
            "class_token": options.class_token,
            "global_pool": "",  # with a pool timm leaves the norm of the patches out
        },
        "pretrained_cfg": {
            "input_size": [spec.channels, spec.height, spec.width],
            "fixed_input_size": True,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def is_timms(encoder: EncoderModule) -> bool:
    """Whether timm has such an encoder: of images, with an embedding of positions."""
    if not isinstance(encoder, VisionTransformer):
        return False
    one_frame = encoder.grid.t == encoder.tubelet == 1
    return one_frame and encoder.positions.kind is not Position.rope


def write_encoder(folder: Path, encoder: EncoderModule, options: ViT, spec: DataSpec) -> None:
    """``model.safetensors`` and, where timm has such an encoder, ``config.json`` in `folder`, which exists.

    What no shape tells (heads, positions, the pixels' mean and std) goes into the file's metadata, so that
    ``weights=file`` reads it back. Raises ValueError for an encoder that is no vision transformer.
    """
    if not isinstance(encoder, VisionTransformer):
        raise ValueError(f"only encoder=vit has timm's names, this run has a {type(encoder).__name__}")
    told = {
        "heads": options.heads, "position": options.position.value, "mean": list(spec.mean), "std": list(spec.std),
    }  # fmt: skip
    metadata = {"format": "pt", "ssl_ablations": json.dumps(told)}
    save_file(timm_state(encoder), folder / "model.safetensors", metadata=metadata)
    if is_timms(encoder):
        text = json.dumps(timm_config(options, spec), indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
