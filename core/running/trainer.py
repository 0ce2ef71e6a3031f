"""Train and evaluate one run: the loop, under headings, without callbacks."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.configuring import plugins
from core.configuring.config import ConfigError, Run, check, flatten, identity
from core.configuring.fitting import choose_device, fingerprints, load_split, wrong_labels
from core.configuring.run import Judge, Runtime
from core.data.augment import normalise
from core.data.left_out import data_facts
from core.evals.frozen.features import FrozenFeatures
from core.masks.realised import expected
from core.measuring.cost import cost_metrics, encoding_flops
from core.measuring.kept_memory import keep_freed_memory
from core.measuring.phases import peak_memory
from core.optim import make_optimizer
from core.pictures.clips import pictures
from core.running import checkpoint
from core.running.building import build_learner, choose_precision, seen, start_from_weights, untrained_encoder
from core.running.checkpoint import CheckpointError
from core.running.judging import collapse, cost_metrics_of, evaluate, frozen_features, judged_sets, results_of, tune
from core.running.monitoring.best import Best
from core.running.monitoring.held_out import held_out_of
from core.running.monitoring.monitor import Monitor
from core.running.ranks.distributed import World, any_rank, same_on_all, take_from_main, wait, world, wrap
from core.running.stepping import Batches, Stepper, compile_step, make_stepper
from core.running.tracking import tracked
from core.running.tuning import Bench
from core.running.window import Window
from core.types import Batch, Dataset, DataSpec, Grid, Learner, Recorder, Stopped, generator_for

log = logging.getLogger(__name__)


def train(run: Run, record: Recorder) -> None:
    """Train `run` from its last checkpoint (or from nothing) to its end, evaluate it, and tell `record`.

    Calls ``record.finish`` exactly once, with outcome done, diverged, collapsed or preempted; anything that keeps the
    run from being built or trained raises instead. On CPU the numbers are bitwise the same however often it was
    interrupted.
    """
    with place_of(run) as (device, where), tracked(run, record, is_main=where.is_main) as told:
        train_in(run, told, device, where)


@contextmanager
def place_of(run: Run) -> Iterator[tuple[torch.device, World]]:
    """The device that `run` is trained on, made ready, and this process among those that share it."""
    device = choose_device(run.runtime.device)
    if device.type == "cpu":
        keep_freed_memory()
    if run.runtime.threads:
        torch.set_num_threads(run.runtime.threads)
    with world(device.type) as where:
        yield device, where


def train_in(run: Run, record: Recorder, device: torch.device, where: World) -> None:
    going = steps_of(run, record, device, where)
    wanted = next(going, None)
    while wanted is not None:
        row = wanted.stepper.step(wanted.step, wanted.batch, wanted.pairs)
        try:
            wanted = going.send(Taken(row))
        except StopIteration:
            return


class Wanted(NamedTuple):
    """A step that a run is to take next."""

    stepper: Stepper
    step: int
    batch: Batch
    pairs: Batch | None


class Taken(NamedTuple):
    """What a step logs; and the run's share of its seconds and processor seconds, where it took them with others."""

    row: dict[str, Tensor | float]
    share: tuple[float, float] | None = None


def steps_of(
    run: Run,
    record: Recorder,
    device: torch.device,
    where: World,
    load_split: Callable[..., Dataset] = load_split,
) -> Generator[Wanted, Taken, None]:
    """All of a run but its steps, which whoever iterates takes for it, alone or with those of other runs."""
    # ---- what to train, on what ------------------------------------------------------------------------------
    start = time.perf_counter()
    check(run)
    cache = Path(run.runtime.cache)
    if not where.is_main:
        wait(where)  # the main process fills the cache once
    train_set, test_set = load_split(run, "train"), load_split(run, "test")
    for split in (train_set, test_set):
        split.spec = seen(run, split.spec)
    splits = {"train": train_set, "test": test_set}
    pair_set = train_set if run.objective.num_pairs() else None
    if run.flow_data is not None:
        splits["flow"] = pair_set = load_split(run, "train", "flow_data")
    # The main process judges and the others encode; what cannot be judged on is better known before than after.
    judged_splits = judged_sets(run, train_set, test_set)
    if where.is_main:
        check_labels(run, *judged_splits)
    spec, config = train_set.spec, identity(flatten(run)) | {"seed": run.seed}
    data = fingerprints(run)
    record.saw(data)
    learner = build_learner(run, spec).to(device)
    if run.optim.steps:
        learner.prepare(lambda i: normalise(train_set.fetch(i).clips, spec), len(train_set), cache, run.seed)
    if where.is_main:
        wait(where)
    optimizer = make_optimizer(learner, run.optim)
    step, window, best = resume(record.folder, config, data, learner, optimizer)
    if not same_on_all(step, where):
        raise CheckpointError(
            f"runtime.dir={run.runtime.dir}: the processes found different checkpoints there (this one step {step}); "
            "give all of them one folder, on a disk that they share"
        )
    if step == 0:
        start_from_weights(run, learner, spec)
    precision = choose_precision(run.precision, device)
    model = wrap(learner, where, device)
    if run.runtime.compile:
        compile_step(model)
    batches = Batches(run, train_set, pair_set, step, where, device)
    stepper = make_stepper(run, spec, learner, model, optimizer, precision, device, where, batches.pair_size)
    held_out = held_out_of(run, judged_splits[0], spec, device, precision) if where.is_main else None
    monitor, monitored = Monitor(run, learner, train_set, spec, device, precision, held_out), 0.0
    window.skip()
    is_trained = step == run.optim.steps > 0  # by an earlier attempt, or by another run: others may judge it as well

    def features() -> FrozenFeatures:
        """Of the judged encoder as it is now."""
        return frozen_features(
            run, learner, *judged_splits, spec, device, precision, cached=is_trained, share=where.share
        )

    # ---- steps -------------------------------------------------------------------------------------------------
    for step, batch, pairs in batches:
        window.waited += window.tick()
        taken = yield Wanted(stepper, step, batch, pairs)
        window.rows.append((step, taken.row))
        window.tick() if taken.share is None else window.take(*taken.share)
        if where.is_main and monitor.looks_at(step):
            began = time.perf_counter()
            taken.row.update(seen_now := monitor.look(step))
            if monitor.chooses_at(step):
                best.consider(step, seen_now, learner)
            monitored += time.perf_counter() - began
            window.skip()
        collapsed = monitor.stops_at(step) and any_rank(where.is_main and monitor.should_end(step, taken.row), where)
        stopping = any_rank(record.should_stop(), where)
        ending = step == run.optim.steps
        saving = step % run.runtime.checkpoint_every == 0 or stopping or ending
        if step % run.runtime.log_every == 0 or saving or collapsed:
            window.average_over(where)
            if (broken := window.first_broken(learner.loss_limit)) is not None:
                return finish_diverged(record, out_of_bounds(window, broken), broken, window, splits, where)
            if where.is_main:
                window.flush(record, run.optim.batch_size)
            else:
                window.clear()
        if collapsed:
            return finish_collapsed(record, monitor.ending(step), step, window, splits) if where.is_main else None
        if ending and run.judge is Judge.best:
            best.restore(learner)  # before it is saved: whoever judges the run later judges these too
            take_from_main(learner, where)  # which alone has them, and the others encode for it
        if saving and where.is_main:
            save(record, step, config, data, spec, learner, optimizer, window, best, run.runtime)
        if stopping and not ending:
            if where.is_main:
                record.finish("preempted", {}, {"step": step, "train_seconds": window.spent} | data_facts(splits))
            return
        window.tick()
        if run.runtime.eval_every and step % run.runtime.eval_every == 0 and not ending:
            if where.is_main:
                record.log(step, results_of(evaluate(run, features())))
            else:
                features().help()
            wait(where)  # not in the next step's exchange of gradients, which gives up after minutes
            window.skip()

    # ---- end ---------------------------------------------------------------------------------------------------
    # On every rank: a target that is normalised over the whole batch talks to the others.
    flops = stepper.flops(run.optim.steps, *batches.at(run.optim.steps)) if run.optim.steps else None
    sets = dict(zip(("train", "test"), judged_splits, strict=True))
    bench = Bench(
        run, learner.judged_encoder, sets | {"pretrain": train_set}, record,
        built_for=spec, step=run.optim.steps, device=device, precision=precision, where=where,
    )  # fmt: skip
    if not where.is_main:
        features().help()
        return bench.help()
    trained, pretraining = time.perf_counter(), window.costs(device, where.size)
    judged_on = features()
    try:
        with bench:
            judgements = evaluate(run, judged_on)
            results = results_of(judgements) | mask_shares(run, learner.encoder.grid)
            record.log(run.optim.steps, results)
            tuned = tune(run, judged_on, bench)
        spread = against_untrained(run, learner, test_set, spec, device, precision)
    except Stopped as stopped:
        log.info("stopped while fine-tuning: %s", stopped)
        ended = {"step": run.optim.steps, "train_seconds": window.spent}
        return record.finish("preempted", {}, ended | data_facts(splits))
    except FloatingPointError as error:
        return finish_diverged(record, str(error), run.optim.steps, window, splits, where)
    if tuned:
        record.log(bench.steps_done, results_of(tuned))
    judgements |= tuned
    results |= results_of(tuned)
    results |= cost_metrics(
        num_steps=run.optim.steps,
        batch_size=run.optim.batch_size,
        repeats=run.augment.repeats,
        set_size=len(train_set),
        seconds=window.spent,
        waited=window.waited,
        flops=flops,
    )
    results |= pretraining.metrics("pretrain")
    results |= {
        "cost/pretrain_gflop": run.optim.steps * flops.total / 1e9 if flops else 0.0,
        "cost/encoder_parameters": float(num_parameters(learner.encoder)),
        "cost/trained_parameters": float(num_parameters(learner, trained_only=True)),
    }
    results |= cost_metrics_of(judgements, judged_on, encoding_flops(learner.judged_encoder, spec))
    evaluated = time.perf_counter()
    shown = [sets["test"], test_set, *([pair_set] if pair_set is not None else [])]
    for name, content in pictures(run, learner, test_set, device, precision, shown, judged_on).items():
        record.keep(name, "picture", content)
    facts = costs(learner, device, precision) | {
        "train_seconds": window.spent,
        "data_seconds": window.waited,
        "monitor_seconds": monitored,
        "eval_seconds": evaluated - trained,
        "picture_seconds": time.perf_counter() - evaluated,
        "wall_seconds": time.perf_counter() - start,
        "step": run.optim.steps,
    }
    record.finish("done", results, facts | spread | best.facts() | data_facts(splits) | plugins.facts(run))


def against_untrained(
    run: Run, learner: Learner, test_set: Dataset, spec: DataSpec, device: torch.device, precision: torch.dtype | None
) -> dict[str, Any]:
    """{"collapse": how the features lie beside those of the encoder that training began with}; {} without training."""
    if not run.optim.steps:
        return {}
    untrained = untrained_encoder(run, spec, device)
    told = collapse(learner.judged_encoder, untrained, test_set, spec, device, precision)
    if told["said"]:
        log.info("%s", told["said"])
    return {"collapse": told}


def check_labels(run: Run, train_set: Dataset, test_set: Dataset) -> None:
    """Raises ConfigError, naming every evaluation that cannot judge on this data, before anything trains."""
    num_clips = train_set.spec.clips_per_video
    train, test = ({label: values[::num_clips] for label, values in s.labels().items()} for s in (train_set, test_set))
    wrong = wrong_labels(run, train, test, test_set.spec)
    for name, evaluation in sorted(run.evals.items()):
        try:
            evaluation.check_truth(train_set, test_set)
        except ValueError as error:
            wrong.append(f"evals={name}: {error}")
    if wrong:
        raise ConfigError("; ".join(wrong))


# ---- resuming, saving ----------------------------------------------------------------------------------------------


def resume(
    folder: Path,
    config: Mapping[str, Any],
    data: Mapping[str, str],
    learner: Learner,
    optimizer: torch.optim.Optimizer,
) -> tuple[int, Window, Best]:
    """Step of the newest checkpoint, where its time went and the best weights till then; step 0 without one."""
    state = checkpoint.load_latest(folder, config)
    if state is None:
        return 0, Window(0.0, 0.0, 0.0), Best()
    checkpoint.refuse_other_data(folder, state.get("data", {}), data, only_judging=checkpoint.judging(config))
    learner.load_state_dict(state["learner"])
    optimizer.load_state_dict(checkpoint.copied(state["optimizer"]))
    log.info("resuming at step %d from %s", state["step"], folder)
    # A checkpoint of before processor time was counted leaves it unknown, not 0.
    cpu = float(state.get("cpu_seconds", math.nan))
    window = Window(float(state["seconds"]), float(state["waited"]), cpu)
    return int(state["step"]), window, Best(state.get("best"))


def save(
    record: Recorder,
    step: int,
    config: Mapping[str, Any],
    data: Mapping[str, str],
    spec: DataSpec,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    window: Window,
    best: Best,
    runtime: Runtime,
) -> None:
    state = {
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
        "seconds": window.spent,
        "waited": window.waited,
        "cpu_seconds": window.cpu,
        "data": dict(data),
        "spec": dataclasses.asdict(spec),  # what builds the encoder again when the files are gone
        "data_root": str(Path(runtime.data_root).expanduser().absolute()),  # to be told to who judges without it
    }
    if (chosen := best.state()) is not None:
        state["best"] = chosen
    record.checkpointed(step, checkpoint.save(record.folder, step, state, config, keep=runtime.keep_checkpoints))


# ---- the end -------------------------------------------------------------------------------------------------------


def out_of_bounds(window: Window, step: int) -> str:
    """What is wrong with the loss of a step that is still in the window."""
    values = dict(window.rows)[step]
    shown = ", ".join(f"{name} {float(values[name]):g}" for name in ("loss", "grad_norm") if name in values)
    return f"the loss or its gradient is out of bounds at step {step} ({shown})"


def finish_diverged(
    record: Recorder, why: str, step: int, window: Window, splits: Mapping[str, Dataset], where: World
) -> None:
    """A number that is not finite is an outcome: recorded with its step, never retried in a loop."""
    log.error("%s: the run has diverged", why)
    if where.is_main:
        ended = {"step": step, "train_seconds": window.spent, "why": why}
        record.finish("diverged", {}, ended | data_facts(splits))


def finish_collapsed(
    record: Recorder, told: Mapping[str, Any], step: int, window: Window, splits: Mapping[str, Dataset]
) -> None:
    """Features below the bound that the run's `stop` names: an outcome as divergence is."""
    log.error("%s", told["said"])
    facts = {"step": step, "train_seconds": window.spent, "collapse": dict(told)}
    record.finish("collapsed", {}, facts | data_facts(splits))


def mask_shares(run: Run, grid: Grid) -> dict[str, float]:
    """What share of the patches contexts and targets really cover, over batches such as the run's own."""
    if run.mask is None:
        return {}
    shares = expected(run.mask, grid, run.optim.batch_size, generator_for(run.seed, "realised"))
    return {f"mask/{name}": value for name, value in shares.items()}


def costs(learner: Learner, device: torch.device, precision: torch.dtype | None) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": "fp32" if precision is None else "bf16",
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory(),
        "encoder_parameters": num_parameters(learner.encoder),
        "trained_parameters": num_parameters(learner, trained_only=True),
    }


def num_parameters(module: nn.Module, *, trained_only: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)
