"""What pictures of a run are drawn from: a few test clips, the run's masks of them, and what it makes of the rest.

Written as arrays when a run ends, so that a figure is drawn later, elsewhere and without torch (`analysis.gallery`):

clips.npz   `clips` [n, T, H, W, C] uint8, spread evenly over the test split; the same file for all runs on the same
            data, so that a database holds it once.
masks.npz   `grid` [3]; `context` and `target` [n, V, N] bool, patches of the grid in raster order, for each of the V
            views of a clip; `kind` [V], the mask type; `shares` [V], the first view with the same context;
            `reconstruction` [m, V, T, H, W, C] uint8, the first m clips with each view's target patches as predicted
            and all else as it was (m = 0 where the target says nothing of pixels); `frames` [k], those that it shows.

Where the target is normalised patch by patch, the reconstruction has the mean and scale of the original patch. What
objectives that give flow keep is in `core.pictures.motion`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.configuring.config import Run
from core.data.augment import normalise
from core.evals.frozen.features import FrozenFeatures
from core.evals.vos import Vos
from core.pictures.motion import motion, tracks
from core.types import Dataset, DataSpec, Grid, Learner, View, generator_for

Arrays = dict[str, NDArray[Any]]
NUM_CLIPS = 8
CLIP_BYTES = 2**20  # of all clips together, before compression; there is always one
RECONSTRUCTION_BYTES = 2**16  # of all reconstructions, which no two runs share: hence fewer


def pictures(
    run: Run,
    learner: Learner,
    test_set: Dataset,
    device: torch.device,
    precision: torch.dtype | None,
    pair_sets: Sequence[Dataset] = (),
    features: FrozenFeatures | None = None,
) -> dict[str, bytes]:
    """The run's files by name; none where its objective hides nothing and gives no flow, and no object is followed.

    `pair_sets` are those whose pairs of frames may be shown, the one that the run is judged on first; by default the
    test split. `features` are those that the run is judged by. Leaves `learner` in evaluation mode.
    """
    files = hidden(run, learner, test_set, device, precision) if run.mask is not None else {}
    if "flow" in run.objective.gives:
        pairs, flow = motion(learner, pair_sets or [test_set], test_set.spec, device)
        files |= {"pairs.npz": packed(pairs), "flow.npz": packed(flow)}
    for evaluation in run.evals.values():
        if isinstance(evaluation, Vos) and features is not None:
            shown, followed = tracks(evaluation, features)
            files |= {"tracks.npz": packed(shown), "followed.npz": packed(followed)}
    return files


def hidden(
    run: Run, learner: Learner, test_set: Dataset, device: torch.device, precision: torch.dtype | None
) -> dict[str, bytes]:
    """Clips, the run's masks of them, and what it makes of the rest.

    Each clip's masks are drawn by themselves, as a batch of one, so that they differ in all that a mask draws once a
    batch (I-JEPA's block sizes) and none is cut to the length of a batch's poorest.
    """
    spec, grid = test_set.spec, learner.encoder.grid
    num_bytes = spec.channels * spec.frames * spec.height * spec.width
    num_clips = min(len(test_set), NUM_CLIPS, max(1, CLIP_BYTES // num_bytes))
    chosen = torch.arange(num_clips) * len(test_set) // num_clips
    clips = normalise(test_set.fetch(chosen).clips, spec, device=device)
    views = [run.mask.sample(grid, 1, generator_for(run.seed, "pictures", number)) for number in range(num_clips)]
    num_painted = min(num_clips, max(1, RECONSTRUCTION_BYTES // (num_bytes * len(views[0]))))
    learner.eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype=precision, enabled=precision is not None):
        painted = [
            learner.reconstruct(clips[number : number + 1], on_device(views[number], device))
            for number in range(num_painted)
        ]
    return {
        "clips.npz": packed({"clips": pixels(clips, spec)}),
        "masks.npz": packed(masks(views, grid) | reconstructions(painted, spec)),
    }


def on_device(views: Sequence[View], device: torch.device) -> list[View]:
    """Without keeping shared contexts shared: each view of a picture is encoded by itself."""

    def moved(view: View) -> dict[str, Any]:
        return {name: part.to(device) for name, part in view._asdict().items() if isinstance(part, Tensor)}

    return [view._replace(**moved(view)) for view in views]


def masks(views: Sequence[Sequence[View]], grid: Grid) -> Arrays:
    """The views of each clip ([1, n] indices each) as flags."""

    def flags(part: str) -> NDArray[Any]:
        found = np.zeros((len(views), len(views[0]), grid.num_patches), dtype=bool)
        for number, per_clip in enumerate(views):
            for place, view in enumerate(per_clip):
                found[number, place, getattr(view, part)[0].numpy()] = True  # padding repeats a valid patch
        return found

    first = views[0]
    shares = [next(i for i, other in enumerate(first) if other.context is view.context) for view in first]
    return {
        "grid": np.array(grid),
        "context": flags("context"),
        "target": flags("target"),
        "kind": np.array([view.kind for view in first]),
        "shares": np.array(shares),
    }


def reconstructions(painted: Sequence[Sequence[Tensor]], spec: DataSpec) -> Arrays:
    """The clips of each view ([1, C, T, H, W] each, normalised, NaN in frames that are not predicted) as pixels."""
    shape = (0, 0, spec.frames, spec.height, spec.width, spec.channels)
    if not painted[0]:
        return {"reconstruction": np.zeros(shape, np.uint8), "frames": np.zeros(0, np.int64)}
    clips = torch.stack([torch.cat(list(per_clip)) for per_clip in painted])  # [m, V, C, T, H, W]
    shown = ~clips[0, 0].isnan().flatten(2).any(2).any(0)  # [T]
    reconstruction = pixels(clips.flatten(0, 1).nan_to_num(), spec)
    return {
        "reconstruction": reconstruction.reshape(len(painted), len(painted[0]), *shape[2:]),
        "frames": shown.nonzero().squeeze(1).cpu().numpy(),
    }


def pixels(clips: Tensor, spec: DataSpec) -> NDArray[np.uint8]:
    """Normalised [B, C, T, H, W] -> uint8 [B, T, H, W, C], as stored."""
    mean, std = (torch.tensor(values, device=clips.device).view(-1, 1, 1, 1) for values in (spec.mean, spec.std))
    stored = ((clips.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return stored.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A compressed .npz; the same arrays give the same bytes, for its entries carry no time."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
