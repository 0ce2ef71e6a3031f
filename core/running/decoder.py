"""What a trained run's representations hold of the pixels: a small generative decoder of them, for pictures.

Encoder and predictor are frozen. One decoder turns the average of the predictor's output for a target block back into
the block's pixels, another the average of the judged encoder's tokens of a whole image into the image; an objective
without a predictor has the second only. Each is sampled several times: what the samples share is in the representation,
what varies is not.

decoded.npz   `originals` [n, H, W, C] uint8, images of the test split;
              `context` and `target` [n, h, w] bool, patches that the first view of each shows and hides;
              `blocks` [n, K, S, S, C] uint8, K samples of that target block, squeezed to S x S pixels; these three have
              n = 0 where nothing is predicted;
              `whole` [n, K, S', S', C] uint8, K samples of each whole image, S' = S or larger;
              `explained` [2]: of the pixels' variance on the test split, what the blocks' and the whole images'
              decoders tell from the representation: 0 for nothing (they know the mean picture only), 1 for all, NaN
              where there is no decoder.

Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), section 8 and appendix E, Figures 6 to 8; RCDM (Bordes et al.,
2022, arXiv:2112.09164). There the decoder is a diffusion model of 300,000 iterations at 128 px; here it is a perceptron
of two hidden layers that takes the noise out of 16 px blocks, trained in seconds.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from core.configuring.fitting import load_split
from core.data.augment import normalise
from core.objectives.masked import MaskedLearner
from core.pictures.clips import NUM_CLIPS, masks, on_device, packed, pixels
from core.running.stored import Stored
from core.types import Dataset, DataSpec, Grid, View, generator_for

BLOCK_SIDE, WHOLE_SIDE = 16, 24  # px that are decoded
NUM_SAMPLES = 4
MOST_IMAGES = 2048  # of the train split; of the test split a quarter of it
IMAGE_BATCH = 64
STEPS, BATCH, LR, WIDTH = 1000, 128, 1e-3, 320
NOISE_STEPS = 25  # of sampling
NUM_DRAWS = 8


Pictures = NDArray[np.uint8]


class Pairs(NamedTuple):
    """Representations and what they are of."""

    states: Tensor  # [P, D]
    images: Tensor  # [P, C, S, S], normalised


def decoded(stored: Stored, *, steps: int = STEPS) -> dict[str, bytes]:
    """The file ``decoded.npz`` of a stored run, by decoders of `steps` steps. On a CPU it always has the same bytes.

    Raises ValueError for clips of several frames.
    """
    run, spec = stored.run, stored.spec
    if spec.frames != 1:
        raise ValueError(f"data.frames={spec.frames}: pictures of predictions are of images; train on data.frames=1")
    test_set = load_split(run, "test")
    shown = torch.arange(min(len(test_set), NUM_CLIPS)) * len(test_set) // min(len(test_set), NUM_CLIPS)
    originals = pixels(_clips(stored, test_set, shown), spec)[:, 0]
    blocks, blocks_explained = _no_blocks(stored), math.nan
    if isinstance(stored.learner, MaskedLearner) and run.mask is not None:
        blocks, blocks_explained = _decoded_blocks(stored, test_set, shown, steps)
    whole, whole_explained = _decoded_whole(stored, test_set, shown, steps)
    explained = np.array([blocks_explained, whole_explained])
    return {"decoded.npz": packed({"originals": originals, **blocks, "whole": whole, "explained": explained})}


# ---- representations ---------------------------------------------------------------------------------------------


def _no_blocks(stored: Stored) -> dict[str, NDArray[Any]]:
    spec, nowhere = stored.spec, np.zeros((0, 1, 1), dtype=bool)
    samples = np.zeros((0, NUM_SAMPLES, BLOCK_SIDE, BLOCK_SIDE, spec.channels), dtype=np.uint8)
    return {"context": nowhere, "target": nowhere, "blocks": samples}


def _decoded_blocks(
    stored: Stored, test_set: Dataset, shown: Tensor, steps: int
) -> tuple[dict[str, NDArray[Any]], float]:
    run, grid = stored.run, stored.learner.encoder.grid
    train = _block_pairs(stored, stored.train_set, MOST_IMAGES, "train")
    test = _block_pairs(stored, test_set, MOST_IMAGES // 4, "test")
    decoder = Decoder.fitted(train, steps, generator_for(run.seed, "decoder", 0))
    # The masks of core.pictures.clips, each drawn by itself.
    views = [run.mask.sample(grid, 1, generator_for(run.seed, "pictures", number))[:1] for number in range(len(shown))]
    found = []
    for number, index in enumerate(shown.tolist()):
        states = _block_states(stored, _clips(stored, test_set, torch.tensor([index])), views[number]).states  # [1, D]
        found.append(_samples(decoder, states, stored.spec, generator_for(run.seed, "decoder", 2 + number))[0])
    flagged = masks(views, grid)
    flags = {part: flagged[part].reshape(-1, grid.h, grid.w) for part in ("context", "target")}
    return flags | {"blocks": np.stack(found)}, decoder.explained(test, generator_for(run.seed, "decoder", 1))


def _decoded_whole(stored: Stored, test_set: Dataset, shown: Tensor, steps: int) -> tuple[Pictures, float]:
    seed = stored.run.seed
    train, test = (
        _whole_pairs(stored, data, _spread(len(data), most))
        for data, most in ((stored.train_set, MOST_IMAGES), (test_set, MOST_IMAGES // 4))
    )
    decoder = Decoder.fitted(train, steps, generator_for(seed, "whole_decoder", 0))
    states = _whole_pairs(stored, test_set, shown).states
    samples = _samples(decoder, states, stored.spec, generator_for(seed, "whole_decoder", 2))
    return samples, decoder.explained(test, generator_for(seed, "whole_decoder", 1))


def _block_pairs(stored: Stored, data: Dataset, most: int, split: str) -> Pairs:
    run, grid = stored.run, stored.learner.encoder.grid
    found = []
    for number, indices in enumerate(torch.split(_spread(len(data), most), IMAGE_BATCH)):
        generator = generator_for(run.seed, f"decoder_{split}", number)
        found.append(
            _block_states(stored, _clips(stored, data, indices), run.mask.sample(grid, len(indices), generator))
        )
    return Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@torch.inference_mode()
def _block_states(stored: Stored, clips: Tensor, views: list[View]) -> Pairs:
    """Average prediction and pixels of every target block, [V * B, ...], those of a view together."""
    learner = stored.learner
    assert isinstance(learner, MaskedLearner)
    states, images = [], []
    for view in on_device(views, stored.device):
        tokens = learner.encode(clips, [view], [[0]])[0]
        prediction = learner.predictor(tokens, view).float()  # [B, Nt, D]
        valid = torch.ones(prediction.shape[:2]) if view.target_valid is None else view.target_valid.float()
        valid = valid.to(prediction.device)[..., None]
        states.append((prediction * valid).sum(1) / valid.sum(1))
        images.append(_crops(clips[:, :, 0], view.target, learner.encoder.grid))
    return Pairs(torch.cat(states).cpu(), torch.cat(images).cpu())


def _crops(images: Tensor, target: Tensor, grid: Grid) -> Tensor:
    """The smallest box around each sample's target patches, [B, C, S, S]. `target` [B, Nt]; padding repeats a patch."""
    height, width = images.shape[-2] / grid.h, images.shape[-1] / grid.w
    rows, columns = target // grid.w, target % grid.w
    ends = [columns.amin(1) * width, rows.amin(1) * height, (columns.amax(1) + 1) * width, (rows.amax(1) + 1) * height]
    boxes = torch.stack([torch.arange(len(target), device=target.device), *ends], dim=1).to(images.dtype)
    found: Tensor = roi_align(images, boxes, BLOCK_SIDE, sampling_ratio=2, aligned=True)
    return found


@torch.inference_mode()
def _whole_pairs(stored: Stored, data: Dataset, indices: Tensor) -> Pairs:
    states, images = [], []
    side = min(WHOLE_SIDE, stored.spec.height, stored.spec.width)
    for some in torch.split(indices, IMAGE_BATCH):
        clips = _clips(stored, data, some)
        states.append(stored.encoder(clips).float().mean(1).cpu())
        images.append(F.interpolate(clips[:, :, 0], (side, side), mode="area").cpu())
    return Pairs(torch.cat(states), torch.cat(images))


def _clips(stored: Stored, data: Dataset, indices: Tensor) -> Tensor:
    return normalise(data.fetch(indices).clips, stored.spec, device=stored.device)


def _spread(length: int, most: int) -> Tensor:
    count = min(length, most)
    return torch.arange(count) * length // count


# ---- decoder -----------------------------------------------------------------------------------------------------


class Decoder(nn.Module):
    """The image behind a noisy one, given a representation: x from (1 - t) x + t noise, t in (0, 1], and a state."""

    def __init__(self, pairs: Pairs, generator: Generator) -> None:
        super().__init__()
        self.shape = pairs.images.shape[1:]
        size, width = math.prod(self.shape), pairs.states.shape[1]
        self.center, self.scale = pairs.states.mean(0), pairs.states.std(0).clamp_min(1e-6)
        self.mean = pairs.images.flatten(1).mean(0)
        sizes = [(size + width + 1, WIDTH), (WIDTH, WIDTH), (WIDTH, size)]
        weights = [torch.randn(b, a, generator=generator) * a**-0.5 for a, b in sizes]
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(torch.zeros(b) for _, b in sizes)

    def forward(self, noisy: Tensor, time: Tensor, states: Tensor) -> Tensor:
        """`noisy` [B, C * S * S], `time` [B, 1], `states` [B, D] -> [B, C * S * S]."""
        hidden = torch.cat([noisy, (states - self.center) / self.scale, time], dim=1)
        hidden = F.silu(F.linear(hidden, self.weights[0], self.biases[0]))
        hidden = hidden + F.silu(F.linear(hidden, self.weights[1], self.biases[1]))
        return self.mean + F.linear(hidden, self.weights[2], self.biases[2])

    @classmethod
    def fitted(cls, pairs: Pairs, steps: int, generator: Generator) -> Decoder:
        """Trained on the CPU: it is small, and so the same everywhere."""
        decoder = cls(pairs, generator)
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=LR, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        images = pairs.images.flatten(1)
        for _ in range(steps):
            chosen = torch.randint(len(images), (BATCH,), generator=generator)
            time = 1 - torch.rand(BATCH, 1, generator=generator)
            noise = torch.randn(BATCH, images.shape[1], generator=generator)
            noisy = (1 - time) * images[chosen] + time * noise
            loss = F.mse_loss(decoder(noisy, time, pairs.states[chosen]), images[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        return decoder.eval()

    @torch.inference_mode()
    def sample(self, states: Tensor, generator: Generator) -> Tensor:
        """An image [B, C, S, S] for each of `states` [B, D], from noise of its own."""
        image = torch.randn(len(states), self.mean.numel(), generator=generator)
        times = torch.linspace(1, 0, NOISE_STEPS + 1)
        for now, then in pairwise(times.tolist()):
            clean = self(image, torch.full((len(states), 1), now), states)
            image = clean + (image - clean) * (then / now)
        return image.reshape(len(image), *self.shape)

    @torch.inference_mode()
    def explained(self, pairs: Pairs, generator: Generator) -> float:
        """1 - the error of what is expected from the state alone / the variance around the mean image of training."""
        images = pairs.images.flatten(1)
        time = torch.ones(len(images), 1)  # nothing but noise, of which the mean over a few draws is taken
        drawn = [self(torch.randn(images.shape, generator=generator), time, pairs.states) for _ in range(NUM_DRAWS)]
        expected = torch.stack(drawn).mean(0)
        return 1 - float((images - expected).square().mean() / (images - self.mean).square().mean())


def _samples(decoder: Decoder, states: Tensor, spec: DataSpec, generator: Generator) -> Pictures:
    """`NUM_SAMPLES` of each state, [B, K, S, S, C] uint8."""
    found = decoder.sample(states.repeat_interleave(NUM_SAMPLES, 0), generator)
    return pixels(found[:, :, None], spec)[:, 0].reshape(len(states), NUM_SAMPLES, *found.shape[2:], found.shape[1])
