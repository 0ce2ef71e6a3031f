"""Several sets of frame pairs as one: each batch is of one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from core.data.arrays import check_split
from core.data.dense.davis import Davis
from core.data.flow.flow_files import FlyingChairs, FlyingThings, Hd1k, KittiFlow, Sintel
from core.data.flow.frame_pairs import FramePairs
from core.data.groups import Group, turn
from core.data.loader import step_indices
from core.data.moving_digits import MovingDigits
from core.data.video.videos import FrameFolder, VideoCsv, VideoFolder
from core.types import Batch, Data, Dataset, DataSpec
from core.types.options import VALUES

_MEMBERS: dict[str, type[Data]] = {
    "sintel": Sintel,
    "kitti_flow": KittiFlow,
    "flying_chairs": FlyingChairs,
    "flying_things": FlyingThings,
    "hd1k": Hd1k,
    "frame_pairs": FramePairs,
    "frame_folder": FrameFolder,
    "video_folder": VideoFolder,
    "video_csv": VideoCsv,
    "davis": Davis,
    "moving_digits": MovingDigits,
}
_OPTION = re.compile(r":(?=[a-z_]+=)")
_PATHS = ("path", "test_path")


@dataclass
class FlowMixture(Data):
    """Several data sets, mixed by repetition: `sets` has one line a member, ``kind:option=value:...:repeat=5``.

        data.sets=['sintel:path=Sintel:pass_name=clean:repeat=5','frame_pairs:path=kitti_raw:height=256']

    Each step's batch is of one member, at that member's own resolution. In every 1000 steps a member has its share of
    them, size times repetition, in an order that the seed decides; its own samples are taken epoch after epoch.
    Members' relative paths start at `path`. For training without labels: members need not agree on them.

    Source: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), Table 7 and appendix A ("we randomly sample one batch of
    sequences from one of our video datasets at each iteration").
    """

    sets: list[str] = field(default_factory=list)  # such as sintel:path=Sintel:repeat=5
    path: str = "."  # where the members' paths start

    def __post_init__(self) -> None:
        if self.sets:
            self.members()

    def members(self) -> list[tuple[Data, int]]:
        """Each member's data set and how often it is repeated. Raises ValueError naming the line."""
        if not self.sets:
            raise ValueError(
                "data.sets must name at least one set, such as ['sintel:path=Sintel:repeat=5'], got none; kinds: "
                + ", ".join(_MEMBERS)
            )
        return [self._member(line) for line in self.sets]

    def _member(self, line: str) -> tuple[Data, int]:
        kind, *given = _OPTION.split(line)
        if kind not in _MEMBERS:
            raise ValueError(f"data.sets: {line!r} begins with no kind of set; kinds: {', '.join(_MEMBERS)}")
        options = dict(part.split("=", 1) for part in given)
        repeat = options.pop("repeat", "1")
        if not repeat.isdecimal() or int(repeat) < 1:
            raise ValueError(f"data.sets: {line!r}: repeat must be a whole number from 1, got {repeat!r}")
        allowed = [option.name for option in fields(_MEMBERS[kind]) if option.name != "version"]  # the mixture has it
        if unknown := [name for name in options if name not in allowed]:
            raise ValueError(
                f"data.sets: {line!r}: {kind} has no option {unknown[0]}; it has repeat, {', '.join(allowed)}"
            )
        try:
            typed = OmegaConf.structured(_MEMBERS[kind])
            for name, value in options.items():
                self._assign(typed, name, value)
            member: Any = OmegaConf.to_object(typed)
        except (OmegaConfBaseException, ValueError) as error:
            raise ValueError(f"data.sets: {line!r}: {str(error).splitlines()[0]}") from error
        moved = {name: str(Path(self.path) / path) for name in _PATHS if (path := getattr(member, name, ""))}
        return replace(member, **moved), int(repeat)

    @staticmethod
    def _assign(member: Any, name: str, value: str) -> None:
        try:
            OmegaConf.update(member, name, None if value == "null" else value)
        except OmegaConfBaseException as error:
            kind = VALUES.get(OmegaConf.get_type(member, name))
            told = f"must be {kind}" if kind else str(error).splitlines()[0]
            raise ValueError(f"{name}={value}: {told}") from error

    def sources(self) -> list[tuple[str, Path]] | None:
        """Of all members, in order; one of which nothing is known leaves all unknown."""
        found: list[tuple[str, Path]] = []
        for number, (member, _) in enumerate(self.members()):
            if (files := member.sources()) is None:
                return None
            found += [(f"{number} {member.recipe} {name}", file) for name, file in files]
        return found

    def spec(self) -> DataSpec:
        """The first member's."""
        return self.specs()[0]

    def specs(self) -> list[DataSpec]:
        """Of each member, without what only some members know: no one is asked for it."""
        found = []
        for line, (member, _) in zip(self.sets, self.members(), strict=True):
            try:
                found.append(member.spec())
            except ValueError as error:
                raise ValueError(f"data.sets: {line!r}: {error}") from error
            if found[-1].frames < 2:
                raise ValueError(f"data.sets: {line!r}: frames must be at least 2 for pairs, got {found[-1].frames}")
        return [replace(spec, classes={}, has_flow=False, has_occlusion=False) for spec in found]

    def load(self, split: str, cache: Path) -> MixedSets:
        check_split(split)
        specs = self.specs()
        loaded = []
        for line, (member, _) in zip(self.sets, self.members(), strict=True):
            try:
                loaded.append(member.load(split, cache))
            except ValueError as error:
                raise type(error)(f"data.sets: {line!r}: {error}") from error
        return MixedSets(specs[0], loaded, [repeat for _, repeat in self.members()])


class MixedSets:
    """Data sets in a row; `groups` are the members, since only samples of one member fit into one batch."""

    is_grouped = True
    is_drawn = True

    def __init__(self, spec: DataSpec, members: Sequence[Dataset], repeats: Sequence[int]) -> None:
        self.spec = spec
        self._members = members
        starts = np.cumsum([0, *map(len, members)]).tolist()
        self.groups = [
            Group(start, len(member), float(len(member) * repeat))
            for start, member, repeat in zip(starts[:-1], members, repeats, strict=True)
        ]
        self.is_lazy = any(getattr(member, "is_lazy", False) for member in members)
        self.excluded = tuple(name for member in members for name in getattr(member, "excluded", ()))

    def __len__(self) -> int:
        return sum(group.length for group in self.groups)

    def labels(self) -> dict[str, Tensor]:
        return {}

    def step_indices(self, seed: int, step: int, batch_size: int) -> Tensor:
        """Samples of the member that takes step `step` (from 1), in that member's own epochs: [batch_size] int64."""
        number, its_step = turn(seed, step, self.groups)
        group = self.groups[number]
        return group.start + step_indices(seed, its_step, batch_size=batch_size, length=group.length)

    def fetch(self, indices: Tensor, draws: Tensor | None = None) -> Batch:
        """Samples of one member, without their labels."""
        starts = torch.tensor([group.start for group in self.groups])
        owner = torch.searchsorted(starts, indices, right=True) - 1
        assert (owner == owner[0]).all(), "a batch is of one member: `step_indices`"
        member: Any = self._members[int(owner[0])]
        within = indices - starts[owner[0]]
        is_drawn = getattr(member, "is_drawn", False)
        return Batch((member.fetch(within, draws) if is_drawn else member.fetch(within)).clips, {})

    def replaced(self) -> dict[str, int]:
        """As the members tell of files that broke."""
        found: dict[str, int] = {}
        for member in self._members:
            found |= member.replaced() if hasattr(member, "replaced") else {}
        return found
