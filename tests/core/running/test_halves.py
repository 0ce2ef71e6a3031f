import pytest
import torch

from core.configuring.config import load
from core.configuring.fitting import load_split
from core.optim import make_optimizer
from core.running.building import build_learner
from core.running.halves import Halves
from core.running.ranks.distributed import World
from core.running.stepping import Batches, Stepper, autocast

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def loss_and_gradients(cache, method, *, halves, device=CPU):
    run = load([f"method={method}", "scale=smoke", f"runtime.cache={cache}"])
    train_set = load_split(run, "train")
    learner = build_learner(run, train_set.spec).to(device)
    forward = Halves(learner, torch.bfloat16) if halves else learner
    batches = Batches(run, train_set, train_set if run.objective.num_pairs() else None, 0, World())
    size = batches.pair_size
    stepper = Stepper(
        run, train_set.spec, learner, learner, make_optimizer(learner, run.optim), None, device, World(), size
    )
    inputs = stepper.inputs(1, *batches.at(1))
    stepper.seed(1, inputs)
    with autocast(device, torch.bfloat16):
        losses = forward(*inputs)
    losses["loss"].backward()
    return losses["loss"].item(), {name: p.grad for name, p in learner.named_parameters()}


@pytest.mark.parametrize("method", ["mae", "ijepa", "supervised", "vicreg", "m_jepa"])
def test_weights_cast_at_once_give_the_numbers_of_autocast(cache, monkeypatch, method):
    monkeypatch.setattr(
        "core.models.fast.cpu_block.fits", lambda *_: False
    )  # as on a GPU: this CPU's layers are others
    loss, gradients = loss_and_gradients(cache, method, halves=True)
    same_loss, same_gradients = loss_and_gradients(cache, method, halves=False)
    assert loss == same_loss
    for name, gradient in gradients.items():
        if gradient is None:
            assert same_gradients[name] is None
        else:
            assert gradient.dtype is torch.float32
            torch.testing.assert_close(gradient, same_gradients[name], msg=name)
