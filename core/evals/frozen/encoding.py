"""Samples on their way through an encoder: fetched, cut, encoded a batch at a time, and what that has used."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from core.evals.flow_frames import estimated
from core.evals.frozen.clips import Cut, Plan, encode
from core.evals.frozen.maps import centre, level_of
from core.evals.frozen.samples import subset
from core.evals.frozen.shared import Flows, Layers, Maps, Turns, Videos
from core.types import Batch, Dataset, DataSpec, EncoderModule, Features, Learner, Look, generator_for

# Stored clips, the data's spec, how they are to look, what draws it, and of how many clips before them it is skipped.
Change = Callable[[Tensor, DataSpec, Look, Generator, int], Tensor]


class Used(NamedTuple):
    """What encoding has used so far."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of this process
    clips: int = 0  # that went through the encoder


class Encoding:
    """One encoder that is shown the samples of some data sets, in evaluation mode and without gradient.

    It runs under autocast where a `dtype` is given. The arguments are those of
    `core.evals.frozen.features.FrozenFeatures`.
    """

    def __init__(
        self,
        encoder: EncoderModule,
        datasets: Mapping[str, Dataset],
        *,
        prepare: Callable[[Tensor, DataSpec], Tensor],
        change: Change | None,
        built_for: DataSpec,
        device: torch.device,
        batch_size: int,
        dtype: torch.dtype | None,
    ) -> None:
        self.encoder, self.prepare, self.built_for, self.device, self.dtype = encoder, prepare, built_for, device, dtype
        self.spec = datasets["train"].spec
        self.used = Used()
        self._datasets, self._change, self._batch_size = datasets, change, batch_size
        self._most_clips: int | None = None  # that the encoder takes at once, where that is fewer

    @contextmanager
    def counted(self) -> Iterator[None]:
        start, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
            self.used = Used(self.used.seconds + seconds, self.used.cpu_seconds + cpu_seconds, self.used.clips)

    def add_clips(self, number: int) -> None:
        """Count clips that went through the encoder."""
        self.used = self.used._replace(clips=self.used.clips + number)

    def layers(
        self,
        job: Layers,
        videos: Tensor,
        clips: Plan,
        with_prefix: bool,
        reduced: Callable[[list[Tensor]], list[Tensor]],
        turns: Turns,
    ) -> Iterator[tuple[slice, int, int, list[Tensor]]]:
        """Rows of `videos`, number of the view, place of the clip in it, and what is `reduced` of its tokens layer by
        layer; to the main process all of them, also those that are made by others by `turns`, who get none.
        """
        batch_size = max(1, self._batch_size * self.built_for.frames // max(self.spec.frames, self.built_for.frames))
        cuts = [(cut, view, place) for view, cuts in enumerate(clips.views) for place, cut in enumerate(cuts)]
        # Cuts of one sample follow one another, so that each sample is fetched once and only one is held.
        groups = [(sample, list(of)) for sample, of in itertools.groupby(sorted(cuts), key=lambda item: item[0].sample)]
        batches = [slice(start, start + batch_size) for start in range(0, len(videos), batch_size)]
        mine = [rows for number, rows in enumerate(batches) if turns.is_mine(number)]
        samples = [videos[rows] * self.spec.clips_per_video + sample for rows in mine for sample, _ in groups]
        places = [(n, view, place) for n in range(len(batches)) for _, of in groups for _, view, place in of]
        dataset = self._datasets[job.split]
        in_thread = self.device.type == "cuda" and getattr(dataset, "is_lazy", False)  # decoding: a GPU would wait
        with evaluating(self.encoder), read_ahead(dataset, samples, in_thread=in_thread) as read:

            def made() -> Iterator[list[Tensor]]:
                draws, passed = generator_for(0, "look", job.look.number if job.look is not None else 0), 0
                for number, rows in enumerate(batches):
                    if not turns.is_mine(number):
                        passed += len(groups) * len(videos[rows])
                        continue
                    for _, group in groups:
                        pixels = self._shown(next(read), self._as_looked(job.look, draws, passed))
                        passed = 0
                        for cut, _, _ in group:
                            yield reduced(self._layers_of(pixels, cut, clips, job, with_prefix))

            found = turns.taken(job, (number for number, _, _ in places), made())
            for (number, view, place), tensors in zip(places, found, strict=False):  # others are told none
                self.add_clips(len(videos[batches[number]]))
                yield batches[number], view, place, [tensor.to(self.device) for tensor in tensors]

    def _layers_of(self, pixels: Tensor, cut: Cut, clips: Plan, job: Layers, with_prefix: bool) -> list[Tensor]:
        def encoded(part: Tensor) -> list[Tensor]:
            return encode(self.encoder, part, self.built_for, job.sampling, job.num_layers, with_prefix=with_prefix)

        with torch.inference_mode(), self.autocast():
            return self.in_parts(self._cut(pixels, cut, clips.frames), encoded)

    def maps(self, job: Maps, videos: Tensor, turns: Turns) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of `videos`, and the maps of their frames, [B, F, h, w, D] in half precision."""
        parts = torch.split(torch.arange(len(videos)), max(1, self._batch_size // len(job.frames)))

        def mapped(rows: Tensor) -> Tensor:
            pixels = self.fetch(job.split, videos[rows], self.prepare)[:, :, list(job.frames)]
            with torch.inference_mode(), self.autocast():
                levels = self.in_parts(centre(pixels, self.built_for), self.encoder.pyramid)
            part = level_of(levels, job.level)  # [B * F, h, w, D]
            return part.reshape(len(rows), len(job.frames), *part.shape[1:]).to(self.dtype or torch.float16)

        with evaluating(self.encoder):
            yield from turns.each(job, parts, mapped)

    def flows(self, job: Flows, estimator: Learner, turns: Turns) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices of samples, and the flow of their frames as `estimator` has it; see `FrozenFeatures.flows`."""
        samples = subset(len(self._datasets[job.split]), job.max_samples)
        parts = torch.split(samples, max(1, job.batch_size // max(self.spec.frames - 1, 1)))
        grid = self.encoder.grid
        stride = self.built_for.height // grid.h, self.built_for.width // grid.w

        def flow(indices: Tensor) -> Tensor:
            clips = self.fetch(job.split, indices, self.prepare)
            with torch.inference_mode():
                return estimated(estimator.flow, clips, stride, job.size)

        with evaluating(estimator):
            yield from turns.each(job, parts, flow)

    def videos(self, job: Videos, features: Features, turns: Turns) -> Iterator[Tensor]:
        """What each of the videos is judged to be by the `features`, which encode their frames by this object."""
        dataset: Any = self._datasets[job.split]
        indices = subset(dataset.num_sequences(), job.max_sequences).tolist()

        def judged() -> Iterator[list[Tensor]]:
            for number, index in enumerate(indices):
                if turns.is_mine(number):
                    before = self.used.clips
                    found = job.judged(features, functools.partial(dataset.sequence, index))
                    yield [found, torch.tensor(self.used.clips - before)]

        for number, (found, clips) in enumerate(turns.taken(job, range(len(indices)), judged())):
            if not turns.is_mine(number):
                self.add_clips(int(clips))
            yield found

    def in_parts(self, clips: Tensor, encoded: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """`encoded(clips)`, of as many clips at once as the device's memory has room for: half as many when it is full,
        from then on."""
        while True:
            most = self._most_clips or len(clips)
            try:
                parts = [encoded(part) for part in torch.split(clips, most)]
                return parts[0] if len(parts) == 1 else [torch.cat(layers) for layers in zip(*parts, strict=True)]
            except torch.OutOfMemoryError:
                if most == 1:
                    raise
                self._most_clips = most // 2
            # Only now, as the error holds on to what had been made by then.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _as_looked(self, look: Look | None, draws: Generator, passed: int) -> Callable[[Tensor, DataSpec], Tensor]:
        """What normalises clips; crops and mirrors them as well, as `look` says, after `passed` that others show."""
        if look is None:
            return self.prepare
        assert self._change is not None
        change = self._change
        return lambda clips, spec: change(clips, spec, look, draws, passed)

    def fetch(self, split: str, indices: Tensor, show: Callable[[Tensor, DataSpec], Tensor]) -> Tensor:
        """The samples at `indices` on the device, normalised as the encoder is used to."""
        return self._shown(self._datasets[split].fetch(indices).clips, show)

    def _shown(self, clips: Tensor, show: Callable[[Tensor, DataSpec], Tensor]) -> Tensor:
        clips = clips.to(self.device, non_blocking=True)
        return show(clips, dataclasses.replace(self.spec, mean=self.built_for.mean, std=self.built_for.std))

    def _cut(self, pixels: Tensor, cut: Cut, frames: int) -> Tensor:
        height, width = self.built_for.height, self.built_for.width
        clip = pixels[:, :, cut.first : cut.first + frames]
        return clip[..., cut.top : cut.top + height, cut.left : cut.left + width].contiguous()

    def autocast(self) -> torch.autocast:
        dtype = self.dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


@contextmanager
def read_ahead(dataset: Dataset, samples: Sequence[Tensor], *, in_thread: bool) -> Iterator[Iterator[Tensor]]:
    """The clips at each of `samples`, one after the other; those to come next read in a thread meanwhile."""
    if not in_thread:
        yield (dataset.fetch(indices).clips for indices in samples)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="read_ahead") as pool:
        due = collections.deque[Future[Batch]]()
        left = iter(samples)

        def read() -> Iterator[Tensor]:
            for indices in left:
                due.append(pool.submit(dataset.fetch, indices))
                if len(due) > 1:
                    yield due.popleft().result().clips
            while due:
                yield due.popleft().result().clips

        try:
            yield read()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for `module`; each part's own mode is put back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
