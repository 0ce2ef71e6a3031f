"""I-JEPA's mask: several target blocks, and a large context block without them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from core.masks.blocks import Shape, Size, check_range, corners, offsets, tube
from core.masks.ragged import Ragged, first_in_raster, padded, random_subset
from core.types import Grid, Mask, View, generator_for

Starts = NDArray[np.int64]  # [B, num_targets] patch indices of top-left corners
Bits = NDArray[np.uint64]  # [B, ceil(H * W / 64)] the frame's patches, 64 a word

NUM_ROUNDS = 20  # of drawing a sample again because its targets left too little context
SPARE = 1.25  # candidates drawn per sample wanted; at the default a tenth is rejected, so one round nearly always does
LOW_QUANTILE = 0.1  # of the raw context length: the length of `ragged=fixed`


@dataclass
class MultiBlockMask(Mask):
    """Predict each of `num_targets` blocks from a large context block with the targets cut out.

    One view a target, all sharing the context tensor. Block sizes are drawn once a batch, positions for each sample;
    targets may overlap each other, never the context. In a clip every block spans all frames.

    Context length (`ragged`): the cut leaves a different number of patches in each sample. `fixed` keeps a random
    subset of a length that depends on the options and the grid only: `context_share` of the grid where given, else the
    0.1 quantile of the raw length over 4,096 draws of a generator of its own. `truncate` is the authors' code, `pad`
    keeps everything.

    Too little context: a sample with fewer patches than it needs (the fixed length, or more than `min_keep`) is drawn
    again, up to 20 times for the whole batch at once; then its targets are laid on top of each other, which `check`
    has made sure leaves enough. The authors' code lets the context overlap a target instead, or loops for ever.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), section 3 and Appendix A; Tables 6 and 8-10 vary it. The
    printed numbers were made with ragged=truncate exclusive_corners=true shared_draw=true min_keep=10.
    """

    num_targets: int = 4
    target_scale_min: float = 0.15  # fraction of the frame
    target_scale_max: float = 0.2
    target_aspect_min: float = 0.75  # height / width
    target_aspect_max: float = 1.5
    context_scale_min: float = 0.85
    context_scale_max: float = 1.0
    min_keep: int = 4  # every block, and the context, has MORE patches than this (the paper's grids: 10)
    ragged: Ragged = Ragged.fixed
    context_share: float | None = None  # fixed context length as a fraction of the frame; None: a low quantile
    exclusive_corners: bool = False  # True: blocks never touch the last row and column (the authors' code)
    shared_draw: bool = False  # True: one uniform number sets a target's scale and aspect (the authors' code)

    def __post_init__(self) -> None:
        if self.num_targets < 1:
            raise ValueError(f"mask.num_targets must be at least 1, got {self.num_targets}")
        check_range("mask.target_scale", self.target_scale_min, self.target_scale_max, limit=1)
        check_range("mask.target_aspect", self.target_aspect_min, self.target_aspect_max, limit=math.inf)
        check_range("mask.context_scale", self.context_scale_min, self.context_scale_max, limit=1)
        if self.min_keep < 0:
            raise ValueError(f"mask.min_keep must be at least 0, got {self.min_keep}")
        if self.context_share is not None:
            if not 0 < self.context_share < 1:
                raise ValueError(f"mask.context_share must be in (0, 1) or null, got {self.context_share}")
            if self.ragged is not Ragged.fixed:
                raise ValueError(
                    f"mask.context_share={self.context_share} sets the length of mask.ragged=fixed and has no meaning "
                    f"with mask.ragged={self.ragged.value}: leave it null"
                )

    # ---- what can be drawn -----------------------------------------------------------------------

    def check(self, grid: Grid) -> None:
        """Raises ValueError when a block or the context would not have more than `min_keep` patches."""
        where = f"on grid {grid.t}x{grid.h}x{grid.w}"
        if self.exclusive_corners and min(grid.h, grid.w) < 2:
            raise ValueError(f"mask.exclusive_corners=true needs at least 2 rows and columns, {where} there are fewer")
        targets, contexts = self.target_sizes(grid), self.context_sizes(grid)
        smallest, largest = targets[0].area, targets[-1].area
        if smallest <= self.min_keep:
            raise ValueError(
                f"mask.min_keep={self.min_keep} cannot be kept {where}: target blocks there have {smallest} to "
                f"{largest} patches and each must have more than mask.min_keep; set it to at most {smallest - 1}, "
                "or raise mask.target_scale_min, or use smaller patches"
            )
        certain = contexts[0].area - largest
        usual = _raw_lengths(self._key(), grid)[1]
        bound = min(certain, usual)
        if self.least_context(grid) > bound:
            asked = (
                f"mask.context_share={self.context_share} asks for {self.least_context(grid)} context patches"
                if self.context_share is not None
                else f"mask.min_keep={self.min_keep} asks for more than {self.min_keep} context patches"
            )
            raise ValueError(
                f"{asked}, which cannot be drawn {where}: the smallest context block ({contexts[0].area} patches) "
                f"less the largest target ({largest}) leaves {certain}, and {self.num_targets} targets leave {usual} "
                f"in the median; at most {max(bound, 0)} can be asked for, or make the targets fewer or smaller"
            )

    @property
    def target_shape(self) -> Shape:
        return Shape(
            self.target_scale_min,
            self.target_scale_max,
            self.target_aspect_min,
            self.target_aspect_max,
            int(self.exclusive_corners),
        )

    @property
    def context_shape(self) -> Shape:
        return Shape(self.context_scale_min, self.context_scale_max, 1, 1, int(self.exclusive_corners))

    def target_sizes(self, grid: Grid) -> list[Size]:
        """Every size a target block can have on `grid`, smallest first."""
        return self.target_shape.sizes(grid, shared=self.shared_draw)

    def context_sizes(self, grid: Grid) -> list[Size]:
        """Every size the context block can have on `grid` before the targets are cut out, smallest first."""
        return self.context_shape.sizes(grid)

    def varying(self, grid: Grid) -> tuple[str, ...]:
        one_length = len({size.area for size in self.target_sizes(grid)}) == 1
        return super().varying(grid) or (() if one_length else ("target",))

    def least_context(self, grid: Grid) -> int:
        """Patches of a frame that every sample's context must have before `ragged` is applied."""
        if self.ragged is not Ragged.fixed:
            return self.min_keep + 1
        if self.context_share is not None:
            return max(self.min_keep + 1, round(self.context_share * grid.h * grid.w))
        certain = self.context_sizes(grid)[0].area - self.target_sizes(grid)[-1].area
        return max(self.min_keep + 1, min(certain, _raw_lengths(self._key(), grid)[0]))

    def _key(self) -> tuple[object, ...]:
        return tuple(vars(self).values())

    # ---- drawing ---------------------------------------------------------------------------------

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        least = _checked_least_context(self._key(), grid)
        sizes = self._sizes(grid, generator)
        starts, bits = self._positions(grid, sizes, batch_size, least, generator)
        free = np.unpackbits(bits.view(np.uint8), axis=1, count=grid.h * grid.w).view(bool)

        valid = None
        if self.ragged is Ragged.fixed:
            context = random_subset(free, least, generator)
        elif self.ragged is Ragged.truncate:
            context = first_in_raster(free)
        else:
            context, valid = padded(free)
            valid = valid.repeat(1, grid.t)
        context = tube(context, grid)
        targets = starts.T[:, :, None] + offsets(grid, sizes[0]).numpy()  # [num_targets, B, h * w]
        return [View(context, tube(target, grid), context_valid=valid) for target in torch.from_numpy(targets)]

    def _sizes(self, grid: Grid, generator: Generator) -> tuple[Size, Size]:
        """The batch's target and context block."""
        scale, aspect, context = torch.rand(3, generator=generator).tolist()
        if self.shared_draw:
            aspect = scale
        return self.target_shape.size(grid, scale, aspect), self.context_shape.size(grid, context, 0)

    def _positions(
        self, grid: Grid, sizes: tuple[Size, Size], batch_size: int, least: int, generator: Generator
    ) -> tuple[Starts, Bits]:
        """Each sample's target corners and context, of at least `least` patches.

        Candidates are independent and the first good ones are taken, which is drawing each sample until it is good.
        """
        starts, bits = self._candidates(grid, sizes, int(batch_size * SPARE) + 4, generator, least=least)
        rounds = 1
        while len(starts) < batch_size and rounds < NUM_ROUNDS:
            more = self._candidates(grid, sizes, batch_size, generator, least=least)
            starts, bits = np.concatenate([starts, more[0]]), np.concatenate([bits, more[1]])
            rounds += 1
        if len(starts) < batch_size:
            more = self._candidates(grid, sizes, batch_size - len(starts), generator, stacked=True)
            starts, bits = np.concatenate([starts, more[0]]), np.concatenate([bits, more[1]])
        return starts[:batch_size], bits[:batch_size]

    def _candidates(
        self,
        grid: Grid,
        sizes: tuple[Size, Size],
        num: int,
        generator: Generator,
        *,
        least: int = 0,
        stacked: bool = False,
    ) -> tuple[Starts, Bits]:
        """`num` independent draws less those whose context has fewer than `least` patches.

        `stacked` lays all targets of a sample on the first one's place.
        """
        target_starts, target_bits = _places(grid, sizes[0], self.exclusive_corners)
        _, context_bits = _places(grid, sizes[1], self.exclusive_corners)
        shape = (num, 1 if stacked else self.num_targets)
        targets = torch.randint(len(target_bits), shape, generator=generator).numpy()
        context = torch.randint(len(context_bits), (num,), generator=generator).numpy()

        hidden = target_bits[targets]  # [num, targets, words]
        bits = context_bits[context] & ~np.bitwise_or.reduce(hidden, axis=1)
        if least:
            good = _counts(bits) >= least
            targets, bits = targets[good], bits[good]
        starts = target_starts[targets]
        return starts.repeat(self.num_targets, axis=1) if stacked else starts, bits


@lru_cache(maxsize=64)
def _places(grid: Grid, size: Size, exclusive: bool) -> tuple[Starts, Bits]:
    """Every place of a block in a frame: its first patch [num places], and its patches as bits [num places, words]."""
    starts = corners(grid, size, exclusive)
    whole_words = -(-grid.h * grid.w // 64) * 64
    flags = torch.zeros(len(starts), whole_words, dtype=torch.bool)
    flags.scatter_(1, starts[:, None] + offsets(grid, size), True)
    return starts.numpy(), np.packbits(flags.numpy(), axis=1).view(np.uint64)


def _counts(bits: Bits) -> NDArray[np.int64]:
    """Patches of each row: [B]."""
    counts: NDArray[np.int64] = np.bitwise_count(bits).sum(1, dtype=np.int64)
    return counts


@lru_cache(maxsize=64)
def _checked_least_context(key: tuple[object, ...], grid: Grid) -> int:
    mask = MultiBlockMask(*key)  # type: ignore[arg-type]
    mask.check(grid)
    return mask.least_context(grid)


@lru_cache(maxsize=64)
def _raw_lengths(key: tuple[object, ...], grid: Grid) -> tuple[int, int]:
    """The low quantile and the median of the context's length before anything is cut off or redrawn."""
    mask = MultiBlockMask(*key)  # type: ignore[arg-type]
    generator = generator_for(0, "multiblock", "raw context length")
    counts = []
    for _ in range(256):
        sizes = mask._sizes(grid, generator)
        counts.append(_counts(mask._candidates(grid, sizes, 16, generator)[1]))
    low, median = np.quantile(np.concatenate(counts), [LOW_QUANTILE, 0.5])
    return int(low), int(median)
