import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

from analysis.pictures.flow_colour import BEYOND, OUTSIDE, coloured, legend, moved_back, wheel

GRID = np.stack(np.meshgrid(np.linspace(-5, 5, 41), np.linspace(-4, 4, 33)))


@pytest.mark.parametrize("flow", [GRID, 20 * GRID[::-1], 0.01 * GRID[:, ::2], np.zeros((2, 3, 4))])
def test_colours_equal_torchvision_s_to_the_bit(flow):
    expected = flow_to_image(torch.tensor(flow, dtype=torch.float32)).permute(1, 2, 0).numpy()
    assert np.array_equal(coloured(flow, float(np.hypot(*flow).max())), expected)


def test_the_wheel_has_the_benchmark_s_55_colours_and_begins_with_red():
    assert wheel().shape == (55, 3) and wheel()[0].tolist() == [255, 0, 0]


def test_no_motion_is_white_and_what_is_longer_than_the_largest_is_darker():
    flow = np.zeros((2, 1, 3))
    flow[0, 0] = [0, 1, 2]
    none, full, beyond = coloured(flow, 1.0)[0].astype(int)
    assert none.tolist() == [255, 255, 255]
    assert np.abs(beyond - BEYOND * full).max() <= 1


def test_the_legend_is_the_colour_of_the_way_from_its_middle():
    disc = legend(41)
    assert (disc[0, 0] == 255).all() and disc[20, 20].tolist() == [255, 255, 255]
    right = coloured(np.array([[[0.5]], [[0.0]]]), 1.0)[0, 0].astype(int)
    assert np.abs(disc[20, 30] - right).max() < 10


def test_a_frame_moved_back_by_whole_pixels_is_the_other_frame_where_that_has_it():
    first = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    second = np.zeros_like(first)
    second[1:, 2:] = first[:-1, :-2]  # two px to the right, one down
    flow = np.zeros((2, 6, 9))
    flow[0], flow[1] = 2, 1
    moved = moved_back(second, flow)
    assert np.array_equal(moved[:-1, :-2], first[:-1, :-2])
    assert (moved[:, -2:] == OUTSIDE).all() and (moved[-1] == OUTSIDE).all()


def test_half_a_pixel_mixes_its_neighbours():
    frame = np.array([[[0], [100]], [[0], [100]]], np.uint8)
    flow = np.zeros((2, 2, 2))
    flow[0, :, 0] = 0.5
    assert moved_back(frame, flow)[..., 0].tolist() == [[50, 100], [50, 100]]
