"""torch.compile takes a method's whole loss as one graph, and takes it once for all steps."""

from __future__ import annotations

import pytest
import torch

from core.configuring.config import load
from core.configuring.fitting import load_split
from core.models.convnext import ConvNeXt
from core.models.vit import ViT
from core.optim import make_optimizer
from core.running.building import build_learner
from core.running.ranks.distributed import World
from core.running.stepping import Batches, make_stepper

SMALL = ["scale=smoke", "optim.batch_size=4", "data.num_train=16", "data.num_test=8"]
# A block more, or a level of features, is traced as the one before it: half of the time, which tracing takes.
ONE_OF_EACH = {ViT: ["encoder.depth=1"], ConvNeXt: ["encoder.levels=2"]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def losses_and_graphs(cache, *overrides, steps, compiled=True):
    """The loss of each step, and how many graphs were made; a break in one is an error."""
    overrides = [*SMALL, *overrides, *ONE_OF_EACH[type(load([*SMALL, *overrides]).encoder)]]
    run = load([*overrides, f"runtime.cache={cache}", f"runtime.compile={str(compiled).lower()}"])
    train_set = load_split(run, "train")
    learner = build_learner(run, train_set.spec)
    learner.prepare(lambda i: train_set.fetch(i).clips.float(), len(train_set), cache, run.seed)
    graphs = []

    def note(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    if compiled:
        learner.compile(backend=note, fullgraph=True)
    batches = Batches(run, train_set, train_set if run.objective.num_pairs() else None, 0, World())
    optimizer, device = make_optimizer(learner, run.optim), torch.device("cpu")
    stepper = make_stepper(run, train_set.spec, learner, learner, optimizer, None, device, World(), batches.pair_size)
    return [float(stepper.step(step, *batches.at(step))["loss"]) for step in steps], len(graphs)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr("core.models.fast.cpu_block.fits", lambda *_: False)


METHODS = ["mae", "mae_st", "ijepa", "vjepa", "supervised", "vicreg", "m_jepa", "mc_jepa objective.flow_start=0.0"]
OPTIONS = [
    "supervised encoder.drop_path=0.5",
    "vjepa encoder.drop_path=0.5",
    "mae_st predictor.dense_encoder=true encoder.drop_path=0.5",
    "m_jepa encoder.drop_path=0.5",
    "mc_jepa objective.flow_start=0.0 encoder.drop_path=0.5",
    "vicreg objective.content_frame=drawn data.frames=4",
    "mae mask=multiblock",
    "ijepa target.norm=batch target.mask=input",
    "ijepa mask.ragged=truncate",
    "vjepa runtime.checkpoint_blocks=true encoder.drop_path=0.5",
    "ijepa runtime.accumulate=2",
    "vjepa encoder.position=rope",
]


@pytest.mark.parametrize("words", [*METHODS, *OPTIONS])
def test_a_loss_is_one_graph_for_all_steps_and_has_the_numbers_of_none(cache, as_on_a_gpu, words):
    method, *overrides = words.split()
    words, steps = [f"method={method}", *overrides], [1, 2, 8]  # I-JEPA's targets have another length at step 8
    plain, _ = losses_and_graphs(cache, *words, steps=steps, compiled=False)
    same, graphs = losses_and_graphs(cache, *words, steps=steps)
    assert same == plain
    assert graphs == 1
