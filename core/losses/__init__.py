"""How far a prediction is from its target."""

from core.losses.cross_entropy import CrossEntropy
from core.losses.distances import L1, L2, MSE, Cosine, SmoothL1
from core.types import Loss

LOSSES: dict[str, type[Loss]] = {
    "mse": MSE,
    "l1": L1,
    "l2": L2,
    "smooth_l1": SmoothL1,
    "cosine": Cosine,
    "cross_entropy": CrossEntropy,
}
