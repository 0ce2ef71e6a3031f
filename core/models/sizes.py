"""Named encoder sizes: the numbers that presets and tests write into `encoder.width`, `.depth` and `.heads`."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0


# Up to huge: ViT (Dosovitskiy et al., 2020, table 1) and DeiT (Touvron et al., 2020, table 1).
# giant: Zhai et al., 2021, table 2, whose MLP is 6144 wide. nano, micro and mini are ours, for runs on two CPU cores.
SIZES: dict[str, Size] = {
    "nano": Size(32, 2, 2),
    "micro": Size(96, 3, 3),
    "mini": Size(128, 6, 4),
    "tiny": Size(192, 12, 3),
    "small": Size(384, 12, 6),
    "base": Size(768, 12, 12),
    "large": Size(1024, 24, 16),
    "huge": Size(1280, 32, 16),
    "giant": Size(1408, 40, 16, 48 / 11),
}
