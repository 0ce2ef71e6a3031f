import math

import pytest
import torch
from timm.optim.lars import Lars
from torch import nn

from core.configuring.config import load
from core.optim import (
    Optim,
    clip_gradients,
    learning_rate,
    make_adamw,
    make_optimizer,
    set_schedule,
    weight_decay,
)
from core.types import Learner, Optimizer, Pace, generator_for


def test_the_learning_rate_warms_up_linearly_and_peaks_at_the_end_of_the_warm_up():
    optim = Optim(steps=100, warmup_share=0.1, lr_start=0.0, lr_peak=1.0)
    assert [learning_rate(optim, step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])


def test_the_learning_rate_ends_where_it_was_told_to():
    assert learning_rate(Optim(steps=100, lr_end=0.01), 100) == pytest.approx(0.01)


def test_the_learning_rate_is_half_way_in_the_middle_of_the_cosine():
    optim = Optim(steps=110, warmup_share=10 / 110, lr_peak=1.0, lr_end=0.0)
    assert learning_rate(optim, 60) == pytest.approx(0.5)


def test_a_horizon_of_one_and_a_quarter_stops_at_eighty_percent_of_the_cosine():
    optim = Optim(steps=100, warmup_share=0.0, lr_peak=1.0, lr_end=0.0, horizon=1.25)
    assert learning_rate(optim, 100) == pytest.approx(0.5 * (1 + math.cos(0.8 * math.pi)))


def test_weight_decay_is_constant_unless_an_end_is_given():
    assert weight_decay(Optim(steps=10, weight_decay=0.05), 7) == 0.05


def test_weight_decay_grows_along_a_cosine_to_its_end():
    optim = Optim(steps=100, weight_decay=0.04, weight_decay_end=0.4)
    assert weight_decay(optim, 50) == pytest.approx(0.22)
    assert weight_decay(optim, 100) == pytest.approx(0.4)


def test_biases_and_vectors_are_not_decayed_and_tokens_are():
    model = nn.Linear(3, 2)
    model.token = nn.Parameter(torch.zeros(1, 1, 3))
    decayed, exempt = make_adamw(model, Optim()).param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 3}
    assert [p.shape for p in exempt["params"]] == [model.bias.shape]


class TwoPaces(Learner):
    """An encoder and an estimator that learns more slowly."""

    def __init__(self):
        super().__init__()
        self.encoder, self.estimator = nn.Linear(3, 2), nn.Linear(3, 2)

    def paces(self):
        return {"estimator": Pace(lr_scale=0.5, weight_decay=0.1)}


def test_a_part_of_a_learner_has_its_own_learning_rate_and_weight_decay():
    learner, optim = TwoPaces(), Optim(steps=10, lr_peak=1.0, weight_decay=0.3, weight_decay_end=0.4)
    optimizer = make_adamw(learner, optim)
    rate = set_schedule(optimizer, optim, 5)["lr"]
    found = {id(p): (g["lr"] / rate, g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found[id(learner.encoder.weight)] == pytest.approx((1.0, weight_decay(optim, 5)))
    assert found[id(learner.estimator.weight)] == pytest.approx((0.5, 0.1))
    assert found[id(learner.encoder.bias)] == (1.0, 0.0) and found[id(learner.estimator.bias)] == (0.5, 0.0)


def test_the_schedule_leaves_exempt_parameters_undecayed():
    optimizer = make_adamw(nn.Linear(3, 2), Optim(weight_decay=0.3))
    set_schedule(optimizer, Optim(steps=10, weight_decay=0.3), 5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_clipping_waits_for_the_warm_up_to_end_when_told_so():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    optim = Optim(steps=10, warmup_share=0.5, clip=1.0, clip_after_warmup=True)
    for step, norm in ((5, 20.0), (6, 1.0)):
        model[0].weight.grad = torch.full((1, 4), 10.0)
        clip_gradients(model, optim, step)
        assert model[0].weight.grad.norm() == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize(("by_part", "norms"), [(True, [3.0, 0.5]), (False, [3.0 * 20 / 20.0062, 3.0 * 0.5 / 20.0062])])
def test_parts_are_clipped_each_by_itself_as_in_v_jepa_s_code_or_all_together(by_part, norms):
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False))
    for layer, each in zip(model, (10.0, 0.25), strict=True):
        layer.weight.grad = torch.full((1, 4), each)
    clip_gradients(model, Optim(steps=10, clip=3.0, clip_after_warmup=by_part), 6)
    assert [layer.weight.grad.norm().item() for layer in model] == pytest.approx(norms, rel=1e-4)


# ---- LARS ------------------------------------------------------------------------------------------------------------


def taught(seed):
    """A layer and a norm with gradients."""
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape, generator=generator_for(0, name))
        p.grad = torch.randn(p.shape, generator=generator_for(seed, name, "gradient"))
    return model


def test_lars_takes_the_steps_of_timm_s():
    optim = Optim(name=Optimizer.lars, steps=10, lr_peak=1.6, beta1=0.8, weight_decay=0.1)
    model, theirs = taught(1), taught(1)
    optimizer = make_optimizer(model, optim)
    matrix, *vectors = theirs.parameters()
    options = {"momentum": 0.8, "trust_coeff": 0.001}
    reference = [Lars([matrix], weight_decay=0.1, **options), torch.optim.SGD(vectors, momentum=0.8)]
    for step in (1, 2):
        rate = set_schedule(optimizer, optim, step)["lr"]
        for other in reference:
            other.param_groups[0]["lr"] = rate
            other.step()
        optimizer.step()
        for ours, wanted in zip(model.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours, wanted)
            ours.grad.mul_(2)
            wanted.grad.mul_(2)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_scales_a_step_to_its_weights_and_leaves_biases_and_norms_alone(decay):
    optim = Optim(name=Optimizer.lars, steps=10, warmup_share=0.0, lr_peak=1.0, weight_decay=decay)
    for size in (1.0, 100.0):  # of the gradients
        model = taught(1)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for p in model.parameters():
            p.grad.mul_(size)
        optimizer = make_optimizer(model, optim)
        rate = set_schedule(optimizer, optim, 1)["lr"]
        optimizer.step()
        for name, p in model.named_parameters():
            moved = before[name] - p.detach()
            if name == "0.weight":
                assert moved.norm() == pytest.approx(rate * 0.001 * before[name].norm().item(), rel=0.1)
            else:  # neither decayed nor scaled: plain SGD
                torch.testing.assert_close(moved, rate * p.grad, atol=1e-5, rtol=1e-4)


def test_vicreg_at_scale_paper_has_the_printed_recipe():
    optim = load(["method=vicreg", "scale=paper", "data=moving_digits", "data.size=224"]).optim
    assert (optim.name, optim.batch_size, optim.weight_decay, optim.beta1) == (Optimizer.lars, 2048, 1e-6, 0.9)
    assert optim.lr_peak == pytest.approx(0.2 * 2048 / 256)
    assert (optim.lr_start, optim.warmup_steps) == (0.0, optim.steps // 100)  # 10 epochs of 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, r"optim\.steps must be at least 0, got -1"),
        ({"batch_size": 0}, r"optim\.batch_size must be at least 1, got 0"),
        ({"lr_peak": 0.0}, r"optim\.lr_peak must be above 0"),
        ({"warmup_share": 1.0}, r"optim\.warmup_share must be in \[0, 1\)"),
        ({"horizon": 0.5}, r"optim\.horizon must be at least 1"),
        ({"weight_decay_end": -0.1}, r"optim\.weight_decay_end must be at least 0 or null"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Optim(**options)
