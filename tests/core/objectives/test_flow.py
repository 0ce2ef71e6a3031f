"""M-JEPA's objective: what it learns from pairs, what can be switched off, and what is refused."""

import pytest
import torch
from torch import Tensor

from core.configuring.config import ConfigError, load
from core.models.pwc import PWC
from core.objectives.flow import Flow, FlowLearner, Levels, VarCov
from core.objectives.flow_estimator import favoured
from core.types import DataSpec, Parts, generator_for

SPEC = DataSpec(channels=3, frames=2, height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
ONE = {"flow_coeffs": [1.0], "var_coeffs": [1.0], "cov_coeffs": [1.0]}
SMALL = {"estimator_factor": 0.25, "estimator_context": False} | ONE


def build(**options: object) -> FlowLearner:
    objective = Flow(**SMALL | options)
    encoder = PWC(widths=[8, 12, 16], levels=3)
    objective.check(encoder, SPEC, SPEC)
    learner = objective.build(Parts(encoder, None, None, None, None), SPEC, seed=0)
    assert isinstance(learner, FlowLearner)
    return learner


def texture(height: int = 32, width: int = 32) -> Tensor:
    """A smooth random picture in [0, 1], [3, H, W]."""
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator_for(0, "texture"))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


def shifted_pair(right: int, down: int) -> Tensor:
    """A window on a larger picture, and one after the picture moved: [1, 3, 2, 32, 32], normalised."""
    picture, edge = texture(48, 48), 8
    first = picture[:, edge:-edge, edge:-edge]
    second = picture[:, edge - down : 48 - edge - down, edge - right : 48 - edge - right]
    return ((torch.stack([first, second], dim=1) - 0.5) / 0.25)[None]


def losses(learner: FlowLearner, pairs: Tensor | None = None) -> dict[str, Tensor]:
    return learner(torch.zeros(0), {}, [], shifted_pair(2, 1) if pairs is None else pairs)


def test_two_frames_shifted_by_a_whole_number_of_pixels_give_that_shift():
    learner = build(var_cov=VarCov.none, cycle_coeff=0.0, regression_coeff=0.0, estimator_dense=False)
    pair = shifted_pair(3, -2)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-4)
    for _ in range(80):
        optimizer.zero_grad()
        losses(learner, pair)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        flow = learner.flow(pair)[0, :, 4:-4, 4:-4]
    error = (flow - torch.tensor([3.0, -2.0]).view(2, 1, 1)).norm(dim=0)
    assert error.mean() < 0.25, f"{error.mean():.2f} px on average, {error.max():.2f} at most"


def test_the_correlations_soft_maximum_is_the_displacement_of_the_only_match():
    volume = torch.zeros(1, 25, 3, 3)
    volume[:, 1 * 5 + 4] = 100.0  # 1 up and 2 to the right
    assert torch.allclose(favoured(volume, 2), torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3))
    assert favoured(torch.zeros(1, 25, 3, 3), 2).abs().max() < 1e-6


def test_before_training_nothing_moves():
    assert torch.equal(build().flow(shifted_pair(3, 1)), torch.zeros(1, 2, 32, 32))


def test_the_loss_is_the_weighted_sum_of_its_parts():
    learner = build(
        regression_coeff=2.0, reconstruction_coeff=3.0, smooth_coeff=4.0, cycle_coeff=5.0, flow_coeffs=[1.0, 2.0, 0.5]
    )
    torch.nn.init.normal_(learner.task.estimator.last.weight, std=0.01, generator=generator_for(0, "last"))
    parts = losses(learner)
    weighted = 2 * parts["regression"] + 3 * parts["reconstruction"] + 4 * parts["smoothness"] + 5 * parts["cycle"]
    torch.testing.assert_close(parts["flow"], weighted)
    torch.testing.assert_close(parts["loss"], parts["flow"] + parts["var_cov"])
    assert min(float(parts[name]) for name in ("regression", "reconstruction", "smoothness", "cycle", "var_cov")) > 0


@pytest.mark.parametrize("name", ["regression", "reconstruction", "smooth", "cycle"])
def test_a_coefficient_of_zero_switches_a_loss_off(name):
    parts = losses(build(**{f"{name}_coeff": 0.0}))
    assert {"smooth": "smoothness"}.get(name, name) not in parts


def test_variance_and_covariance_can_be_of_all_levels_the_last_or_none():
    amount = {kind: float(losses(build(var_cov=kind))["var_cov"]) for kind in VarCov}
    assert amount[VarCov.all] > amount[VarCov.last] > amount[VarCov.none] == 0


def test_levels_are_weighted_each_by_its_own_number():
    whole = losses(build(flow_coeffs=[1.0, 1.0, 1.0]))["regression"]
    each = [losses(build(flow_coeffs=[float(i == level) for i in range(3)]))["regression"] for level in range(3)]
    torch.testing.assert_close(sum(each), whole)
    assert len({float(value) for value in each}) == 3


def test_every_levels_flow_reconstructs_the_image_when_told_so():
    weights, only = [1.0, 2.0, 0.5], {"l1_coeff": 1.0, "ssim_coeff": 0.0}
    found = {
        levels: losses(build(reconstruction_levels=levels, flow_coeffs=weights, **only))["reconstruction"]
        for levels in Levels
    }
    # Nothing moves yet, so that each level compares the two frames at its own size.
    first, second = (shifted_pair(2, 1)[0] * 0.25 + 0.5).unbind(1)
    pooled = [torch.nn.functional.avg_pool2d(first - second, factor).abs().mean() for factor in (8, 4, 2)]
    torch.testing.assert_close(found[Levels.last], (first - second).abs().mean())
    expected = found[Levels.last] + sum(weight * gap for weight, gap in zip(weights, pooled, strict=True))
    torch.testing.assert_close(found[Levels.all], expected)


def test_a_pixel_that_leaves_the_frame_need_not_be_reconstructed_when_told_so():
    first, second = (shifted_pair(2, 1)[0] * 0.25 + 0.5).unbind(1)
    # Both flows are a quarter of a pixel to the right: they agree, but for the last column, which ends outside.
    gaps = []
    for near, far in ((first, second), (second, first)):
        beside = torch.cat([far[..., 1:], far[..., -1:]], dim=-1)
        gaps.append((near - 0.75 * far - 0.25 * beside).abs())
    gap = torch.stack(gaps)
    for only_visible, expected in ((False, gap.mean()), (True, gap[..., :-1].mean())):
        learner = build(reconstruction_visible=only_visible, l1_coeff=1.0, ssim_coeff=0.0)
        with torch.no_grad():  # doubled from level to level, added at each, doubled again for the frame: 2 + 4 + 8
            learner.task.estimator.last.bias[0] = 0.25 / 14
        torch.testing.assert_close(losses(learner)["reconstruction"], expected)


def test_where_the_two_flows_disagree_nothing_is_reconstructed_when_told_so():
    for only_visible in (False, True):
        learner = build(reconstruction_visible=only_visible)
        torch.nn.init.constant_(learner.task.estimator.last.bias, 0.5)  # both frames move 7 px the same way
        assert (losses(learner)["reconstruction"] == 0) == only_visible


def test_the_first_steps_warm_up_variance_and_covariance_alone():
    learner = build(var_cov_warmup=0.5)
    learner.seed_step(lambda purpose: generator_for(0, purpose), 2, 4, torch.empty(0))
    assert "flow" not in losses(learner)
    learner.seed_step(lambda purpose: generator_for(0, purpose), 3, 4, torch.empty(0))
    assert "flow" in losses(learner)


def test_every_parameter_of_the_estimator_and_the_encoder_learns():
    learner = build(estimator_context=True)
    for layer in (learner.task.estimator.last, learner.task.estimator.context_last):
        torch.nn.init.normal_(layer.weight, std=0.1, generator=generator_for(0, "last"))
    losses(learner)["loss"].backward()
    still = [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_flows_stay_inside_the_clip():
    learner = build(flow_clip=1.5)
    torch.nn.init.constant_(learner.task.estimator.last.bias, 100.0)
    assert learner.flow(shifted_pair(3, 1)).abs().max() <= 1.5


def test_l2_bounds_what_the_last_layer_sees():
    learner = build(estimator_l2=True)
    seen = []
    learner.task.estimator.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    learner.flow(shifted_pair(3, 1))
    torch.testing.assert_close(seen[0].norm(dim=1), torch.ones(1, 4, 4))


def test_without_norm_there_is_none():
    count = {norm: len(list(build(estimator_norm=norm).task.estimator.norms.parameters())) for norm in (True, False)}
    assert count[True] > count[False] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.frames=1"], "data.frames must be at least 2"),
        (["encoder=vit"], "encoder: flow is estimated from a pyramid"),
        (
            ["objective.flow_coeffs=[1,1]"],
            "objective.flow_coeffs must have one number for each of the pyramid's 3 levels",
        ),
        (["objective.var_coeffs=[]"], "objective.var_coeffs must be a list of numbers of at least 0"),
        (["objective.estimator_radius=0"], r"objective.estimator_radius must be in \[1, 16\], got 0"),
        (["objective.flow_clip=0"], "objective.flow_clip must be above 0, got 0"),
        (["objective.var_cov_warmup=1"], r"objective.var_cov_warmup must be in \[0, 1\), got 1"),
        (["objective.smooth_coeff=-1"], "objective.smooth_coeff must be at least 0, got -1"),
        (
            ["objective.reconstruction_levels=all", "data.size=16"],
            r"objective.reconstruction_levels=all compares windows of 3 px .*the lowest level is 2x2",
        ),
        (["data.size=36"], "encoder.levels: frames of 36x36 px cannot be halved 3 times"),
        (["encoder.levels=9"], r"encoder.levels must be in \[1, 4\]"),
    ],
)
def test_what_cannot_be_is_refused_before_training(settings, message):
    with pytest.raises(ConfigError, match=message):
        load(["method=m_jepa", "scale=smoke", *settings])
