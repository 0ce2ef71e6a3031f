"""What a run kept for its pictures, read from the database (or, where it is large, from the results folder).

Masks and reconstructions are those of `clips.npz` and `masks.npz`, as `core.pictures.clips` documents them; flow is
that of `pairs.npz` and `flow.npz`, followed objects those of `tracks.npz` and `followed.npz` (`core.pictures.motion`).
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from sweeps.cells.edited import label_of, launch_words, shown_row, words_here
from sweeps.console.errors import UserError, no_such_study
from sweeps.database.tables import Artifact, Blob, CellRow, Config, RunRow, StudyRow

Pixels = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Flow = NDArray[np.float16]
Objects = NDArray[np.int8]
_NEW_SEED = -1  # any that the study does not have


class NoPictures(UserError):
    """There is nothing to draw from; the message says which command makes it."""


@dataclass(frozen=True)
class Kept:
    """What any picture says of its run."""

    FILES: ClassVar[tuple[str, ...]]
    WITHOUT: ClassVar[str]  # why a run that is done may lack them

    run_id: int
    seed: int
    label: str  # what its study's table calls it
    steps: int

    @classmethod
    def of(cls, arrays: Mapping[str, Any], **run: Any) -> Self:
        """From the arrays of `FILES` together."""
        return cls(**run, **{part.name: arrays[part.name] for part in fields(cls) if part.name in arrays})

    @property
    def num_kept(self) -> int:
        """How many examples can be chosen from."""
        raise NotImplementedError


@dataclass(frozen=True)
class RunPictures(Kept):
    """One run's masks. n clips, V views of each, N patches; T H W C frames, pixels and channels."""

    FILES: ClassVar[tuple[str, ...]] = ("clips.npz", "masks.npz")
    WITHOUT: ClassVar[str] = "hides nothing"

    clips: Pixels  # [n, T, H, W, C]
    grid: tuple[int, int, int]
    context: Flags  # [n, V, N]
    target: Flags  # [n, V, N]
    kind: list[int]  # [V]
    shares: list[int]  # [V] the first view with the same context
    reconstruction: Pixels  # [m, V, T, H, W, C], m <= n
    frames: list[int]  # those that the reconstruction shows

    @classmethod
    def of(cls, arrays: Mapping[str, Any], **run: Any) -> Self:
        lists = {name: arrays[name].tolist() for name in ("kind", "shares", "frames")}
        return super().of({**arrays, **lists, "grid": tuple(arrays["grid"].tolist())}, **run)

    @property
    def num_kept(self) -> int:
        return len(self.clips)

    @property
    def frames_per_slice(self) -> int:
        return int(self.clips.shape[1]) // self.grid[0]

    def contexts(self) -> list[int]:
        """One view of each different context."""
        return sorted(set(self.shares))


@dataclass(frozen=True)
class DecodedPictures(Kept):
    """Samples of decoders of one run's representations, K of each (`core.running.decoder`). n images; m = n, or 0 where
    the run predicts nothing."""

    FILES: ClassVar[tuple[str, ...]] = ("decoded.npz",)
    WITHOUT: ClassVar[str] = "nothing was decoded of it yet: python -m sweeps.decode run=ID"

    originals: Pixels  # [n, H, W, C]
    context: Flags  # [m, h, w]
    target: Flags  # [m, h, w]
    blocks: Pixels  # [m, K, S, S, C]
    whole: Pixels  # [n, K, S', S', C]
    explained: NDArray[np.float64]  # [2] shares of the pixels' variance: of blocks, of whole images

    @classmethod
    def of(cls, arrays: Mapping[str, Any], **run: Any) -> Self:
        if "originals" not in arrays:
            raise NoPictures(f"run={run['run_id']} was decoded by an older version: repeat sweeps.decode")
        return super().of(arrays, **run)

    @property
    def num_kept(self) -> int:
        return len(self.originals)


@dataclass(frozen=True)
class FlowPictures(Kept):
    """One run's estimate of the flow of n pairs of frames."""

    FILES: ClassVar[tuple[str, ...]] = ("pairs.npz", "flow.npz")
    WITHOUT: ClassVar[str] = "its objective gives no flow"

    frames: Pixels  # [n, 2, H, W, C]
    truth: Flow  # [n, 2, H, W] pixels to the right, and down
    valid: Flags  # [n, H, W] where the truth is known
    occluded: Flags  # [n, H, W]
    flow: Flow  # [n, 2, H, W]

    @property
    def num_kept(self) -> int:
        return len(self.frames)

    def error(self, pair: int) -> float | None:
        """Mean end-point error of one pair where the truth is known; None where it is nowhere."""
        distance = np.hypot(*(self.flow[pair].astype(np.float64) - self.truth[pair]))
        return float(distance[self.valid[pair]].mean()) if self.valid[pair].any() else None


@dataclass(frozen=True)
class TrackPictures(Kept):
    """Objects that one run's frozen features followed, video by video; k frames of each, the first among them."""

    FILES: ClassVar[tuple[str, ...]] = ("tracks.npz", "followed.npz")
    WITHOUT: ClassVar[str] = "it was not judged by evals=[vos]"

    frames: list[Pixels]  # [k, H, W, C]
    times: list[list[int]]  # their places in the video
    objects: list[Objects]  # [k, H, W] the truth: 0 background, 1 .. objects, -1 not counted
    followed: list[Objects]  # [k, H, W]

    @classmethod
    def of(cls, arrays: Mapping[str, Any], **run: Any) -> Self:
        count = sum(name.startswith("frames_") for name in arrays)
        parts = {part: [arrays[f"{part}_{i}"] for i in range(count)] for part in ("frames", "objects", "followed")}
        return super().of({**parts, "times": [arrays[f"times_{i}"].tolist() for i in range(count)]}, **run)

    @property
    def num_kept(self) -> int:
        return len(self.frames)


P = TypeVar("P", bound=Kept)


def of_runs(connection: Connection, run_ids: Sequence[int], results_dir: Path, kind: type[P]) -> list[P]:
    """The pictures of these runs, in order. Raises NoPictures naming the run that has none."""
    return [_load(connection, run_id, "", results_dir, kind) for run_id in run_ids]


def of_study(
    connection: Connection,
    name: str,
    results_dir: Path,
    kind: type[P],
    *,
    cells: Sequence[str] = (),
    seed: int | None = None,
) -> list[P]:
    """The pictures of a study's cells ("row" or "row/column"; all but the random initialisation), in the study's order.

    Of the seed, or of each cell's first that is done. Raises NoPictures with the command that makes what is missing.
    """
    study = connection.execute(select(StudyRow).where(StudyRow.name == name)).one_or_none()
    if study is None:
        tables = connection.scalars(select(StudyRow.name).order_by(StudyRow.name)).all()
        raise NoPictures(f"{no_such_study(name, tables)}; make its runs with: {launch(launch_words(name, {}))}")
    typed = words_here(connection, name, study.spec, study.source)
    rows = connection.execute(
        select(CellRow).where(CellRow.study_id == study.id, CellRow.revision == study.revision)
    ).all()
    words = shown_row(connection, study)
    placed = [(words.cell(row), row.config_id) for row in rows]
    placed.sort(key=lambda one: (one[0].display["row_order"], one[0].display["col_order"]))
    known = {f"{row.row_key}/{row.col_key}".rstrip("/"): (row.display, config_id) for row, config_id in placed}
    for cell in cells:
        if cell not in known:
            raise UserError(f"cell={cell}: {name} has no such cell; it has: {', '.join(known)}")
    wanted = cells or [key for key, (display, _) in known.items() if not display["is_random_init"]]
    found = []
    for cell in wanted:
        display, config_id = known[cell]
        label = label_of(display)
        run_id = _done(connection, config_id, seed)
        if run_id is None:
            which = f"seed {seed} of {cell}" if seed is not None else cell
            raise NoPictures(f"study={name}: {which} is not done; make it with: {launch(typed, seed)}")
        found.append(_load(connection, run_id, label, results_dir, kind, again=launch(typed, _NEW_SEED)))
    return found


def launch(words: Sequence[str], seed: int | None = None) -> str:
    """The command that trains a study instance, with a seed of its own if need be."""
    words = [*words]
    if seed is not None:
        words.append("seeds=[NEW]" if seed == _NEW_SEED else f"seeds=[{seed}]")
    return f"python -m sweeps.launch {shlex.join(words)}"


def _done(connection: Connection, config_id: int, seed: int | None) -> int | None:
    """The done run of a config, of the newest code epoch: of `seed`, or of the smallest seed."""
    query = select(RunRow.id).where(RunRow.config_id == config_id, RunRow.state == "done")
    if seed is not None:
        query = query.where(RunRow.seed == seed)
    return connection.scalar(query.order_by(RunRow.code_epoch.desc(), RunRow.seed).limit(1))


def _load(connection: Connection, run_id: int, label: str, results_dir: Path, kind: type[P], again: str = "") -> P:
    run = connection.execute(
        select(RunRow.seed, RunRow.state, Config.json).join(Config).where(RunRow.id == run_id)
    ).one_or_none()
    if run is None:
        raise NoPictures(
            f"run={run_id}: the database has no such run; these are there: "
            'python -m sweeps.query "select id, state from sw_run"'
        )
    rows = connection.execute(
        select(Artifact.name, Artifact.uri, Artifact.sha256, Blob.content)
        .outerjoin(Blob, Blob.sha256 == Artifact.sha256)
        .where(Artifact.run_id == run_id, Artifact.name.in_(kind.FILES))
    ).all()
    files = {row.name: row for row in rows}
    if len(files) < len(kind.FILES):
        made = f"; a run of another seed keeps them: {again}" if again else ""
        without = f"it was trained before runs kept them, or {kind.WITHOUT}"
        reason = f"it is {run.state}" if run.state != "done" else without
        raise NoPictures(f"run={run_id} has no pictures: {reason}{made}")
    arrays: dict[str, Any] = {}
    for name in kind.FILES:
        with np.load(io.BytesIO(_content(files[name], results_dir))) as stored:
            arrays |= {key: stored[key] for key in stored.files}
    return kind.of(
        arrays, run_id=run_id, seed=run.seed, label=label or f"run {run_id}", steps=int(run.json.get("optim.steps", 0))
    )


def _content(file: Any, results_dir: Path) -> bytes:
    if file.content is not None:
        return bytes(file.content)
    path = results_dir / str(file.uri)
    if not path.is_file():
        raise NoPictures(f"{path} is not here, and too large to be in the database; copy it from where the run was")
    return path.read_bytes()
