"""VICReg's loss against numbers worked out by hand, and its pieces."""

import pytest
import torch

from core.configuring.config import load
from core.objectives.vicreg import EPS, Expander, Vicreg, vicreg_loss
from core.running.building import build_learner
from core.types import DataSpec, generator_for
from tests.core.running.test_trainer import run_it

ONES = {"sim_coeff": 1.0, "std_coeff": 1.0, "cov_coeff": 1.0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_the_loss_is_the_one_worked_out_by_hand():
    one = torch.tensor([[0.0, 0.0], [2.0, 1.0]])  # centred: (-1, -.5), (1, .5); variances 2 and .5, covariance 1
    other = torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # constant: no variance, no covariance
    parts = vicreg_loss(one, other, sim_coeff=25.0, std_coeff=25.0, cov_coeff=1.0)
    assert parts["invariance"] == pytest.approx((0 + 1 + 4 + 0) / 4)
    hinge_one = (0 + (1 - (0.5 + EPS) ** 0.5)) / 2
    hinge_other = 1 - EPS**0.5
    assert parts["variance"] == pytest.approx((hinge_one + hinge_other) / 2, rel=1e-5)
    assert parts["covariance"] == pytest.approx((1 + 1) / 2 + 0)  # both off-diagonal ones squared, over D = 2
    expected = 25 * 1.25 + 25 * (hinge_one + hinge_other) / 2 + 1
    assert parts["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_covariance_is_summed_over_the_views_and_the_variance_averaged():
    features = torch.randn(64, 5, generator=generator_for(0)) * 0.3
    two, none = vicreg_loss(features, features, **ONES), vicreg_loss(features, torch.zeros(64, 5), **ONES)
    assert two["covariance"] == pytest.approx(2 * none["covariance"].item(), rel=1e-5)
    assert none["variance"] == pytest.approx((two["variance"].item() + 1 - EPS**0.5) / 2, rel=1e-5)
    covariance = torch.cov(features.T)
    off_diagonal = covariance - covariance.diag().diag()
    assert two["covariance"] == pytest.approx(2 * off_diagonal.square().sum().item() / 5, rel=1e-4)


def test_adding_a_constant_to_the_features_changes_neither_variance_nor_covariance():
    features = torch.randn(32, 4, generator=generator_for(0))
    moved = vicreg_loss(features + 3, features + 3, **ONES)
    assert moved["loss"] == pytest.approx(vicreg_loss(features, features, **ONES)["loss"].item(), rel=1e-4)


def test_the_expander_s_last_layer_is_bare_and_all_of_it_comes_from_the_generator():
    torch.manual_seed(0)
    one, again = (Expander(6, [8, 8, 4], generator_for(1)) for _ in range(2))
    kinds = [type(layer).__name__ for layer in one]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert one[-1].bias is None and one[-1].weight.shape == (4, 8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_an_expander_of_one_layer_is_a_projection():
    assert [type(layer).__name__ for layer in Expander(6, [4], generator_for(1))] == ["Linear"]


def learner_of(*overrides):
    run = load(["method=vicreg", "scale=smoke", *overrides])
    spec = run.data.spec()
    learner = build_learner(run, spec)
    clips = torch.randn(8, 3, spec.frames, 32, 32, generator=generator_for(1))
    learner.seed_step(lambda purpose: generator_for(0, purpose), 1, 10, clips)
    return learner, clips


@pytest.mark.parametrize("frame", ["middle", "drawn", "all"])
def test_a_view_is_a_frame_of_the_clip_or_the_clip(frame):
    still = ["objective.crop_min=1.0", "objective.flip=false", "objective.jitter=0.0", "objective.grey=0.0"]
    still += ["objective.blur=[0.0]", "objective.solarize=[0.0]", f"objective.content_frame={frame}"]
    learner, clips = learner_of(*still, "data.frames=4")
    clips = clips * 0.1  # within what a pixel can be
    one, other = learner.content.views(clips, learner.content.draw(lambda purpose: generator_for(5), clips))
    assert torch.equal(one, other)
    if frame == "all":
        assert torch.allclose(one, clips, atol=1e-5)
    elif frame == "middle":
        assert torch.allclose(one, clips[:, :, 2:3], atol=1e-5)
    else:
        places = [(one[i] - clips[i]).abs().amax(dim=(0, 2, 3)).argmin().item() for i in range(8)]
        assert all(torch.allclose(one[i], clips[i, :, t : t + 1], atol=1e-5) for i, t in enumerate(places))
        assert len(set(places)) > 1


def test_a_step_reaches_encoder_and_expander():
    learner, clips = learner_of()
    learner(clips, {}, [])["loss"].backward()
    untouched = [name for name, p in learner.named_parameters() if p.requires_grad and p.grad is None]
    assert not untouched


def test_training_draws_the_views_of_a_picture_together(cache, tmp_path):
    record = run_it(cache, tmp_path, "method=vicreg", "optim.steps=30", "optim.lr_peak=0.003", "optim.batch_size=32")
    invariances = [record.points[step]["invariance"] for step in range(1, 31)]
    assert record.outcome == "done"
    assert {"loss", "invariance", "variance", "covariance"} <= set(record.points[1])
    assert record.points[30]["loss"] < record.points[1]["loss"]
    assert min(invariances) >= 0


def test_an_encoder_of_whole_clips_is_not_given_single_frames():
    with pytest.raises(
        ValueError, match=r"objective\.content_frame=middle: this encoder takes whole clips of 4 frames"
    ):
        load(["method=vicreg", "scale=smoke", "encoder=vit", "data.frames=4"])


def test_colours_need_three_channels():
    encoder = load(["scale=smoke"]).encoder
    with pytest.raises(ValueError, match=r"need 3 channels, the data has 1: set both to 0"):
        Vicreg().check(encoder, DataSpec(channels=1, frames=1, height=32, width=32), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sim_coeff": -1.0}, r"objective\.sim_coeff must be at least 0, got -1"),
        ({"expander": []}, r"objective\.expander must be widths of at least 2, got \[\]"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Vicreg(**options)
