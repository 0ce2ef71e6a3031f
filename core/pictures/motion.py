"""What pictures of a run's motion are drawn from: pairs of frames and the run's estimate of the flow between them.

pairs.npz   `frames` [n, 2, H, W, C] uint8; `truth` [n, 2, H, W] float16, pixels (right, down) to 1/16; `valid` and
            `occluded` [n, H, W] bool, where the truth is known and where the second frame does not show it. `valid` is
            False everywhere of data without flow. The same file for all runs on the same data.
flow.npz    `flow` [n, 2, H, W] float16, the run's estimate, likewise.

A run that is judged by following objects (evals=[vos]) also keeps, of the first videos that it is judged on, k frames:

tracks.npz  `frames_0` [k, H, W, C] uint8, `times_0` [k] their places in the video, `objects_0` [k, H, W] int8, the true
            objects (0 background, -1 not counted); `frames_1`, ... of the next video.
followed.npz `followed_0` [k, H, W] int8, the objects as the features follow them; those of the first frame are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.data.augment import normalise
from core.evals.flow_frames import estimated
from core.evals.frozen.features import FrozenFeatures
from core.evals.vos import Vos, objects_of
from core.types import Dataset, DataSpec, Learner

Arrays = dict[str, NDArray[Any]]
NUM_PAIRS = 4
PAIR_BYTES = 2**20  # of all frames together, before compression; there is always one pair
PARTS = 16.0  # of a pixel that flow is kept to: what cannot be seen would take most of the bytes


NUM_VIDEOS = 2
NUM_FRAMES = 8
VIDEO_BYTES = 2**19  # of one video's frames, before compression; there are always two


def motion(learner: Learner, sets: Sequence[Dataset], spec: DataSpec, device: torch.device) -> tuple[Arrays, Arrays]:
    """The arrays of pairs.npz and flow.npz, of the first of `sets` whose flow is known, or else that has two frames.

    `spec` says how the pixels are normalised. Leaves `learner` in evaluation mode.
    """
    clips = [dataset for dataset in sets if dataset.spec.frames > 1]
    chosen = next((dataset for dataset in clips if dataset.spec.has_flow), clips[0])
    seen = chosen.spec
    num_bytes = 2 * seen.channels * seen.height * seen.width
    num_pairs = min(len(chosen), NUM_PAIRS, max(1, PAIR_BYTES // num_bytes))
    samples = torch.arange(num_pairs) * len(chosen) // num_pairs
    place = (seen.frames - 1) // 2
    fetched = [chosen.fetch(samples[i : i + 1]).clips for i in range(num_pairs)]
    fetched = [clip[:, :, place : place + 2] for clip in fetched if clip.shape == fetched[0].shape]  # sets may be mixed
    stored = torch.cat(fetched)
    grid = learner.encoder.grid
    learner.eval()
    with torch.inference_mode():
        stride = spec.height // grid.h, spec.width // grid.w
        height, width = stored.shape[-2:]
        same_size = DataSpec(spec.channels, 2, height, width, mean=spec.mean, std=spec.std)
        flow = estimated(learner.flow, normalise(stored, same_size, device=device), stride, None)[:, 0]
    pairs: Arrays = {"frames": stored.permute(0, 2, 3, 4, 1).contiguous().numpy()}
    return pairs | truth_of(chosen, samples[: len(stored)], place, flow), {"flow": rounded(flow)}


def truth_of(dataset: Dataset, samples: Tensor, place: int, like: Tensor) -> Arrays:
    if not dataset.spec.has_flow:
        nowhere = np.zeros((len(like), *like.shape[-2:]), dtype=bool)
        return {"truth": rounded(torch.zeros_like(like)), "valid": nowhere, "occluded": nowhere}
    known = dataset.flows(samples)  # type: ignore[attr-defined]
    valid = known.valid[:, place]
    occluded = torch.zeros_like(valid) if known.occluded is None else known.occluded[:, place]
    truth = known.flow[:, place].where(valid[:, None], known.flow.new_zeros(()))
    return {"truth": rounded(truth), "valid": valid.numpy(), "occluded": occluded.numpy()}


def rounded(flow: Tensor) -> NDArray[np.float16]:
    found: NDArray[np.float16] = ((flow.float() * PARTS).round() / PARTS).cpu().numpy().astype(np.float16)
    return found


def tracks(evaluation: Vos, features: FrozenFeatures) -> tuple[Arrays, Arrays]:
    """The arrays of tracks.npz and followed.npz."""
    shown: Arrays = {}
    followed: Arrays = {}
    for video in features.sequences("test", evaluation.max_sequences):
        number, objects = len(followed), objects_of(video)
        if number == NUM_VIDEOS:
            break
        if not objects:
            continue
        length = len(video.objects)
        count = min(length, NUM_FRAMES, max(2, VIDEO_BYTES // video.frames[:, 0].numel()))
        # Frames whose objects are known, where there are enough; else the truth of some is "not counted".
        known = torch.arange(length) if video.known is None or len(video.known) < 2 else torch.tensor(video.known)
        count = min(count, len(known))
        times = known[torch.arange(count) * len(known) // count]
        answers = evaluation.follow(features, video, objects)
        answers[0] = video.objects[0]
        shown[f"frames_{number}"] = video.frames[:, times].permute(1, 2, 3, 0).contiguous().numpy()
        shown[f"times_{number}"] = times.numpy()
        shown[f"objects_{number}"] = video.objects[times].numpy().astype(np.int8)
        followed[f"followed_{number}"] = answers[times].numpy().astype(np.int8)
    return shown, followed
