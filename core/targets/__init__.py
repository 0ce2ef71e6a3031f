"""What the predictor must predict. A variant is one file and one line here."""

from core.targets.ema import EmaTarget
from core.targets.hog import HogTarget
from core.targets.pixels import PixelTarget
from core.targets.tokens import TokenTarget
from core.types import Target

TARGETS: dict[str, type[Target]] = {
    "pixels": PixelTarget,
    "hog": HogTarget,
    "tokens": TokenTarget,
    "ema": EmaTarget,
}
