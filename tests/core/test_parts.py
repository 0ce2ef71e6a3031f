"""Steps that take less memory: a batch in parts, and blocks that are computed again, have the numbers of the others."""

from __future__ import annotations

import pytest
import torch

from core.configuring.config import ConfigError, load
from core.configuring.fitting import load_split
from core.models.blocks import Blocks
from core.optim import make_optimizer
from core.running.building import build_learner
from core.running.ranks.distributed import World
from core.running.stepping import Batches, make_stepper

CPU = torch.device("cpu")
BLOCKS_AGAIN = "runtime.checkpoint_blocks=true"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def stepper_of(cache, *overrides, precision=None):
    run = load(["scale=smoke", "optim.batch_size=8", *overrides, f"runtime.cache={cache}"])
    train_set = load_split(run, "train")
    learner = build_learner(run, train_set.spec)
    batches = Batches(run, train_set, train_set if run.objective.num_pairs() else None, 0, World())
    optimizer = make_optimizer(learner, run.optim)
    stepper = make_stepper(run, train_set.spec, learner, learner, optimizer, precision, CPU, World(), batches.pair_size)
    return stepper, batches


def losses_and_gradients(cache, *overrides, precision=None):
    """Of the first step."""
    stepper, batches = stepper_of(cache, *overrides, precision=precision)
    losses = stepper.gradients(1, stepper.inputs(1, *batches.at(1)))
    gradients = {name: p.grad for name, p in stepper.learner.named_parameters() if p.grad is not None}
    return {name: float(value) for name, value in losses.items()}, gradients


def assert_same(some, others, rtol=1e-4):
    (losses, gradients), (same_losses, same_gradients) = some, others
    assert losses == pytest.approx(same_losses, rel=rtol)
    assert gradients.keys() == same_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, same_gradients[name], rtol=rtol, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "words",
    [
        "mae",
        "ijepa",
        "vjepa encoder.drop_path=0.5",
        "mae_st predictor.dense_encoder=true",
        "ijepa mask.ragged=truncate",
        "supervised encoder.drop_path=0.5",
        "supervised encoder=convnext encoder.widths=[8,16] encoder.depths=[1,1] encoder.levels=2 encoder.drop_path=0.5",
    ],
)
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole(cache, words):
    method, *overrides = words.split()
    words = [f"method={method}", *overrides]
    assert_same(losses_and_gradients(cache, *words, "runtime.accumulate=4"), losses_and_gradients(cache, *words))


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("words", ["mae", "ijepa", "vjepa encoder.drop_path=0.5", "vjepa encoder.position=rope"])
def test_blocks_that_are_computed_again_have_the_losses_and_gradients_of_those_that_are_not(cache, words, precision):
    method, *overrides = words.split()
    words = [f"method={method}", *overrides]
    plain = losses_and_gradients(cache, *words, precision=precision)
    assert_same(losses_and_gradients(cache, *words, BLOCKS_AGAIN, precision=precision), plain)


def test_only_the_inputs_of_blocks_are_kept_for_the_backward_pass():
    blocks = Blocks(32, 6, 2)
    for parameter in blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))

    def kept(checkpointed):
        blocks.checkpointed, sizes = checkpointed, {}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            blocks(torch.ones(16, 16, 32, requires_grad=True))
        return sum(sizes.values())

    assert kept(True) < kept(False) / 4


def test_operations_are_those_of_the_whole_batch(cache):
    (stepper, batches), (parts, _) = (stepper_of(cache, "method=mae", f"runtime.accumulate={n}") for n in (1, 4))
    assert parts.flops(1, *batches.at(1)) == pytest.approx(stepper.flops(1, *batches.at(1)))


RESNET = ["encoder=resnet", "encoder.widths=[8,16]", "encoder.depths=[1,1]", "encoder.levels=2"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=vicreg"], r"runtime\.accumulate=4: objective=vicreg has variance, covariance and batch norm of all"),
        (["method=m_jepa"], r"runtime\.accumulate=4: objective=flow has variance, covariance and means"),
        (["method=mc_jepa"], r"runtime\.accumulate=4: objective=motion_content has variance"),
        (["method=supervised", *RESNET], r"runtime\.accumulate=4: encoder=resnet has batch norm of all samples"),
        (["method=ijepa", "target.norm=batch"], r"runtime\.accumulate=4: target=ema has norm=batch of all samples"),
        (["method=ijepa", "mask.ragged=pad"], r"runtime\.accumulate=4: mask\.ragged=pad averages"),
        (["method=mae", "optim.batch_size=6"], r"runtime\.accumulate must divide optim\.batch_size, got 4 and 6"),
    ],
)
def test_what_is_over_the_whole_batch_is_not_taken_in_parts(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(["scale=smoke", *overrides, "runtime.accumulate=4"])


def test_parts_must_share_out_what_a_process_has(cache):
    run = load(["scale=smoke", "method=mae", "optim.batch_size=8", "runtime.accumulate=4", f"runtime.cache={cache}"])
    learner = build_learner(run, run.data.spec())
    optimizer = make_optimizer(learner, run.optim)
    with pytest.raises(ConfigError, match=r"runtime\.accumulate must divide a process's share .* got 4 and 2 of 8"):
        make_stepper(run, run.data.spec(), learner, learner, optimizer, None, CPU, World(0, 4), None)


def test_an_encoder_without_transformer_blocks_has_none_to_compute_again():
    with pytest.raises(ConfigError, match=r"runtime\.checkpoint_blocks=true: encoder=convnext has no transformer"):
        load(["scale=smoke", "method=m_jepa", BLOCKS_AGAIN])


def test_how_little_memory_a_step_takes_is_not_what_an_experiment_is():
    from core.configuring.config import flatten, identity

    plain, small = load(["scale=smoke"]), load(["scale=smoke", "runtime.accumulate=2", BLOCKS_AGAIN])
    assert identity(flatten(plain)) == identity(flatten(small))
