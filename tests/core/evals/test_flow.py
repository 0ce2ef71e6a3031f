"""End-point errors by hand, frames of any size, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor, nn

from core.configuring.config import ConfigError, load
from core.data.augment import normalise
from core.data.moving_digits import MovingDigits
from core.evals.flow import Flow, Total
from core.evals.flow_frames import edges, estimated
from core.evals.frozen.features import FrozenFeatures
from core.evaluate import main as evaluate
from core.types import FlowTruth, Grid, Learner
from tests.core.evals.frozen.test_features import TinyEncoder
from tests.core.running.test_trainer import run_it


def truth_of(flow: Tensor, *, valid: Tensor | None = None, occluded: Tensor | None = None) -> FlowTruth:
    return FlowTruth(flow, torch.ones_like(flow[:, :, 0], dtype=torch.bool) if valid is None else valid, occluded)


def one_row(*vectors: tuple[float, float]) -> Tensor:
    """One pair of frames of one row of pixels: [1, 1, 2, 1, W]."""
    return torch.tensor(vectors).T.reshape(1, 1, 2, 1, len(vectors))


def means(flow: Tensor, truth: FlowTruth) -> dict[str, float]:
    total = Total()
    total.add(flow, truth)
    return total.means()


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_end_point_error_and_outliers_by_hand() -> None:
    truth = truth_of(
        one_row((3.0, 4.0), (0.0, 0.0), (100.0, 0.0), (6.0, 8.0)),
        occluded=torch.tensor([[[[False, True, False, True]]]]),
    )
    flow = one_row((0.0, 0.0), (3.0, 4.0), (104.0, 0.0), (6.0, 8.0))  # errors 5, 5, 4 and 0
    found = means(flow, truth)
    assert found["epe"] == pytest.approx(14 / 4)
    assert found["epe_noc"] == pytest.approx(9 / 2)
    assert found["epe_occ"] == pytest.approx(5 / 2)
    assert found["epe_zero"] == pytest.approx((5 + 0 + 100 + 10) / 4)
    assert found["f1"] == pytest.approx(50)  # 4 px of 100 is below 5 %


def test_an_error_of_exactly_3_px_is_no_outlier() -> None:
    assert means(one_row((3.0, 0.0), (3.1, 0.0)), truth_of(one_row((0.0, 0.0), (0.0, 0.0))))["f1"] == 50


def test_pixels_without_truth_do_not_count_whatever_stands_there() -> None:
    valid = torch.tensor([[[[True, False]]]])
    truth = truth_of(one_row((1.0, 0.0), (math.nan, 0.0)), valid=valid, occluded=~valid)
    assert means(one_row((1.0, 2.0), (0.0, 0.0)), truth) == {"epe": 2, "epe_noc": 2, "f1": 0, "epe_zero": 1}


def test_every_pixel_counts_alike_in_batches_of_any_length() -> None:
    total, whole = Total(), torch.tensor([0.0, 1.0, 5.0]).view(3, 1, 1, 1, 1).expand(3, 1, 2, 1, 1)
    for part in (whole[:1], whole[1:]):
        total.add(part, truth_of(torch.zeros_like(part)))
    assert total.means()["epe"] == pytest.approx(math.sqrt(2) * 6 / 3)


def test_occlusion_that_is_not_known_gives_no_numbers_of_it() -> None:
    assert set(means(one_row((0.0, 0.0)), truth_of(one_row((1.0, 0.0))))) == {"epe", "f1", "epe_zero"}


def test_flow_that_is_not_finite_is_a_diverged_run() -> None:
    with pytest.raises(FloatingPointError, match="flow of the test split is not finite"):
        Total().add(one_row((math.nan, 0.0)), truth_of(one_row((1.0, 0.0))))


def test_a_split_without_one_known_pixel_is_refused() -> None:
    truth = truth_of(one_row((1.0, 0.0)), valid=torch.zeros(1, 1, 1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"evals\.flow: the flow of no test pixel is known"):
        means(one_row((0.0, 0.0)), truth)


# ---- frames ----------------------------------------------------------------------------------------------------------


def centroids(pairs: Tensor) -> Tensor:
    """How far the brightness's centre moves, for every pixel: an estimator that any change of scale shows in."""
    assert pairs.shape[3] % 8 == 0 and pairs.shape[4] % 16 == 0
    y = torch.arange(pairs.shape[3]).view(-1, 1).float()
    x = torch.arange(pairs.shape[4]).float()
    mass = pairs.sum(1)  # [N, 2, H, W]
    total = mass.sum((2, 3))
    place = torch.stack([(mass * x).sum((2, 3)), (mass * y).sum((2, 3))], dim=1) / total[:, None]  # [N, 2 axes, 2]
    moved = place[..., 1] - place[..., 0]
    return moved[:, :, None, None].expand(-1, -1, *pairs.shape[3:])


def moving_square(height: int, width: int) -> Tensor:
    """Three frames of a square that moves by (6, -3), then by (0, 6)."""
    clip = torch.zeros(1, 1, 3, height, width)
    for frame, (x, y) in enumerate([(12, 12), (18, 9), (18, 15)]):
        clip[0, 0, frame, y : y + 6, x : x + 6] = 1
    return clip


@pytest.mark.parametrize("height, width", [(32, 48), (27, 35), (30, 48)])
@pytest.mark.parametrize("size", [None, (64, 96), (21, 48)])
def test_flow_is_in_pixels_of_the_frames_however_they_are_padded_and_resized(height, width, size) -> None:
    flow = estimated(centroids, moving_square(height, width), (8, 16), size)
    assert flow.shape == (1, 2, 2, height, width)
    assert flow[0, 0, :, 3, 5].tolist() == pytest.approx([6, -3], abs=0.15)
    assert flow[0, 1, :, 20, 30].tolist() == pytest.approx([0, 6], abs=0.15)


def test_frames_of_a_fitting_size_are_left_as_they_are() -> None:
    assert edges(64, 96, (32, 32)) == (0, 0, 0, 0)
    assert edges(436, 1024, (64, 64)) == (0, 0, 6, 6)


def test_padding_does_not_move_what_is_estimated() -> None:
    def place(pairs: Tensor) -> Tensor:
        """The first frame's brightness as a flow."""
        return pairs[:, :1, 0].expand(-1, 2, -1, -1)

    clips = torch.rand(2, 1, 2, 13, 21, generator=torch.Generator().manual_seed(0))
    assert torch.equal(estimated(place, clips, (8, 8), None)[:, 0, 0], clips[:, 0, 0])


# ---- a run -----------------------------------------------------------------------------------------------------------


class Standing(Learner):
    """Says that nothing moves, in evaluation mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def flow(self, pairs: Tensor) -> Tensor:
        assert not self.training and not self.drop.training
        return pairs.new_zeros(len(pairs), 2, *pairs.shape[3:])


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> FrozenFeatures:
    data = MovingDigits(frames=4, num_train=4, num_test=30)
    test = data.load("test", tmp_path_factory.mktemp("cache"))
    encoder = TinyEncoder()
    encoder.grid = Grid(4, 4, 4)
    return FrozenFeatures(
        encoder, test, test, prepare=normalise, device="cpu", batch_size=8, estimator=Standing().train()
    )


def test_an_estimate_of_no_motion_has_the_error_of_no_motion(standing) -> None:
    found = Flow().run(standing, seed=0)
    assert found["flow/epe"] == pytest.approx(found["flow/epe_zero"]) and found["flow/epe"] > 0.3
    assert list(found) == Flow().metrics(standing.spec)


def test_the_batch_size_does_not_matter(standing) -> None:
    assert Flow(batch_size=1).run(standing, seed=0) == pytest.approx(Flow().run(standing, seed=0))


def test_max_samples_takes_some_of_the_clips(standing) -> None:
    flows = standing.flows("test", max_samples=5, batch_size=6, size=None)
    assert [len(flow) for flow, _ in flows] == [2, 2, 1]


def test_an_estimator_goes_on_as_it_was(standing) -> None:
    Flow().run(standing, seed=0)
    assert standing._estimator.training and standing._estimator.drop.training


def test_metrics_of_occlusion_are_announced_where_it_is_known(standing) -> None:
    known, unknown = standing.spec, dataclasses.replace(standing.spec, has_occlusion=False)
    assert set(Flow().metrics(known)) - set(Flow().metrics(unknown)) == {"flow/epe_noc", "flow/epe_occ"}
    assert "flow/epe" in Flow().metrics(unknown)


def test_a_stored_run_is_judged_again_by_the_estimator_that_it_trained(tmp_path) -> None:
    record = run_it(tmp_path / "cache", tmp_path / "run", "method=m_jepa", "evals=[flow]")
    assert {name for name in record.results if name.startswith("flow/")} == set(
        Flow().metrics(MovingDigits(frames=2).spec())
    )
    words = ["evals=[flow]", f"runtime.dir={tmp_path / 'run'}", f"runtime.cache={tmp_path / 'cache'}", "as=again"]
    assert evaluate([*words, "evals.flow.batch_size=5"]) == 0
    (entry,) = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    assert entry["results"]["flow@again/epe"] == pytest.approx(record.results["flow/epe"], rel=1e-4)
    assert entry["results"]["flow@again/epe"] != pytest.approx(record.results["flow/epe_zero"], rel=1e-2)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_an_objective_that_gives_no_flow_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"evals=flow: objective=masked gives no flow; objectives that do: "):
        load(["method=mae", "data=moving_digits", "data.frames=4", "evals=[flow]"])


def test_data_whose_motion_is_not_known_is_refused() -> None:
    spec = MovingDigits(frames=1).spec()
    with pytest.raises(ValueError, match=r"evals\.flow needs data whose motion is known.*eval_data=moving_digits"):
        Flow().check(TinyEncoder(), spec, spec)


def test_data_of_other_channels_is_refused() -> None:
    spec = MovingDigits(frames=2).spec()
    with pytest.raises(ValueError, match=r"evals\.flow: the data has 3 channels, the encoder takes 1"):
        Flow().check(TinyEncoder(), dataclasses.replace(spec, channels=1, mean=(), std=()), spec)


@pytest.mark.parametrize("name, value", [("batch_size", 0), ("max_samples", 0), ("height", -8), ("width", 0)])
def test_numbers_below_1_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=rf"evals\.flow\.{name} must be at least 1"):
        Flow(**{name: value})


def test_one_side_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evals\.flow\.height and evals\.flow\.width must both be given"):
        Flow(height=64)
