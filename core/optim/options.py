"""How parameters move: the options of the optimiser and of its schedules."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.types import Optimizer, refuse_others, takes


@dataclass
class Optim:
    """How the parameters move.

    Source: I-JEPA (arXiv:2301.08243) A.1 and MAE (arXiv:2111.06377) A.1 use AdamW, a linear warm-up and a half cosine;
    I-JEPA adds a weight decay that grows from .04 to .4 along a cosine. VICReg (arXiv:2105.04906) section 4.2 uses LARS
    (You et al., 2017, arXiv:1708.03888).
    """

    name: Optimizer = field(default=Optimizer.adamw, metadata=takes(Optimizer.adamw, Optimizer.lars))
    steps: int = 800  # 0 trains nothing: the randomly initialised encoder is evaluated
    batch_size: int = 64  # over all processes
    lr_peak: float = 1e-3
    lr_start: float = 0.0  # at the first warm-up step
    lr_end: float = 1e-6
    warmup_share: float = 0.1  # of `steps`
    weight_decay: float = 0.05
    weight_decay_end: float | None = None  # null: constant
    beta1: float = 0.9  # of AdamW; the momentum of LARS
    beta2: float = 0.95  # of AdamW, as is eps
    eps: float = 1e-8
    clip: float = 0.0  # largest gradient norm; 0 leaves gradients alone
    clip_after_warmup: bool = False  # as V-JEPA's released code: then only, encoder and predictor each by itself
    horizon: float = 1.0  # of the learning-rate and weight-decay schedules, in units of `steps`

    def __post_init__(self) -> None:
        refuse_others(self, "optim")
        if self.steps < 0:
            raise ValueError(f"optim.steps must be at least 0, got {self.steps}")
        if self.batch_size < 1:
            raise ValueError(f"optim.batch_size must be at least 1, got {self.batch_size}")
        if self.lr_peak <= 0:
            raise ValueError(f"optim.lr_peak must be above 0, got {self.lr_peak}")
        for name in ("lr_start", "lr_end", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} must be at least 0, got {getattr(self, name)}")
        if self.weight_decay_end is not None and self.weight_decay_end < 0:
            raise ValueError(f"optim.weight_decay_end must be at least 0 or null, got {self.weight_decay_end}")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"optim.warmup_share must be in [0, 1), got {self.warmup_share}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} must be in [0, 1), got {getattr(self, name)}")
        if self.eps <= 0:
            raise ValueError(f"optim.eps must be above 0, got {self.eps}")
        if self.horizon < 1:
            raise ValueError(f"optim.horizon must be at least 1, got {self.horizon}")

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup_share * self.steps)
