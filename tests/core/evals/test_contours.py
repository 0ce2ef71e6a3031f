"""Overlap of regions and of contours, by hand and beside scikit-image's disks."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.morphology import dilation, disk
from skimage.segmentation import find_boundaries

from core.evals.contours import contour, contour_overlap, region_overlap


def square(top: int, left: int, side: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_region_overlap_by_hand() -> None:
    assert region_overlap(square(4, 4, 6), square(4, 7, 6)) == pytest.approx(18 / (36 + 36 - 18))
    assert region_overlap(square(4, 4, 6), square(4, 4, 6)) == 1
    assert region_overlap(square(0, 0, 3), square(9, 9, 3)) == 0


def test_an_object_that_is_gone_and_not_answered_is_right() -> None:
    none, some = square(0, 0, 0), square(3, 3, 4)
    assert region_overlap(none, none) == contour_overlap(none, none) == 1
    assert region_overlap(some, none) == contour_overlap(some, none) == contour_overlap(none, some) == 0


def test_a_contour_is_on_both_sides_of_two_edges() -> None:
    found = contour(square(5, 5, 3, (10, 10)))
    # Rows 4 to 7 and columns 4 to 7, without the pixels whose neighbours to the right and below are like them.
    assert found[4, 4:8].all() and found[4:8, 4].all() and found[7, 4:8].all() and found[4:8, 7].all()
    assert found.sum() == 12


def test_the_frame_s_edge_is_no_contour() -> None:
    assert not contour(np.ones((6, 7), dtype=bool)).any()
    assert contour(square(0, 0, 3, (6, 7))).sum() == 3 + 3 - 1


def test_contour_overlap_by_hand() -> None:
    truth = square(5, 5, 8)
    assert contour_overlap(truth, truth) == 1
    # 0.008 of a diagonal of 36 px is rounded up to 1 px: a contour shifted by one pixel is right everywhere.
    assert contour_overlap(square(5, 6, 8), truth) == 1
    # Shifted by three: what runs along the shift stays near but for its ends.
    shifted = contour_overlap(square(5, 8, 8), truth)
    # Of 9 + 9 + 7 + 7 = 32 pixels the two long sides are right up to one pixel beyond the other's end.
    ours, theirs = contour(square(5, 8, 8)), contour(truth)
    near = dilation(theirs, disk(1))
    assert shifted == pytest.approx((ours & near).sum() / ours.sum())
    assert 0.3 < shifted < 0.8


def test_a_tolerance_of_whole_pixels_is_taken_as_such() -> None:
    truth = square(5, 5, 8)
    assert contour_overlap(square(5, 8, 8), truth, tolerance=3) == 1


@pytest.mark.parametrize("reach", [1, 2, 4, 7])
def test_being_near_is_dilation_by_scikit_images_disk(reach) -> None:
    generator = np.random.default_rng(reach)
    for _ in range(5):
        mask, truth = (
            dilation(generator.random((40, 60)) < 0.01, disk(int(generator.integers(1, 6)))) for _ in range(2)
        )
        ours, theirs = contour(mask), contour(truth)
        precision = (ours & dilation(theirs, disk(reach))).sum() / ours.sum()
        recall = (theirs & dilation(ours, disk(reach))).sum() / theirs.sum()
        expected = 2 * precision * recall / (precision + recall)
        assert contour_overlap(mask, truth, tolerance=reach) == pytest.approx(expected)


def test_a_contour_lies_on_scikit_images_thick_boundary() -> None:
    mask = dilation(np.random.default_rng(0).random((30, 30)) < 0.02, disk(3))
    assert not (contour(mask) & ~find_boundaries(mask, connectivity=2, mode="thick")).any()
