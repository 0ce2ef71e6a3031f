"""LiDAR: how many directions tell samples apart and not the views of one sample."""

import logging

import pytest
import torch

from core.configuring.config import ConfigError, load
from core.running.monitoring.lidar import lidar
from tests.core.running.test_trainer import run_it


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def views(num_directions, *, spread=1.0, noise=1e-3, width=16, num=60, each=4):
    """Samples that differ in some of their features, and views that differ in all."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.zeros(num, width)
    samples[:, :num_directions] = spread * torch.randn(num, num_directions, generator=generator)
    return samples[:, None] + noise * torch.randn(num, each, width, generator=generator)


@pytest.mark.parametrize("num_directions", [2, 5, 10])
def test_it_counts_the_directions_in_which_samples_differ(num_directions):
    assert num_directions * 0.85 < lidar(views(num_directions, spread=10.0)) <= num_directions + 0.1


def test_a_direction_in_which_views_of_a_sample_differ_as_much_does_not_count():
    embeddings = views(4, spread=10.0)
    noisy = embeddings + 10 * torch.eye(16)[3] * torch.randn(60, 4, 1, generator=torch.Generator().manual_seed(1))
    assert 2.5 < lidar(noisy) < 3.2 < lidar(embeddings)


def test_it_does_not_depend_on_a_rotation_or_on_the_mean():
    embeddings = views(5)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2))).Q
    assert lidar(embeddings @ basis + 7) == pytest.approx(lidar(embeddings), rel=1e-4)


def test_embeddings_that_are_all_alike_have_one():
    assert lidar(torch.ones(20, 4, 8)) == pytest.approx(1.0, abs=1e-3)
    assert lidar(torch.zeros(20, 4, 8)) == pytest.approx(1.0, abs=1e-3)


def test_wide_embeddings_give_what_their_own_directions_give():
    narrow = views(5, num=10, each=2)
    wide = torch.cat([narrow, torch.zeros(10, 2, 200)], dim=2)
    assert lidar(wide) == pytest.approx(lidar(narrow), rel=1e-6)


@pytest.mark.parametrize("method", ["ijepa", "vicreg", "vjepa"])
def test_it_is_logged_along_runs_that_compare_views_at_a_quarter_of_the_looks(cache, tmp_path, method):
    record = run_it(cache, tmp_path, f"method={method}", "evals=[]", "optim.steps=8", "runtime.also_monitor=[lidar]")
    told = {step: values["monitor/lidar"] for step, values in record.points.items() if "monitor/lidar" in values}
    assert list(told) == [4, 8]
    assert all(1 <= value < 96 for value in told.values())


def test_a_run_that_compares_none_says_so_once_and_goes_on(cache, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        record = run_it(cache, tmp_path, "method=mae", "evals=[]", "runtime.also_monitor=[lidar]", "optim.steps=8")
    assert caplog.text.count("no lidar, the objective compares no views of a sample") == 1
    assert record.outcome == "done"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("[lidr]", r"runtime.also_monitor must be a list of lidar, probe, got 'lidr' \(did you mean lidar\?\)"),
        ("lidar", "must be a list"),
    ],
)
def test_a_monitor_that_is_none_is_named(word, told):
    with pytest.raises(ConfigError, match=told):
        load(["scale=smoke", f"runtime.also_monitor={word}"])
