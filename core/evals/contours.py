"""How well a mask has an object: the overlap of regions and of contours, as DAVIS counts them."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import distance_transform_edt

TOLERANCE = 0.008  # of the frame's diagonal


def region_overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two masks [H, W] bool; 1 where both are empty.

    Source: DAVIS (Perazzi et al., 2016), section 4.1.
    """
    union = int(np.count_nonzero(mask | truth))
    return int(np.count_nonzero(mask & truth)) / union if union else 1.0


def contour_overlap(mask: np.ndarray, truth: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of precision and recall of the contour of `mask` [H, W] bool.

    A contour's pixel is right when a pixel of the other one is no farther away than `tolerance` diagonals of the frame,
    rounded up to whole pixels. With `tolerance` of at least 1 it is in pixels.

    Source: DAVIS (Perazzi et al., 2016), section 4.1; Martin et al. (2004), with a disk instead of a matching.
    """
    reach = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*mask.shape))
    ours, theirs = contour(mask), contour(truth)
    num_ours, num_theirs = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
    if num_ours == 0 or num_theirs == 0:
        return 1.0 if num_ours == num_theirs else 0.0
    rows, columns = np.nonzero(ours | theirs)
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)  # nothing else has to be looked at
    ours, theirs = ours[box], theirs[box]
    precision = int(np.count_nonzero(ours & _within(theirs, reach))) / num_ours
    recall = int(np.count_nonzero(theirs & _within(ours, reach))) / num_theirs
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: np.ndarray) -> np.ndarray:
    """Pixels of `mask` [H, W] bool that differ from the one to the right, below, or both; at the frame's edge from
    those that there are."""
    edged = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right, below, both = edged[:-1, :-1], edged[:-1, 1:], edged[1:, :-1], edged[1:, 1:]
    found: np.ndarray = (here != right) | (here != below) | (here != both)
    return found


def _within(contour: np.ndarray, reach: float) -> np.ndarray:
    """Where a pixel of `contour` is no farther away than `reach`: dilation by a disk."""
    near: np.ndarray = distance_transform_edt(~contour) <= reach
    return near
