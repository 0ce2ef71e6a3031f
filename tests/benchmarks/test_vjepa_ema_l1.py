"""V-JEPA's appendix D: what the check finds, and that its page says so."""

import re

import numpy as np
import pytest
import torch

from benchmarks import vjepa_ema_l1 as check


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a busy machine two threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fits():
    return {fit.loss: fit for fit in check.fit_predictors()}


@pytest.fixture(scope="module")
def gradients():
    return check.encoder_gradients()


def numbers(table):
    return [float(number.replace("−", "-")) for number in re.findall(r"−?\d+\.\d+", table)]


def test_l1_leaves_its_predictor_at_the_median_and_mse_at_the_mean(fits):
    assert fits["l1"].to_median < 0.002 < 0.3 < fits["l1"].to_mean
    assert fits["mse"].to_mean < 0.002 < 0.3 < fits["mse"].to_median


def test_smooth_l1_leaves_its_predictor_between_the_two(fits):
    assert 0.1 < fits["smooth_l1"].to_median < fits["mse"].to_median
    assert 0.1 < fits["smooth_l1"].to_mean < fits["l1"].to_mean


def test_the_gradient_is_that_of_the_mean_deviation_and_not_of_the_median_one(gradients):
    for found in gradients:
        assert found.through_optimal == pytest.approx(found.mean_deviation, abs=0.01)
        assert abs(found.through_optimal - found.median_deviation) > 0.02


def test_a_predictor_nears_the_optimal_gradient_as_it_is_trained(gradients):
    for found in gradients:
        early, late = (abs(found.through_trained[place] - found.through_optimal) for place in (0, -1))
        assert late < 0.02 <= early + 0.01


def test_the_exact_slope_is_that_of_the_simulated_deviation():
    """Of E|X - median| itself, by a difference quotient on samples of its own."""
    rng, step = np.random.default_rng(1), 0.05
    context, noise = rng.normal(size=(400_000, 2)), rng.normal(size=(400_000, len(check.NOISES)))
    targets = context[:, :1] * np.array(check.WEIGHTS) + noise * np.array(check.NOISES)

    def deviation(angle):
        z = context @ [np.cos(angle), np.sin(angle)]
        return np.abs(targets - z[:, None] * np.cos(angle) * np.array(check.WEIGHTS)).mean(0).sum()

    (found,) = check.encoder_gradients([40])
    quotient = (deviation(np.deg2rad(40) + step) - deviation(np.deg2rad(40) - step)) / (2 * step)
    assert quotient == pytest.approx(found.mean_deviation, abs=0.02)


def test_the_page_holds_the_tables_that_are_computed(fits, gradients):
    """Another machine rounds sums differently, so numbers are compared, not bytes."""
    page = check.PAGE.read_text(encoding="utf-8")
    for name, table in {"fits": check.fits_table(fits.values()), "gradients": check.gradients_table(gradients)}.items():
        written = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", page, re.DOTALL)[1]
        assert numbers(written) == pytest.approx(numbers(table), abs=0.004)
        assert check.with_table(page, name, written) == page


def test_the_figure_shows_every_series(gradients):
    drawn = check.draw(gradients)
    assert drawn == check.draw(gradients) and drawn.startswith(b"<?xml")
