"""Several runs of one shape as one program: parameters [S, ...], products batched over the S runs.

A step of a small model is hundreds of short launches; S runs issue as many together as one does alone. Each run keeps
its own draws, schedules, moving average and optimiser state: it is what it would be alone, to rounding. Its learner and
its optimiser hold views of the stacked tensors, so that whoever reads, saves or judges them need not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adamw import adamw

from core.configuring.config import ConfigError, Run, flatten, identity, name_of
from core.configuring.fitting import choose_device, spec_of
from core.data.augment import augment, changed, draw
from core.models.decoder import Decoder
from core.objectives.masked import MaskedPrediction
from core.optim import set_schedule
from core.running.stepping import Stepper, autocast, draw_views, of_rows
from core.targets.ema import MovingAverage, ema_decay
from core.types import Batch, Grid, Optimizer, View, generator_for, moved

CPU = torch.device("cpu")
# What may differ between the runs of a stack: values that no tensor's shape depends on, and how weights are judged.
VALUES = {
    *(
        f"optim.{name}"
        for name in ("lr_peak", "lr_start", "lr_end", "warmup_share", "weight_decay", "weight_decay_end")
    ),
    *(f"optim.{name}" for name in ("beta1", "beta2", "eps", "clip", "horizon", "steps")),
    *(f"target.{name}" for name in ("decay_start", "decay_end", "shape", "horizon")),
    "seed",
}
VALUE_GROUPS = ("augment", "evals", "eval_data", "stop", "runtime")
CPU_SIZE = 8  # at batch 16 MAE-ST takes 0.6 of the CPU seconds a run, I-JEPA 0.7; with more the caches are too small
MOST_AUTO = 32  # on a GPU
NUM_DRAWN = 4  # steps whose masks are drawn to see whether they cover the grid


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of one stack have in common, of a flat config."""
    return {
        key: value
        for key, value in config.items()
        if key not in VALUES and (key == "augment.repeats" or key.split(".")[0] not in VALUE_GROUPS)
    }


def refuse_alone(runs: Sequence[Run]) -> None:
    """Raises ConfigError naming what keeps `runs` from being trained as one stack."""
    for run in runs:
        if (reason := why_alone(run)) is not None:
            raise ConfigError(f"stack={len(runs)}: {reason}; runs like it are trained alone (stack=1)")
    first, *others = [shape_of(identity(flatten(run))) for run in runs]
    for other in others:
        if differing := sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key)):
            key = differing[0]
            raise ConfigError(
                f"stack={len(runs)}: its runs have {key}={first.get(key)} and {key}={other.get(key)}; the runs of a "
                "stack differ in their seeds and in values that change no tensor's shape, such as optim.lr_peak"
            )


def why_alone(run: Run) -> str | None:
    """The option that keeps `run` from being one of a stack, and what would do; None where nothing does."""
    if not isinstance(run.objective, MaskedPrediction):
        return f"objective={name_of('objective', run.objective)} cannot be stacked, objective=masked can"
    if run.optim.name is not Optimizer.adamw:
        return f"optim.name={run.optim.name.value} cannot be stacked, optim.name=adamw can"
    if getattr(run.encoder, "drop_path", 0.0) > 0:
        return f"encoder.drop_path={run.encoder.drop_path} cannot be stacked, encoder.drop_path=0 can"
    if name_of("encoder", run.encoder) != "vit":
        return f"encoder={name_of('encoder', run.encoder)} cannot be stacked, encoder=vit can"
    if run.runtime.compile:
        return "runtime.compile=true cannot be stacked, runtime.compile=false can"
    if run.runtime.accumulate > 1:
        return f"runtime.accumulate={run.runtime.accumulate} cannot be stacked, runtime.accumulate=1 can"
    if run.runtime.checkpoint_blocks:
        return "runtime.checkpoint_blocks=true cannot be stacked, runtime.checkpoint_blocks=false can"
    return why_ragged(run, run.encoder.grid(spec_of(run)))


def auto_size(run: Run) -> int:
    """How many runs like this one to train together on the device that it asks for."""
    if choose_device(run.runtime.device).type != "cuda":
        return CPU_SIZE
    grid, encoder = run.encoder.grid(spec_of(run)), run.encoder
    # Some 40 numbers of two bytes are kept for a token's every feature in every block, and twice that is no miss.
    each = 160 * run.optim.batch_size * grid.num_patches * encoder.token_width() * encoder.num_blocks()
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(MOST_AUTO, int(free) // 2 // int(each)))


class Stack:
    """The state of several learners and their AdamW optimisers as one.

    From here on the tensors of each learner and of each optimiser's state are views of the stacked ones.
    """

    def __init__(self, steppers: Sequence[Stepper]) -> None:
        self.steppers = list(steppers)
        first = self.steppers[0]
        self.learners = [stepper.learner for stepper in self.steppers]
        named = [dict(learner.named_parameters()) for learner in self.learners]
        self.parameters: dict[str, Tensor] = {}
        for name, parameter in named[0].items():
            together = torch.stack([each[name].detach() for each in named])
            for each, view in zip(named, together, strict=True):
                each[name].data = view
            self.parameters[name] = together.requires_grad_(parameter.requires_grad)
        self.trained = [name for name, value in self.parameters.items() if value.requires_grad]
        self.buffers = self._stacked_buffers()
        names = {id(parameter): name for name, parameter in named[0].items()}
        self.groups = [
            [names[id(parameter)] for parameter in group["params"]] for group in first.optimizer.param_groups
        ]
        self._stack_optimizers(named)

    def _stacked_buffers(self) -> dict[str, Tensor]:
        """What differs between the learners: the tokenizers of different seeds, say. Tables of positions do not."""
        named = [dict(learner.named_buffers()) for learner in self.learners]
        return {
            name: torch.stack([each[name] for each in named])
            for name, value in named[0].items()
            if any(not torch.equal(value, each[name]) for each in named[1:])
        }

    def _stack_optimizers(self, named: Sequence[Mapping[str, nn.Parameter]]) -> None:
        states = [
            [stepper.optimizer.state.get(each[name], {}) for name in self.trained]
            for stepper, each in zip(self.steppers, named, strict=True)
        ]
        # One row for each run: fused kernels count on the device that the parameters are on.
        self.num_steps = torch.tensor(
            [[float(state.get("step", 0.0)) for state in row] for row in states],
            device=self.parameters[self.trained[0]].device,
        )
        self.averages: dict[str, tuple[Tensor, Tensor]] = {}
        for column, name in enumerate(self.trained):
            nothing = torch.zeros_like(self.parameters[name][0])
            first, second = (
                torch.stack([row[column].get(key, nothing) for row in states]) for key in ("exp_avg", "exp_avg_sq")
            )
            self.averages[name] = first, second
            for run, (stepper, each) in enumerate(zip(self.steppers, named, strict=True)):
                state = {"step": self.num_steps[run, column], "exp_avg": first[run], "exp_avg_sq": second[run]}
                stepper.optimizer.state[each[name]] = state

    # ---- one step ----------------------------------------------------------------------------------------------------

    def step(self, steps: Sequence[int], batches: Sequence[Batch]) -> list[dict[str, Tensor | float]]:
        """Each run's step; what it logs, as `Stepper.step` gives it."""
        clips, views = self._clips(steps, batches), self._views(steps)
        schedules = [
            set_schedule(stepper.optimizer, stepper.run.optim, step)
            for stepper, step in zip(self.steppers, steps, strict=True)
        ]
        losses = self._losses(clips, views)
        torch.autograd.backward(losses["loss"].sum())
        gradients = {name: value.grad for name in self.trained if (value := self.parameters[name]).grad is not None}
        self._clip(gradients, steps)
        self._update(gradients, steps)
        for name in self.trained:
            self.parameters[name].grad = None
        extras = self._after(steps)
        rows = {name: value.detach().unbind() for name, value in losses.items()}
        return [
            {**{name: values[run] for name, values in rows.items()}, **schedules[run], **extras[run]}
            for run in range(len(self.steppers))
        ]

    def _clips(self, steps: Sequence[int], batches: Sequence[Batch]) -> Tensor:
        """Each run's augmented clips [S, B, C, T, H, W]: drawn for each, made for all at once where they are alike."""
        first = self.steppers[0]
        generators = [
            generator_for(stepper.run.seed, "augment", step) for stepper, step in zip(self.steppers, steps, strict=True)
        ]
        if all((each.run.augment, each.spec) == (first.run.augment, first.spec) for each in self.steppers):
            draws = torch.cat([draw(len(batch.clips), g) for batch, g in zip(batches, generators, strict=True)])
            clips = torch.cat([batch.clips for batch in batches])
            made = changed(clips, draws, first.run.augment, first.spec, device=first.device)
            return made.view(len(batches), -1, *made.shape[1:])
        return torch.stack(
            [
                augment(batch.clips, each.run.augment, each.spec, generator=generator, device=each.device)
                for each, batch, generator in zip(self.steppers, batches, generators, strict=True)
            ]
        )

    def _views(self, steps: Sequence[int]) -> list[View]:
        """Put together on the host and moved at once: a device is asked for as much as for one run's."""
        drawn = [
            draw_views(each.run, each.learner.encoder.grid, step, slice(None), CPU, each.masks)
            for each, step in zip(self.steppers, steps, strict=True)
        ]
        return of_rows(stacked_views(drawn), slice(None), self.steppers[0].device)

    def _losses(self, clips: Tensor, views: Sequence[View]) -> dict[str, Tensor]:
        """Each of the learner's losses, one for each run: [S]."""
        first = self.steppers[0]
        # Views that share a context hold the same tensor, which vmap would take apart.
        tensors = {id(value): value for view in views for value in view if isinstance(value, Tensor)}

        def forward(state: dict[str, Tensor], clips: Tensor, given: dict[int, Tensor]) -> dict[str, Tensor]:
            mine = [View._make(given.get(id(value), value) for value in view) for view in views]
            made: dict[str, Tensor] = torch.func.functional_call(first.learner, state, (clips, {}, mine))
            return made

        with autocast(first.device, first.precision):
            state = self.parameters | self.buffers
            losses: dict[str, Tensor] = torch.func.vmap(forward)(state, clips, tensors)
        return losses

    def _clip(self, gradients: Mapping[str, Tensor], steps: Sequence[int]) -> None:
        """Scale each run's gradients down as `core.optim.clip_gradients` would."""
        limits = [
            optim.clip if optim.clip > 0 and not (optim.clip_after_warmup and step <= optim.warmup_steps) else None
            for optim, step in zip((stepper.run.optim for stepper in self.steppers), steps, strict=True)
        ]
        if all(limit is None for limit in limits):
            return
        parts: dict[str, list[Tensor]] = {}  # what is clipped by itself
        for name, gradient in gradients.items():
            is_own = self.steppers[0].run.optim.clip_after_warmup
            parts.setdefault(name.partition(".")[0] if is_own else "", []).append(gradient)
        for part in parts.values():
            norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in part]).norm(dim=0)
            bounds = moved(torch.tensor([torch.inf if limit is None else limit for limit in limits]), norms.device)
            scale = (bounds / (norms + 1e-6)).clamp(max=1.0)
            for gradient in part:
                gradient.mul_(scale.view(-1, *(1,) * (gradient.ndim - 1)))

    def _update(self, gradients: Mapping[str, Tensor], steps: Sequence[int]) -> None:
        """AdamW: of all runs together where they agree on its values and on the step, else one by one."""
        told = [
            [
                {key: value for key, value in group.items() if key != "params"}
                for group in stepper.optimizer.param_groups
            ]
            for stepper in self.steppers
        ]
        columns = {name: column for column, name in enumerate(self.trained)}
        is_alike = len(set(steps)) == 1 and all(groups == told[0] for groups in told)
        for rows in [slice(None)] if is_alike else [slice(run, run + 1) for run in range(len(self.steppers))]:
            counts = self.num_steps[rows][0].clone()
            for names, group in zip(self.groups, told[rows][0], strict=True):
                names = [name for name in names if name in gradients]
                if not names:
                    continue
                adamw(
                    [self.parameters[name].detach()[rows] for name in names],
                    [gradients[name][rows] for name in names],
                    [self.averages[name][0][rows] for name in names],
                    [self.averages[name][1][rows] for name in names],
                    [],
                    [counts[columns[name]] for name in names],
                    amsgrad=False,
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                    fused=True,
                )
            self.num_steps[rows] = counts

    def _after(self, steps: Sequence[int]) -> list[dict[str, float]]:
        """What the learners do after a step, and what they log of it."""
        targets = [target for learner in self.learners if isinstance(target := learner.target, MovingAverage)]
        if not targets:
            return [
                learner.after_step(step, stepper.run.optim.steps)
                for learner, stepper, step in zip(self.learners, self.steppers, steps, strict=True)
            ]
        decays = [
            ema_decay(target.options, step, stepper.run.optim.steps)
            for target, stepper, step in zip(targets, self.steppers, steps, strict=True)
        ]
        names = [name for name, _ in targets[0].encoder.named_parameters()]
        averages = [self.parameters[f"target.encoder.{name}"] for name in names]
        sources = [self.parameters[f"encoder.{name}"].detach() for name in names]
        if len(set(decays)) == 1:
            torch._foreach_lerp_(averages, sources, 1 - decays[0])
        else:
            shares = moved(torch.tensor([1 - decay for decay in decays]), averages[0].device)
            for average, source in zip(averages, sources, strict=True):
                average.lerp_(source, shares.view(-1, *(1,) * (average.ndim - 1)))
        return [{"ema_decay": decay} for decay in decays]


# ---- views -----------------------------------------------------------------------------------------------------------


def stacked_views(drawn: Sequence[Sequence[View]]) -> list[View]:
    """The views of several runs as one, tensors [S, B, n].

    Where their lengths differ (I-JEPA draws its blocks' sizes for each batch) the shorter repeat an index, as with
    `ragged=pad`, and say which places count. Contexts that views share are shared still.
    """
    known: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {}

    def together(indices: Sequence[Tensor], valid: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
        key = tuple(map(id, indices))
        if key not in known:
            known[key] = padded(indices, valid)
        return known[key]

    views = []
    for same in zip(*drawn, strict=True):
        context, context_valid = together([v.context for v in same], [v.context_valid for v in same])
        target, target_valid = together([v.target for v in same], [v.target_valid for v in same])
        views.append(View(context, target, context_valid, target_valid, same[0].kind))
    return views


def padded(indices: Sequence[Tensor], valid: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """[B, n_s] each -> [S, B, most], and which places count; None where all do."""
    most = max(index.shape[1] for index in indices)
    if all(index.shape[1] == most for index in indices) and all(each is None for each in valid):
        return torch.stack(list(indices)), None
    rows, counted = [], []
    for index, each in zip(indices, valid, strict=True):
        spare = most - index.shape[1]
        rows.append(torch.cat([index, index[:, :1].expand(-1, spare)], dim=1))
        counts = torch.ones_like(index, dtype=torch.bool) if each is None else each
        counted.append(F.pad(counts, (0, spare), value=False))
    return torch.stack(rows), torch.stack(counted)


def why_ragged(run: Run, grid: Grid) -> str | None:
    """Why the decoder's sequences differ in length between batches; None where they do not."""
    if not isinstance(run.predictor, Decoder):
        return None
    for step in range(1, NUM_DRAWN + 1):
        for view in run.mask.sample(grid, 2, generator_for(run.seed, "mask", step)):
            has_all = view.context.shape[1] + view.target.shape[1] == grid.num_patches
            if not has_all or view.context_valid is not None or view.target_valid is not None:
                return (
                    f"mask={name_of('mask', run.mask)} leaves patches that are neither context nor target, which "
                    "predictor=decoder decodes in a number that depends on the batch; predictor=narrow can be stacked"
                )
    return None
