"""The trained parameters in groups: what is decayed, how fast each layer learns."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from core.types import Learner, Pace


def parameter_groups(model: nn.Module, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """The trained parameters by whether they are decayed and, with `layer_decay`, by layer.

    A layer's learning rate is `layer_decay` times the next one's; "lr_scale" is the product, 1 for the head. The patch
    embedding, positions and class token are layer 0, block i is layer i + 1, the final norm and the head are the last.
    A learner's parts that have a pace of their own (`Learner.paces`) are groups of their own.

    Source: BEiT (Bao et al., 2021, arXiv:2106.08254), appendix; MAE (He et al., 2021, arXiv:2111.06377), A.1.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = [int(found[1]) for name, _ in named if (found := _BLOCK.search(name))]
    last = max(blocks, default=-1) + 2
    paces = model.paces() if isinstance(model, Learner) else {}
    groups: dict[tuple[int, str, bool], dict[str, Any]] = {}
    for decayed in (True, False):
        for name, p in named:
            if (p.ndim <= 1 or name.endswith("bias")) == decayed:
                continue
            layer = layer_of(name, last) if layer_decay != 1 else last
            part = name.split(".")[0] if name.split(".")[0] in paces else ""
            pace = paces.get(part, Pace())
            scale = layer_decay ** (last - layer) * pace.lr_scale
            new: dict[str, Any] = {"params": [], "decayed": decayed, "lr_scale": scale}
            if not decayed:
                new["weight_decay"] = 0.0
            elif pace.weight_decay is not None:
                new |= {"weight_decay": pace.weight_decay, "decayed": False}  # what the schedule leaves alone
            groups.setdefault((layer, part, decayed), new)["params"].append(p)
    return list(groups.values())


_BLOCK = re.compile(r"\bblocks\.(\d+)\.")


def layer_of(name: str, last: int) -> int:
    """Which layer the parameter `name` of an encoder with a head belongs to."""
    if found := _BLOCK.search(name):
        return int(found[1]) + 1
    is_first = re.search(r"\b(embed|positions|class_token|mask_token)\b", name) is not None
    return 0 if is_first else last
