"""What every component must do, to be called from a plugin's own tests: ``check_loss(MyLoss)``.

Each function takes a class, whose defaults are tried, or an object with options. An AssertionError says what is broken
and what the trainer would make of it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.evals.frozen.features import FrozenFeatures
from core.masks.random import RandomMask
from core.models.narrow import Narrow
from core.models.vit import ViT
from core.targets.pixels import PixelTarget
from core.types import (
    Data,
    Dataset,
    DataSpec,
    Encoder,
    EncoderModule,
    Grid,
    Loss,
    Mask,
    Parts,
    Pooling,
    View,
    generator_for,
)

Given = Any  # a component with options, or its class
IMAGES = DataSpec(3, 1, 32, 32, {"digit": 10})
GRIDS = (Grid(1, 8, 8), Grid(4, 8, 8))
_ENCODER = ViT(width=32, depth=2, heads=2, patch=8)


def check_mask(mask: Given, grids: Sequence[Grid] = GRIDS) -> None:
    """Disjoint, distinct patches of the grid, drawn from the given generator and no other, fixed by its seed."""
    mask = _made(mask)
    for grid in grids:
        mask.check(grid)
        with _Untouched("mask.sample"):
            views, again, other = (mask.sample(grid, 16, generator_for(seed, "mask")) for seed in (0, 0, 1))
        assert views, f"{mask}: sample gives no view"
        assert _same(views, again), f"{mask}: the same seed gives another mask: a resumed run would see other views"
        assert not _same(views, other), f"{mask}: another seed gives the same mask"
        for view in views:
            _check_view(mask, view, grid)
        if not mask.varying(grid):
            lengths = {tuple(v.context.shape[1] for v in mask.sample(grid, n, generator_for(n))) for n in (1, 5)}
            assert len(lengths) == 1, f"{mask}: numbers of context patches differ with the batch: {sorted(lengths)}"


def _check_view(mask: Mask, view: View, grid: Grid) -> None:
    for name in ("context", "target"):
        index = getattr(view, name)
        assert index.dtype == torch.int64, f"{mask}: {name} must be int64, is {index.dtype}"
        assert index.shape[0] == 16 and index.shape[1] > 0, f"{mask}: {name} is {list(index.shape)} for 16 samples"
        assert int(index.min()) >= 0 and int(index.max()) < grid.num_patches, f"{mask}: {name} is outside {grid}"
    for row in range(16):
        context = _real(view.context[row], view.context_valid, row)
        target = _real(view.target[row], view.target_valid, row)
        both = [*context, *target]
        assert len(set(both)) == len(both), f"{mask}: a patch is both context and target, or twice one of them"


def _real(index: Tensor, valid: Tensor | None, row: int) -> list[int]:
    return list(map(int, index if valid is None else index[valid[row]]))


def check_loss(loss: Given) -> None:
    """A finite float32 scalar that only valid places count for, in bfloat16 too, with a gradient."""
    loss = _made(loss)
    generator = generator_for(0, "loss")
    prediction = torch.randn(3, 5, 7, generator=generator)
    target = torch.randint(7, (3, 5), generator=generator) if loss.takes_classes else torch.randn(
        3, 5, 7, generator=generator
    )  # fmt: skip
    valid = torch.rand(3, 5, generator=generator) < 0.6
    whole = _loss_of(loss, prediction, target)
    assert torch.allclose(whole, _loss_of(loss, prediction, target, torch.ones_like(valid))), (
        f"{loss}: with every place valid it is another number than without `valid`"
    )
    changed = torch.where(valid[..., None], prediction, prediction + 3)
    partly = _loss_of(loss, prediction, target, valid)
    assert torch.allclose(partly, _loss_of(loss, changed, target, valid)), f"{loss}: places that are not valid count"
    kept = _loss_of(loss, prediction[valid][None], target[valid][None])
    assert torch.allclose(partly, kept, atol=1e-5), f"{loss}: it is no mean over the valid places"
    with torch.autocast("cpu", torch.bfloat16):
        half = _loss_of(loss, prediction.bfloat16(), target if loss.takes_classes else target.bfloat16())
    assert half.dtype is torch.float32, f"{loss}: under bfloat16 autocast it is {half.dtype}, and must be float32"
    leaf = prediction.clone().requires_grad_()
    _loss_of(loss, leaf, target).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all()), f"{loss}: its gradient is not finite"
    assert bool(leaf.grad.any()), f"{loss}: the prediction gets no gradient: nothing would be learned"


def _loss_of(loss: Loss, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    given = loss(prediction, target, valid)
    assert isinstance(given, dict) and "loss" in given, f'{loss}: must return {{"loss": scalar}}, returned {given!r}'
    assert given["loss"].shape == (), f"{loss}: loss must be a scalar, is {list(given['loss'].shape)}"
    assert bool(given["loss"].isfinite()), f"{loss}: {given['loss']} for numbers of a normal distribution"
    return given["loss"]


def check_encoder(encoder: Given, spec: DataSpec = IMAGES) -> None:
    """Tokens as its options say, weights of the given generator alone, samples encoded one by one as together."""
    encoder = _made(encoder)
    grid = encoder.grid(spec)
    with _Untouched("encoder.build"):
        built, same, other = (encoder.build(spec, generator_for(seed, "encoder")) for seed in (0, 0, 1))
    weights, again, others = (dict(module.state_dict()) for module in (built, same, other))
    assert all(torch.equal(weights[key], again[key]) for key in weights), f"{encoder}: one seed gives two encoders"
    assert any(not torch.equal(weights[key], others[key]) for key in weights), f"{encoder}: seeds make no difference"
    assert (built.grid, built.width) == (grid, encoder.token_width()), (
        f"{encoder}: built with grid {built.grid} and width {built.width}, its options say {grid} and "
        f"{encoder.token_width()}"
    )
    clips = _clips(spec, 3)
    built.eval()
    with torch.no_grad():
        tokens = built(clips)
        wanted = [3, built.num_prefix + grid.num_patches, built.width]
        assert list(tokens.shape) == wanted, f"{encoder}: forward gives {list(tokens.shape)}, and must give {wanted}"
        assert torch.allclose(tokens[:1], built(clips[:1]), atol=1e-4), (
            f"{encoder}: a sample alone is encoded otherwise"
        )
        layers = built.intermediate(clips, encoder.num_blocks())
        assert len(layers) == encoder.num_blocks(), f"{encoder}: intermediate gives {len(layers)} layers"
        assert torch.allclose(layers[-1], tokens[:, built.num_prefix :], atol=1e-4), (
            f"{encoder}: the last of `intermediate` is not what `forward` gives"
        )
        if not encoder.has_pyramid:
            _check_keeping(encoder, built, clips)
    built.train()
    built.seed_drop_path(generator_for(0, "drop path"))
    built(clips).square().mean().backward()
    idle = [name for name, value in built.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle, f"{encoder}: parameters that get no gradient: {', '.join(idle)}"


def _check_keeping(encoder: Encoder, built: EncoderModule, clips: Tensor) -> None:
    order = torch.rand(len(clips), built.grid.num_patches, generator=generator_for(0)).argsort(1)
    keep, hidden = order[:, ::2], order[:, 1::2]
    kept = built(clips, keep)
    wanted = built.num_prefix + keep.shape[1]
    assert kept.shape[1] == wanted, f"{encoder}: {kept.shape[1]} tokens of {keep.shape[1]} kept patches, not {wanted}"
    area, side = built.grid.h * built.grid.w, clips.shape[-1] // built.grid.w
    frames, changed = clips.shape[2] // built.grid.t, clips.clone()
    for row in range(len(clips)):
        for patch in map(int, hidden[row]):
            t, h, w = patch // area * frames, patch % area // built.grid.w * side, patch % built.grid.w * side
            changed[row, :, t : t + frames, h : h + side, w : w + side] += 5
    assert torch.allclose(kept, built(changed, keep), atol=1e-4), (
        f"{encoder}: patches that are not kept change the tokens of those that are: the model would see its target"
    )


def check_predictor(predictor: Given) -> None:
    """A prediction for each target patch, that moves with the context and with the place."""
    predictor = _made(predictor)
    encoder = _ENCODER.build(IMAGES, generator_for(0, "encoder"))
    with _Untouched("predictor.build"):
        built, same = (predictor.build(encoder, 12, 1, generator_for(0, "predictor")) for _ in range(2))
    pairs = zip(built.state_dict().values(), same.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs), f"{predictor}: one seed gives two predictors"
    [view] = RandomMask(ratio=0.5).sample(encoder.grid, 3, generator_for(0, "mask"))
    tokens = encoder(_clips(IMAGES, 3), view.context)
    prediction = built(tokens, view)
    wanted = [*view.target.shape, 12]
    assert list(prediction.shape) == wanted, f"{predictor}: predicts {list(prediction.shape)}, and must {wanted}"
    assert not torch.allclose(prediction, built(tokens + 1, view)), f"{predictor}: the context makes no difference"


def check_target(target: Given, spec: DataSpec = IMAGES) -> None:
    """One target for each hidden patch, without gradient."""
    target = _made(target)
    encoder = _ENCODER.build(spec, generator_for(0, "encoder"))
    built = target.build(encoder, spec)
    views = RandomMask(ratio=0.5).sample(encoder.grid, 3, generator_for(0, "mask"))
    with _Untouched("target"):
        given, again = (built(_clips(spec, 3), views) for _ in range(2))
    assert len(given) == len(views), f"{target}: {len(given)} tensors for {len(views)} views"
    for found, same, view in zip(given, again, views, strict=True):
        wanted = [*view.target.shape] if target.gives_classes else [*view.target.shape, built.out_dim]
        assert list(found.shape) == wanted, f"{target}: gives {list(found.shape)}, and must give {wanted}"
        assert not found.requires_grad, f"{target}: has a gradient: the model would move its target"
        assert torch.equal(found, same), f"{target}: the same clips give another target"
    assert isinstance(built.update(encoder, 1, 10), dict), f"{target}: update must return what to log, a dict"


def check_dataset(data: Given, cache: Path | None = None) -> None:
    """Both splits as `spec` says, a pure function of the index, and a fingerprint of what is in them."""
    data = _made(data)
    with tempfile.TemporaryDirectory() as folder:
        _check_dataset(data, cache or Path(folder))


def _check_dataset(data: Data, cache: Path) -> None:
    spec = data.spec()
    assert data.sources() is not None or data.recipe, (
        f"{data}: says neither its files (sources) nor its recipe: replaced data would go unnoticed"
    )
    for split in ("train", "test"):
        with _Untouched(f"data.load({split})"):
            loaded: Dataset = data.load(split, cache)
            assert len(loaded) > 0, f"{data}: {split} is empty"
            index = torch.tensor([0, len(loaded) - 1])
            batch, again = loaded.fetch(index), loaded.fetch(index)
        wanted = [2, spec.channels, spec.frames, spec.height, spec.width]
        assert list(batch.clips.shape) == wanted, f"{data}: {split} gives {list(batch.clips.shape)}, spec says {wanted}"
        assert batch.clips.dtype is torch.uint8, f"{data}: clips must be uint8, are {batch.clips.dtype}"
        assert torch.equal(batch.clips, again.clips), f"{data}: fetching the same index again gives other pixels"
        labels = loaded.labels()
        assert labels.keys() == spec.classes.keys(), f"{data}: labels {sorted(labels)}, spec has {sorted(spec.classes)}"
        for name, values in labels.items():
            assert len(values) == len(loaded), f"{data}: {len(values)} labels {name} of {len(loaded)} samples"
            assert int(values.max()) < spec.classes[name], f"{data}: {name} {int(values.max())} of {spec.classes[name]}"
            assert torch.equal(values[index], batch.labels[name]), f"{data}: labels() and fetch differ in {name}"


def check_evaluation(evaluation: Given, data: Data) -> None:
    """Just the numbers that it names beforehand, finite, the same whenever it is asked; on a tiny ViT and `data`."""
    evaluation = _made(evaluation)
    spec = data.spec()
    encoder = ViT(width=32, depth=2, heads=2, patch=spec.height // 4, tubelet=spec.frames)
    evaluation.check(encoder, spec, spec)
    pools = evaluation.pools() or {Pooling.mean}
    names = evaluation.metrics(spec)
    assert names and all("/" in name for name in names), f"{evaluation}: metrics must be KIND/WORD, are {names}"
    with tempfile.TemporaryDirectory() as cache:
        splits = [data.load(split, Path(cache)) for split in ("train", "test")]
        found = []
        for _ in range(2):
            built = encoder.build(spec, generator_for(0, "encoder")).eval()
            features = FrozenFeatures(
                built,
                *splits,
                prepare=_prepared,
                device="cpu",
                batch_size=16,
                pools=pools,
            )
            with _Untouched("evaluation.run"):
                found.append(evaluation.run(features, 0))
    assert sorted(found[0]) == sorted(names), f"{evaluation}: run gives {sorted(found[0])}, metrics say {sorted(names)}"
    assert all(map(math.isfinite, found[0].values())), f"{evaluation}: not finite: {found[0]}"
    assert found[0] == found[1], f"{evaluation}: the same features give other numbers: {found[0]} and {found[1]}"


def check_objective(objective: Given, encoder: Encoder = _ENCODER) -> None:
    """A finite loss with gradients for the encoder, the same learner for the same seed."""
    objective = _made(objective)
    parts = Parts(encoder, *(part if name in objective.uses else None for name, part in _PARTS.items()))  # type: ignore[arg-type]
    objective.check(encoder, IMAGES, IMAGES if objective.num_pairs() else None)
    with _Untouched("objective.build"):
        learner, same = (objective.build(parts, IMAGES, 0) for _ in range(2))
    pairs = zip(learner.state_dict().values(), same.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs), f"{objective}: one seed gives two learners"
    clips, size = _clips(IMAGES, 8), 8
    views = parts.mask.sample(encoder.grid(IMAGES), size, generator_for(0, "mask")) if parts.mask else []
    labels = {name: torch.arange(size) % 10 for name in learner.labels_read}
    learner.train()
    learner.encoder.seed_drop_path(generator_for(0, "drop path"))
    learner.seed_step(lambda purpose: generator_for(0, purpose), 1, 10, clips)
    losses = learner(clips, labels, views)
    assert "loss" in losses and losses["loss"].shape == (), f"{objective}: must return {{'loss': scalar}}"
    assert bool(losses["loss"].isfinite()), f"{objective}: a loss of {losses['loss']} at the first step"
    if objective.learns:
        losses["loss"].backward()
        assert any(value.grad is not None and bool(value.grad.any()) for value in learner.encoder.parameters()), (
            f"{objective}: the encoder gets no gradient"
        )


# ---- what these share ------------------------------------------------------------------------------------------------


class _Mse(Loss):
    def __call__(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(prediction.float(), target.float())}


_PARTS = {
    "mask": RandomMask(ratio=0.5),
    "target": PixelTarget(),
    "predictor": Narrow(depth=1, width=16, heads=2),
    "loss": _Mse(),
}


class _Untouched:
    """Fails where the global generator is read or moved: what is drawn from it, no resumed run draws again."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        self.before = torch.get_rng_state()

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        assert kind is not None or torch.equal(self.before, torch.get_rng_state()), (
            f"{self.what} draws from torch's global generator; draw from the one that is given"
        )


def _made(component: Any) -> Any:
    return component() if isinstance(component, type) else component


def _same(one: Sequence[View], two: Sequence[View]) -> bool:
    return len(one) == len(two) and all(
        a.context.shape == b.context.shape and torch.equal(a.context, b.context) and a.target.shape == b.target.shape
        and torch.equal(a.target, b.target)
        for a, b in zip(one, two, strict=True)
    )  # fmt: skip


def _clips(spec: DataSpec, num: int) -> Tensor:
    return torch.randn(num, spec.channels, spec.frames, spec.height, spec.width, generator=generator_for(0, "clips"))


def _prepared(clips: Tensor, spec: DataSpec) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (spec.mean, spec.std))
    return (clips.float() / 255 - mean) / std
