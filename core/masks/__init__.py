"""How patches are divided into context and target. A new mask is one file and one line here."""

from core.masks.block import BlockMask, CubeMask
from core.masks.multiblock import MultiBlockMask
from core.masks.multiblock3d import MultiBlock3dMask
from core.masks.random import RandomMask
from core.masks.rasterized import RasterizedMask
from core.masks.space import SpaceMask
from core.masks.time import TimeMask
from core.types import Mask

MASKS: dict[str, type[Mask]] = {
    "random": RandomMask,
    "space": SpaceMask,
    "time": TimeMask,
    "block": BlockMask,
    "cube": CubeMask,
    "rasterized": RasterizedMask,
    "multiblock": MultiBlockMask,
    "multiblock3d": MultiBlock3dMask,
}
