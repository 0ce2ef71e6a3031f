"""MC-JEPA: what each step minimises, and that both tasks reach the encoder they share."""

import pytest
import torch

from core.configuring.config import load
from core.objectives.motion_content import Lesson, MotionContent, Order
from core.optim import Optim, learning_rate, make_adamw
from core.running.building import build_learner
from core.types import generator_for
from tests.core.running.test_trainer import final_weights, run_it


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def learner_at(step, *overrides, num_steps=10):
    run = load(["method=mc_jepa", "scale=smoke", *overrides])
    learner = build_learner(run, run.data.spec())
    clips = torch.randn(8, 3, run.data.frames, 32, 32, generator=generator_for(1))
    learner.seed_step(lambda purpose: generator_for(0, purpose), step, num_steps, clips)
    pairs = torch.randn(4, 3, 2, 32, 32, generator=generator_for(2))
    return learner, learner(clips, {}, [], pairs)


def reached(learner, losses):
    losses["loss"].backward()
    names = [name for name, p in learner.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("combined", [Lesson.content] * 2 + [Lesson.both] * 8),
        ("batches", [Lesson.content] * 3 + [Lesson.motion] + [Lesson.content, Lesson.motion] * 3),
        ("epochs", [Lesson.content] * 2 + ([Lesson.motion] * 2 + [Lesson.content] * 2) * 2),
        ("finetune", [Lesson.content] * 2 + [Lesson.motion] * 8),
        ("frozen", [Lesson.content] * 2 + [Lesson.motion_on_frozen] * 8),
    ],
)
def test_each_order_minimises_its_losses_from_the_start_of_flow_on(order, expected):
    options = MotionContent(order=Order[order], flow_start=0.2, epoch_share=0.2)
    assert [options.lesson(step, 10) for step in range(1, 11)] == expected


def test_variance_and_covariance_warm_up_before_anything_else():
    options = MotionContent(var_cov_warmup=0.1, flow_start=0.2)
    assert [options.lesson(step, 10) for step in (1, 2, 3)] == [Lesson.regularity, Lesson.content, Lesson.both]


def test_flow_from_the_first_step_leaves_out_no_step():
    assert [MotionContent(flow_start=0.0).lesson(step, 5) for step in range(1, 6)] == [Lesson.both] * 5


@pytest.mark.parametrize("order", [Order.frozen, Order.finetune])
@pytest.mark.parametrize("num_steps, flow_start", [(900, 0.5), (30, 0.1), (7, 0.3)])
def test_content_that_is_finished_first_has_the_rates_of_a_run_of_its_own(order, num_steps, flow_start):
    options = MotionContent(order=order, flow_start=flow_start, restart=True)
    lessons = [options.lesson(step, num_steps) for step in range(1, num_steps + 1)]
    num_content = sum(lesson in (Lesson.regularity, Lesson.content) for lesson in lessons)
    rates = []
    for step in range(1, num_steps + 1):
        at, of = options.scheduled(step, num_steps)
        rates.append(learning_rate(Optim(steps=of), at))
    for phase, length in ((rates[:num_content], num_content), (rates[num_content:], num_steps - num_content)):
        assert phase == [learning_rate(Optim(steps=length), step) for step in range(1, length + 1)]


def test_the_rates_of_a_run_begin_again_where_its_flow_starts(cache, tmp_path):
    frozen = ["objective.order=frozen", "objective.flow_start=0.5", "objective.restart=true", "optim.steps=8"]
    record = run_it(cache, tmp_path / "twice", "method=mc_jepa", *frozen)
    rates = [record.points[step]["lr"] for step in range(1, 9)]
    assert rates[:4] == rates[4:] and len(set(rates[:4])) > 1


@pytest.mark.parametrize(
    ("overrides", "step", "parts"),
    [
        (["objective.flow_start=0.5"], 5, {"encoder", "content"}),
        (["objective.flow_start=0.5"], 6, {"encoder", "content", "task"}),
        (["objective.order=batches", "objective.flow_start=0.0"], 2, {"encoder", "task"}),
        (["objective.order=frozen", "objective.flow_start=0.1"], 2, {"task"}),
        (["objective.order=finetune", "objective.flow_start=0.1"], 2, {"encoder", "task"}),
        (["objective.var_cov_warmup=0.1"], 1, {"encoder"}),
    ],
)
def test_a_step_reaches_what_its_lesson_teaches(overrides, step, parts):
    assert reached(*learner_at(step, *overrides)) == parts


def test_the_loss_is_the_content_loss_and_the_balanced_flow_loss_and_the_regularisation():
    _, losses = learner_at(10, "objective.balance=0.3", "objective.flow_start=0.0")
    expected = losses["content_loss"] + 0.3 * losses["flow"] + losses["var_cov"]
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_balance_the_estimator_learns_nothing():
    learner, losses = learner_at(10, "objective.balance=0.0", "objective.flow_start=0.0")
    assert reached(learner, losses) == {"encoder", "content"}


def test_encoder_and_estimator_have_learning_rates_and_weight_decays_of_their_own():
    learner, _ = learner_at(10, "objective.flow_lr_scale=0.25", "objective.flow_weight_decay=0.5")
    run = load(["method=mc_jepa", "scale=smoke"])
    groups = make_adamw(learner, run.optim).param_groups
    scales = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert {scales[id(p)] for p in learner.task.parameters() if p.ndim > 1} == {(0.25, 0.5)}
    assert {scales[id(p)][0] for p in learner.encoder.parameters()} == {1.0}


@pytest.mark.parametrize("order", ["combined", "frozen"])
def test_a_run_on_two_data_sets_that_was_interrupted_equals_one_that_was_not(cache, tmp_path, order):
    overrides = ["method=mc_jepa", f"objective.order={order}", "objective.flow_start=0.4", "objective.flow_batch=4"]
    overrides += ["flow_data=moving_digits", "flow_data.size=16", "flow_data.frames=3", "flow_data.num_train=12"]
    whole = run_it(cache, tmp_path / "whole", *overrides)
    first = run_it(cache, tmp_path / "parts", *overrides, stop_after=3)
    second = run_it(cache, tmp_path / "parts", *overrides)
    assert (whole.outcome, first.outcome, second.outcome) == ("done", "preempted", "done")
    assert first.points | second.points == whole.points
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole")


def test_an_encoder_that_is_frozen_for_flow_ends_as_content_left_it(cache, tmp_path):
    overrides = ["method=mc_jepa", "objective.order=frozen", "objective.flow_start=0.5", "runtime.checkpoint_every=3"]
    run_it(cache, tmp_path, *overrides)
    half, end = (torch.load(tmp_path / f"step-00000000{step}.pt", weights_only=True)["learner"] for step in (3, 6))
    encoder = [name for name in end if name.startswith("encoder.")]
    assert encoder and all(torch.equal(half[name], end[name]) for name in encoder)
    assert any(not torch.equal(half[name], end[name]) for name in end if name.startswith("task."))


def test_flow_on_frozen_features_leaves_batch_norm_as_content_left_it():
    resnet = ["encoder=resnet", "encoder.widths=[8,16]", "encoder.depths=[1,1]", "encoder.levels=3"]
    for order, stays in (("frozen", True), ("finetune", False)):
        learner, _ = learner_at(2, f"objective.order={order}", "objective.flow_start=0.1", *resnet)
        seen = [int(value) for name, value in learner.encoder.named_buffers() if name.endswith("num_batches_tracked")]
        assert seen and (set(seen) == {0}) == stays
        learner.after_step(2, 10)
        assert learner.encoder.training


def test_an_exploding_run_ends_as_diverged_with_its_step(cache, tmp_path):
    record = run_it(cache, tmp_path, "method=mc_jepa", "objective.balance=1e9", "objective.flow_start=0.5")
    assert (record.outcome, record.facts["step"]) == ("diverged", 4)


def test_scale_paper_has_the_coefficients_of_tables_6_and_8():
    here = [
        "data=moving_digits",
        "data.size=224",
        "flow_data=moving_digits",
        "flow_data.size=384",
        "flow_data.frames=2",
    ]
    run = load(["method=mc_jepa", "scale=paper", *here])
    options, optim = run.objective, run.optim
    assert (options.std_coeff, options.cov_coeff, options.sim_coeff, options.expander) == (25, 1, 1, [8192] * 3)
    assert options.var_coeffs == [0.01, 0.01, 0.01, 0.01, 0.001, 0.0001]
    assert options.cov_coeffs == [0.04, 0.04, 0.001, 0, 0, 0] and options.flow_coeffs == [1, 1, 1, 1, 0.1, 0.01]
    assert (options.balance, options.cycle_coeff, options.flow_clip, options.smooth_edge) == (0.1, 0.2, 128, 75)
    assert (options.flow_batch, options.flow_start, options.flow_weight_decay) == (8, 0.1, 1e-6)
    assert optim.lr_peak * options.flow_lr_scale == pytest.approx(1e-4, rel=1e-6)
    assert (optim.batch_size, optim.lr_peak, optim.lr_end, optim.weight_decay) == (384, 3e-4, 3e-8, 1e-6)
    assert (optim.beta1, optim.beta2, optim.warmup_share, run.encoder.drop_path) == (0.9, 0.999, 0.1, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": -0.1}, r"objective\.balance must be at least 0, got -0\.1"),
        ({"flow_start": 1.0}, r"objective\.flow_start must be in \[0, 1\), got 1\.0"),
        ({"epoch_share": 0.0}, r"objective\.epoch_share must be in \(0, 0\.5\]"),
        ({"order": Order.frozen, "flow_start": 0.0}, r"order=frozen learns content until flow starts"),
        ({"restart": True}, r"objective\.restart=true is for objective\.order=frozen or finetune, .*got combined"),
        ({"crop_min": 0.0}, r"objective\.crop_min must be in \(0"),
        ({"flow_batch": 0}, r"objective\.flow_batch must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        MotionContent(**options)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.batch_size=1"], r"optim\.batch_size must be at least 2 for objective=motion_content.*, got 1"),
        (["objective=vicreg", "optim.batch_size=1"], r"optim\.batch_size must be at least 2 for objective=vicreg"),
        (["encoder=vit"], r"flow is estimated from a pyramid of features, which this one has none of"),
        (["data.frames=1"], r"data\.frames must be at least 2"),
        (["flow_data=moving_digits", "flow_data.frames=1"], r"flow_data\.frames must be at least 2"),
        (["objective=vicreg", "flow_data=moving_digits"], r"objective=vicreg learns no flow; leave flow_data out"),
    ],
)
def test_a_run_without_pairs_or_pyramid_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        load(["method=mc_jepa", "scale=smoke", *overrides])
