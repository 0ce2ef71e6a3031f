"""What released checkpoints call the parts of a vision transformer. Facts about files: one table a layout.

Our names are those of `core.models.vit.VisionTransformer`. In a block's table, a tuple is stacked along the first axis
(query, key, value), and None in it stands for zeros.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Names = tuple[str | None, ...]


@dataclass(frozen=True)
class Layout:
    """Names of one family of checkpoints; those of a block are below `block`, all are below one of `roots`."""

    name: str
    roots: tuple[str, ...]
    embed: str
    norm: str
    block: str  # with {i} for its number
    parts: Mapping[str, Names]  # our name in a block -> theirs
    class_token: str | None = None
    table: str | None = None  # one embedding a patch, the class token's first
    separable: tuple[str, str, str] | None = None  # of space, time and class token
    implied: str | None = None  # encoder.position of files without any embedding
    ignored: str = r"(?!)"  # what such files have beside the encoder: heads, decoders, predictors
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean and std that its models were trained with

    def root(self, names: Iterable[str]) -> str | None:
        """Below which of `roots` the names are this layout's, None when they are not."""
        names = set(names)
        signs = [f"{self.embed}.weight", *(self.block.format(i=0) + n for n in self.parts["attn.qkv.bias"] if n)]
        signs += [self.block.format(i=0) + n for n in self.parts["norm1.weight"] if n]
        return next((root for root in self.roots if all(root + sign in names for sign in signs)), None)

    def depth(self, names: Iterable[str], root: str) -> int:
        before, after = re.escape(root + self.block).split(re.escape("{i}"))
        found = (re.match(rf"{before}(\d+){after}", name) for name in names)
        return 1 + max(int(match.group(1)) for match in found if match)

    def is_ignored(self, name: str) -> bool:
        return re.fullmatch(self.ignored, name) is not None


def _block(
    norm1: str, norm2: str, proj: str, fc1: str, fc2: str, qkv: tuple[str, ...], biases: Names | None = None
) -> dict[str, Names]:
    single = {"norm1": norm1, "attn.proj": proj, "norm2": norm2, "mlp.fc1": fc1, "mlp.fc2": fc2}
    table: dict[str, Names] = {
        f"{ours}.{kind}": (f"{theirs}.{kind}",) for ours, theirs in single.items() for kind in ("weight", "bias")
    }
    table["attn.qkv.weight"] = tuple(f"{name}.weight" for name in qkv)
    table["attn.qkv.bias"] = biases or tuple(f"{name}.bias" for name in qkv)
    return table


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
_TIMM = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
_TRANSFORMERS = ("layernorm_before", "layernorm_after", "attention.output.dense", "intermediate.dense", "output.dense")
_ATTENTION = ("attention.attention.query", "attention.attention.key", "attention.attention.value")

# I-JEPA, V-JEPA, V-JEPA 2 and MAE were released with timm's names. V-JEPA 2's have no positions: it rotates.
TIMM = Layout(
    name="timm (also I-JEPA, V-JEPA, V-JEPA 2 and MAE as released)",
    roots=("",),
    embed="patch_embed.proj",
    norm="norm",
    block="blocks.{i}.",
    parts=_block(*_TIMM, ("attn.qkv",)),
    class_token="cls_token",
    table="pos_embed",
    separable=("pos_embed_spatial", "pos_embed_temporal", "pos_embed_class"),  # of encoders that we exported
    implied="rope",
    ignored=r"mask_token|decoder_.*|head\..*",
    pixels=IMAGENET,
)
MAE_ST = Layout(
    name="MAE-ST as released",
    roots=("",),
    embed="patch_embed.proj",
    norm="norm",
    block="blocks.{i}.",
    parts=_block(*_TIMM, ("attn.q", "attn.k", "attn.v")),
    class_token="cls_token",
    separable=("pos_embed_spatial", "pos_embed_temporal", "pos_embed_class"),
    ignored=r"mask_token|decoder_.*|head\..*",
    pixels=KINETICS,
)
VIDEOMAE = Layout(
    name="VideoMAE as released",
    roots=("encoder.", ""),
    embed="patch_embed.proj",
    norm="norm",
    block="blocks.{i}.",
    parts=_block(*_TIMM, ("attn.qkv",), ("attn.q_bias", None, "attn.v_bias")),
    implied="sequence",
    ignored=r"mask_token|encoder_to_decoder\..*|decoder\..*|head\..*",
    pixels=IMAGENET,
)
TRANSFORMERS_VIT = Layout(
    name="transformers' ViT, ViTMAE and I-JEPA",
    roots=("", "vit.", "ijepa."),
    embed="embeddings.patch_embeddings.projection",
    norm="layernorm",
    block="encoder.layer.{i}.",
    parts=_block(*_TRANSFORMERS, _ATTENTION),
    class_token="embeddings.cls_token",
    table="embeddings.position_embeddings",
    ignored=r"(.*\.)?pooler\..*|classifier\..*|decoder\..*|(.*\.)?mask_token",
    pixels=IMAGENET,
)
TRANSFORMERS_VIDEOMAE = Layout(
    name="transformers' VideoMAE",
    roots=("videomae.", ""),
    embed="embeddings.patch_embeddings.projection",
    norm="layernorm",
    block="encoder.layer.{i}.",
    parts=_block(*_TRANSFORMERS, _ATTENTION, ("attention.attention.q_bias", None, "attention.attention.v_bias")),
    implied="sequence",
    ignored=r"classifier\..*|decoder\..*|encoder_to_decoder\..*|mask_token",
    pixels=IMAGENET,
)
TRANSFORMERS_VJEPA2 = Layout(
    name="transformers' V-JEPA 2",
    roots=("encoder.", "vjepa2.encoder."),
    embed="embeddings.patch_embeddings.proj",
    norm="layernorm",
    block="layer.{i}.",
    parts=_block(
        "norm1", "norm2", "attention.proj", "mlp.fc1", "mlp.fc2",
        ("attention.query", "attention.key", "attention.value"),
    ),
    implied="rope",
    ignored=r"(vjepa2\.)?predictor\..*|pooler\..*|classifier\..*",
    pixels=IMAGENET,
)  # fmt: skip
OURS = Layout(
    name="a checkpoint of core.train",
    roots=("target.encoder.", "encoder."),
    embed="embed",
    norm="norm",
    block="blocks.{i}.",
    parts=_block(*_TIMM, ("attn.qkv",)),
    class_token="class_token",
    separable=("positions.space", "positions.time", "positions.prefix"),
    ignored=r".*",  # whatever else the run trained
)
LAYOUTS = (OURS, TIMM, MAE_ST, VIDEOMAE, TRANSFORMERS_VIT, TRANSFORMERS_VIDEOMAE, TRANSFORMERS_VJEPA2)
