from __future__ import annotations

import dataclasses

import pytest
import torch

from core.evals.collapse import Collapse, Spread, compared, rankme
from core.types import generator_for
from tests.core.evals.known import clusters


def test_equal_singular_values_give_full_rank():
    assert rankme(3 * torch.eye(16)) == pytest.approx(16, rel=1e-4)
    assert rankme(torch.eye(16).repeat(10, 1)) == pytest.approx(16, rel=1e-4)


def test_one_direction_gives_rank_one():
    scale = torch.rand(100, 1, generator=generator_for(0)) + 0.5
    assert rankme(scale * torch.ones(1, 16)) == pytest.approx(1, abs=1e-3)


def test_all_zero_features_give_rank_one():
    assert rankme(torch.zeros(100, 16)) == pytest.approx(1, abs=1e-3)


def test_two_unequal_directions_equal_the_formula():
    features = torch.zeros(2, 8)
    features[0, 0], features[1, 1] = 3.0, 1.0  # shares 3/4 and 1/4
    assert rankme(features) == pytest.approx((4 / 3) ** 0.75 * 4**0.25, rel=1e-4)


def test_the_scale_of_the_features_does_not_matter_to_the_rank():
    features = torch.randn(50, 8, generator=generator_for(0))
    assert rankme(1e-3 * features) == pytest.approx(rankme(features), rel=1e-4)


def test_feature_std_is_the_mean_over_features_of_the_test_split():
    features = dataclasses.replace(clusters(spread=0.5), test=torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    assert Collapse().run(features, seed=0)["collapse/feature_std"] == pytest.approx(0.5)


def test_identical_samples_show_as_collapse():
    features = dataclasses.replace(clusters(spread=0.5), test=torch.full((120, 8), 0.3))
    results = Collapse().run(features, seed=0)
    assert results["collapse/rankme"] == pytest.approx(1, abs=1e-3)
    assert results["collapse/feature_std"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("trained", "state"),
    [
        (Spread(1.312, 0.019), "collapsed"),  # committed runs of convnext, by objective: flow,
        (Spread(1.451, 0.066), "collapsed"),  # motion_content in one direction,
        (Spread(1.979, 0.232), ""),  # in few,
        (Spread(3.732, 0.181), ""),  # in as many as before
        (Spread(3.642, 0.020), "collapsed"),
        (Spread(1.0, 0.0), "collapsed"),
        (Spread(3.7, 0.11), "untrained"),
        (Spread(9.0, 0.108), ""),
    ],
)
def test_features_are_judged_beside_those_of_the_untrained_encoder(trained: Spread, state: str):
    told = compared(trained, Spread(3.642, 0.108))
    assert told["state"] == state
    assert (f"RankMe {trained.rankme:.3g}, untrained 3.64" in told["said"]) == bool(state)


def test_an_encoder_that_was_constant_from_the_start_has_not_collapsed_in_training():
    assert compared(Spread(1.0, 0.0), Spread(1.0, 0.0))["state"] == "untrained"
    assert compared(Spread(2.0, 0.1), Spread(1.0, 0.0))["state"] == ""
