"""The optimisers, and what is done to them and to the gradients at every step."""

from __future__ import annotations

import torch
from torch import nn

from core.optim.groups import parameter_groups
from core.optim.options import Optim
from core.optim.schedules import learning_rate, weight_decay

TRUST = 0.001  # of LARS: the length of a step in units of the weights', at a learning rate of 1


def make_adamw(model: nn.Module, optim: Optim, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """AdamW in groups: biases and one-dimensional tensors are not decayed, early layers may learn more slowly.

    Class tokens and the mask tokens of `narrow`, one a kind of mask, have more dimensions, hence are decayed, as in the
    released code of I-JEPA. The one mask token of a `decoder`, or of a dense encoder, is a vector here and is not
    decayed; MAE's released code decays it.
    """
    return torch.optim.AdamW(
        parameter_groups(model, layer_decay),
        lr=optim.lr_peak,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def make_lars(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """timm's LARS with momentum `beta1` in the same groups: what is not decayed is not scaled either."""
    # timm registers every model it has when imported, 6 s; runs that train with AdamW must not wait for it.
    from timm.optim.lars import Lars

    groups = parameter_groups(model)
    for group in groups:  # by itself timm scales what has a weight decay above 0, and nothing of a run without any
        group["always_adapt"] = group.get("weight_decay") != 0.0
    return Lars(groups, lr=optim.lr_peak, momentum=optim.beta1, weight_decay=optim.weight_decay, trust_coeff=TRUST)


def make_sgd(model: nn.Module, optim: Optim, layer_decay: float = 1.0) -> torch.optim.SGD:
    """SGD with momentum `beta1` in the same groups."""
    groups = parameter_groups(model, layer_decay)
    return torch.optim.SGD(groups, lr=optim.lr_peak, momentum=optim.beta1, weight_decay=optim.weight_decay)


def set_schedule(optimizer: torch.optim.Optimizer, optim: Optim, step: int) -> dict[str, float]:
    """Put step `step`'s learning rate and weight decay into the optimiser's groups; returns them for the log."""
    rate, decay = learning_rate(optim, step), weight_decay(optim, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)  # not in the checkpoints of earlier code
        if group["decayed"]:
            group["weight_decay"] = decay
    return {"lr": rate, "weight_decay": decay}


def clip_gradients(model: nn.Module, optim: Optim, step: int) -> None:
    """Scale the gradients down to norm `optim.clip`; with `clip_after_warmup` each part's, from then on."""
    if optim.clip <= 0 or (optim.clip_after_warmup and step <= optim.warmup_steps):
        return
    for part in model.children() if optim.clip_after_warmup else [model]:
        nn.utils.clip_grad_norm_(part.parameters(), optim.clip, foreach=True)
