"""Frozen features of a data set: every sample goes through the encoder once, and every evaluation shares the result.

An evaluation that re-encoded the data each epoch would spend nearly all of its time in a network that never changes;
here a probe's cost is the probe's own arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from core.evals.frozen.clips import num_tokens, plan
from core.evals.frozen.encoding import Change, Encoding, Used, evaluating
from core.evals.frozen.feature_cache import FeatureCache, data_digest, key_of, weights_digest
from core.evals.frozen.maps import (
    by_frame,
    centre,
    encoded_frames,
    fitting,
    frames_at_once,
    level_at,
    read_segments,
    resized,
)
from core.evals.frozen.pooling import add, named, num_parts, pooled
from core.evals.frozen.samples import subset
from core.evals.frozen.shared import Flows, Job, Layers, Maps, Share, Turns, Videos
from core.types import (
    Dataset,
    DataSpec,
    EncoderModule,
    Features,
    FlowTruth,
    Learner,
    Look,
    Pooling,
    Regions,
    Sampling,
    Tokens,
    TrackedVideo,
)

GIB = 2**30


class FrozenFeatures:
    """Features of the splits "train" and "test" as `encoder` sees them now, kept on the CPU.

    `prepare` turns stored uint8 clips into what the encoder takes (`core.data.augment.normalise`), `change` does so and
    crops or mirrors them as a `Look` says; who asks for no `augmented` features needs none. `built_for` is the
    data that the encoder was built for, where that is not the data it is judged on: its clip decides how the judged
    clips are cut (`core.evals.frozen.clips`), and its mean and std normalise them, as these are what the encoder is
    used to.

    A split is encoded on first use, in evaluation mode without gradient and under autocast when `autocast_dtype` is
    given; the encoder's modes are put back afterwards. Make a new object after the encoder was trained further.
    `max_train` limits the train split to a random subset that depends on its length alone, so that every run on the
    same data is judged on the same samples. Tokens that would take more than `max_gib` are refused.

    With a `cache` features are looked for on disk before anything is encoded, and kept there. They are the same bits
    either way: tokens in the half precision that they are used in, averages in float32. `shown_as` are the encoder's
    options, which its weights alone do not tell (the number of heads). `estimator` is what estimates flow, `resize`
    what makes an encoder one of frames of a given size (`core.models.resized`). Whatever is averaged is averaged over
    the parts of all `pools` at once, so that who asks for another one later needs no encoding. With a `share` the
    others' objects `help` until this one lets them go.

    Source: average-pooled patches of the last or the last four layers: I-JEPA (Assran et al., 2023,
    arXiv:2301.08243), appendix A.2.
    """

    def __init__(
        self,
        encoder: EncoderModule,
        train: Dataset,
        test: Dataset,
        *,
        prepare: Callable[[Tensor, DataSpec], Tensor],
        device: torch.device | str,
        batch_size: int,
        autocast_dtype: torch.dtype | None = None,
        max_train: int | None = None,
        built_for: DataSpec | None = None,
        max_gib: float = 8.0,
        cache: FeatureCache | None = None,
        shown_as: str = "",
        change: Change | None = None,
        estimator: Learner | None = None,
        resize: Callable[[EncoderModule, DataSpec], EncoderModule] | None = None,
        pools: Collection[Pooling] = (Pooling.mean,),
        share: Share | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"the batch size of feature extraction must be at least 1, got {batch_size}")
        if max_train is not None and max_train < 1:
            raise ValueError(f"max_train must be at least 1, or None for every train sample, got {max_train}")
        self.spec: DataSpec = train.spec
        self.grid = encoder.grid
        self.device = torch.device(device)
        self._built_for = built_for or train.spec
        self._encoder, self._estimator = encoder, estimator
        self._resize = resize
        self._resized: dict[tuple[int, int], EncoderModule] = {}
        self._datasets = {"train": train, "test": test}
        self._batch_size = batch_size
        self._autocast_dtype = autocast_dtype
        self._max_gib = max_gib
        lengths = {split: len(dataset) // self.spec.clips_per_video for split, dataset in self._datasets.items()}
        self._videos = {"train": subset(lengths["train"], max_train), "test": torch.arange(lengths["test"])}
        self._pools = frozenset(pools)
        self._turns, self.num_processes = Turns(share), 1 if share is None else share.size
        self._pooled: dict[tuple[str, int, Pooling], Tensor] = {}
        self._augmented: dict[tuple[Look, int, Pooling], Tensor] = {}
        self._tokens: dict[tuple[str, int, Sampling], Tokens] = {}
        self._encoding = Encoding(
            encoder,
            self._datasets,
            prepare=prepare,
            change=change,
            built_for=self._built_for,
            device=self.device,
            batch_size=batch_size,
            dtype=autocast_dtype,
        )
        self._cache, self._shown_as = cache, shown_as
        self._digests: dict[str, str | None] = {}

    @property
    def used(self) -> Used:
        """What encoding has used so far."""
        return self._encoding.used

    def pooled(self, split: str, num_layers: int = 1, pool: Pooling = Pooling.mean) -> Tensor:
        """Average-pooled patch tokens of the last `num_layers` blocks, or class tokens: [N, num_layers * D] float32.

        The average is over all clips of a video; a `pool` of several parts gives [N, num_layers * parts * D], the means
        of the same part of each clip. Blocks are concatenated shallow to deep. The tensor is shared between callers: do
        not write to it. Raises FloatingPointError when the encoder gives a value that is not finite.
        """
        if (split, num_layers, pool) not in self._pooled:
            # The last blocks are among those of a longer list, so asking for the longest first encodes once.
            longer = [n for name, n, parts in self._pooled if (name, parts) == (split, pool) and n > num_layers]
            if longer:
                return self._pooled[split, longer[0], pool][:, -num_layers * num_parts(pool) * self._encoder.width :]
            with self._encoding.counted():
                found = self._from_cache(self._key_of_pooled(split, num_layers, pool))
                if found is None:
                    self._keep_pooled(split, num_layers, self._pool(split, num_layers, self._pools | {pool}))
                else:
                    self._pooled[split, num_layers, pool] = found
        return self._pooled[split, num_layers, pool]

    def augmented(self, look: Look, num_layers: int = 1, pool: Pooling = Pooling.mean) -> Tensor:
        """As `pooled` of the train split, of its pictures as `look` has them: [N, num_layers * D] float32."""
        if (look, num_layers, pool) not in self._augmented:
            with self._encoding.counted():
                key = self._key("augmented", "train", num_layers, look, *named(pool))
                found = self._from_cache(key)
                if found is None:
                    found = _finite(self._pool("train", num_layers, {pool}, look)[pool], "train").cpu()
                    self._to_cache(key, found)
                self._augmented[look, num_layers, pool] = found
        return self._augmented[look, num_layers, pool]

    def tokens(self, split: str, sampling: Sampling | None = None, num_layers: int = 1) -> Tokens:
        """Patch tokens of the clips that `sampling` says, in half precision; the same tensor for every caller.

        They are what the encoder gave where it ran in bfloat16, else float16. Raises ValueError when they would take
        more than `max_gib`, FloatingPointError when one is not finite.
        """
        sampling = sampling or Sampling()
        if (split, num_layers, sampling) not in self._tokens:
            with self._encoding.counted():
                key = self._key("tokens", split, num_layers, sampling)
                values = self._from_cache(key)
                if values is None:
                    values = self._keep(split, num_layers, sampling)
                    self._to_cache(key, values)
                labels = self._labels_of(split, self._videos_of(split, sampling))
                self._tokens[split, num_layers, sampling] = Tokens(values, labels)
        return self._tokens[split, num_layers, sampling]

    def labels(self, split: str) -> dict[str, Tensor]:
        """Name -> [N] int64, in the order of `pooled`; -1 means not labelled."""
        return self._labels_of(split, self._videos[split])

    def regions(self, split: str, sampling: Sampling | None = None) -> Regions:
        """The boxes of the clips that `tokens` gives, numbered in its order; of data that has boxes."""
        first = self._videos_of(split, sampling or Sampling()) * self.spec.clips_per_video
        found: Regions = cast(Any, self._datasets[split]).regions(first)
        return found

    def maps(self, split: str, frames: Sequence[int], *, level: int = 1, max_train: int | None = None) -> Tensor:
        """Feature maps of these frames of each clip, [N, F, h, w, D] in half precision; see `core.evals.frozen.maps`.

        Raises ValueError when they would take more than `max_gib`, FloatingPointError when one is not finite.
        """
        sampling = Sampling(max_train=max_train)
        if level == 1:
            return by_frame(self.tokens(split, sampling).values[:, 0], self.grid, self.spec.frames, frames)
        videos, values = self._videos_of(split, sampling), None
        with self._encoding.counted():
            for rows, part in self._encoding.maps(Maps(split, tuple(frames), level, max_train), videos, self._turns):
                if values is None:
                    shape = (len(videos), *part.shape[1:])
                    self._refuse_large(split, shape)
                    values = torch.empty(shape, dtype=part.dtype)
                values[rows] = part.cpu()
        assert values is not None
        return _finite(values, split)

    def segments(self, split: str, frames: Sequence[int], *, max_train: int | None = None) -> Tensor:
        """What each pixel of the frames of `maps` shows, [N, F, H, W] int16; of data whose pixels have classes.

        Raises ValueError naming the clip for a value that is no class and not -1.
        """
        videos = self._videos_of(split, Sampling(max_train=max_train))
        dataset = self._datasets[split]
        parts = [read_segments(dataset, split, part, frames) for part in torch.split(videos, 128)]
        return torch.cat([centre(part, self._built_for) for part in parts])

    def sequences(self, split: str, max_sequences: int | None = None) -> Iterator[TrackedVideo]:
        """Videos whose objects are known, one by one; of data that has such."""
        dataset: Any = self._datasets[split]
        for index in subset(dataset.num_sequences(), max_sequences).tolist():
            yield dataset.sequence(index)

    def judged_sequences(
        self,
        split: str,
        judged: Callable[[Features, Callable[[], TrackedVideo]], Tensor],
        max_sequences: int | None = None,
    ) -> Iterator[Tensor]:
        """What `judged` gives for these features and what reads the video, of each of `sequences`."""
        return self._encoding.videos(Videos(split, max_sequences, judged), self, self._turns)

    def frame_maps(self, frames: Tensor, *, level: int = 1, stride: int | None = None) -> Tensor:
        """Feature maps of a video's frames [C, T, H, W] uint8, one by one and of whatever size: [T, h, w, D] float32.

        Frames are resized to the nearest multiple of the encoder's stride, so that a map covers the whole frame.
        """
        if stride is not None:
            level = level_at(stride, self._built_for.width // self.grid.w)
        size = fitting(frames.shape[2:], self._built_for, self.grid)
        spec = dataclasses.replace(self._built_for, frames=1, height=size[0], width=size[1])
        if size not in self._resized:
            assert self._resize is not None
            self._resized[size] = self._resize(self._encoder, spec)
        encoder, found = self._resized[size], []
        with self._encoding.counted(), evaluating(encoder):
            for part in torch.split(frames.transpose(0, 1), frames_at_once(size)):
                clips = self._encoding.prepare(part[:, :, None].to(self.device), spec)[:, :, 0]
                with torch.inference_mode(), self._encoding.autocast():
                    maps = encoded_frames(encoder, resized(clips, size), level)
                found.append(maps.float())
        self._encoding.add_clips(frames.shape[1])
        return _finite(torch.cat(found), "test")

    def flows(
        self, split: str, *, max_samples: int | None, batch_size: int, size: tuple[int, int] | None
    ) -> Iterator[tuple[Tensor, FlowTruth]]:
        """Estimated flow [B, T - 1, 2, H, W] in pixels and the truth, `batch_size` pairs of frames at a time.

        Without autocast: bfloat16 tells places beyond 128 px apart by a pixel. See `core.evals.flow_frames`.
        """
        assert self._estimator is not None
        dataset: Any = self._datasets[split]
        job = Flows(split, max_samples, batch_size, size)
        for indices, flow in self._encoding.flows(job, self._estimator, self._turns):
            yield flow.cpu(), dataset.flows(indices)

    def _from_cache(self, key: str | None) -> Tensor | None:
        return None if key is None or self._cache is None else self._cache.get(key)

    def _to_cache(self, key: str | None, values: Tensor) -> None:
        if key is not None and self._cache is not None:
            self._cache.put(key, values)

    def _key(self, *what: object) -> str | None:
        """The name of some features in the cache; None where there is no cache, or the data cannot say what it is."""
        if self._cache is None:
            return None
        split = str(what[1])
        if "" not in self._digests:
            self._digests[""] = weights_digest(self._encoder)
        if split not in self._digests:
            self._digests[split] = data_digest(self._datasets[split])
        if self._digests[split] is None:
            return None
        encoder = type(self._encoder).__name__, self._digests[""], self._shown_as
        return key_of(
            *what, encoder, self._digests[split], self._videos[split].tolist(), self.spec, self._built_for,
            self._autocast_dtype, self.device.type,
        )  # fmt: skip

    def _labels_of(self, split: str, videos: Tensor) -> dict[str, Tensor]:
        first = videos * self.spec.clips_per_video
        return {name: values[first] for name, values in self._datasets[split].labels().items()}

    def _pool(
        self, split: str, num_layers: int, pools: Collection[Pooling], look: Look | None = None
    ) -> dict[Pooling, Tensor]:
        num_clips = len(plan(self.spec, self._built_for, Sampling()).views[0])
        sums = self._no_pooled(split, num_layers, pools)
        for rows, _, _, parts in self._encoded(Layers(split, num_layers, Sampling(), tuple(sums), False, look)):
            add(sums, rows, parts, num_clips)
        return sums

    def _encoded(self, job: Layers) -> Iterator[tuple[slice, int, int, list[Tensor]]]:
        """Rows, view and place of what `job` asks for: averages in the order of its pools, and tokens, if wanted."""
        prefix = self._num_prefix(job.pools)

        def reduced(layers: list[Tensor]) -> list[Tensor]:
            parts = [pooled(layers, self.grid, pool, prefix) for pool in job.pools]
            if not job.with_tokens:
                return parts
            tokens = (torch.cat(layers, dim=-1) if job.num_layers > 1 else layers[0])[:, prefix:]
            return [*parts, tokens.to(self._autocast_dtype or torch.float16)]

        videos = self._videos_of(job.split, job.sampling)
        clips = plan(self.spec, self._built_for, job.sampling)
        yield from self._encoding.layers(job, videos, clips, prefix > 0, reduced, self._turns)

    def help(self) -> None:
        """Do this process's batches of whatever the main one asks for, until it needs no more."""
        assert self._turns.share is not None
        while (job := self._turns.share.hear()) is not None:
            for _ in self._work(job):
                raise AssertionError("only the main process gets what is made")

    def _work(self, job: Job) -> Iterator[object]:
        if isinstance(job, Layers):
            return self._encoded(job)
        if isinstance(job, Maps):
            videos = self._videos_of(job.split, Sampling(max_train=job.max_train))
            return self._encoding.maps(job, videos, self._turns)
        if isinstance(job, Videos):
            return self._encoding.videos(job, self, self._turns)
        assert self._estimator is not None
        return self._encoding.flows(job, self._estimator, self._turns)

    def dismiss(self) -> None:
        """Let the others go; from now on this process works alone."""
        self._turns.dismiss()

    def _num_prefix(self, pools: Collection[Pooling]) -> int:
        """How many class tokens must be encoded for `pools`."""
        return self._encoder.num_prefix if Pooling.cls in pools else 0

    def _keep_pooled(self, split: str, num_layers: int, found: dict[Pooling, Tensor]) -> None:
        for pool, values in found.items():
            self._pooled[split, num_layers, pool] = _finite(values, split).cpu()
            self._to_cache(self._key_of_pooled(split, num_layers, pool), self._pooled[split, num_layers, pool])

    def _key_of_pooled(self, split: str, num_layers: int, pool: Pooling) -> str | None:
        return self._key("pooled", split, num_layers, *named(pool))

    def _videos_of(self, split: str, sampling: Sampling) -> Tensor:
        videos = self._videos[split]
        return videos[subset(len(videos), sampling.max_train)] if split == "train" else videos

    def _keep(self, split: str, num_layers: int, sampling: Sampling) -> Tensor:
        videos = self._videos_of(split, sampling)
        clips = plan(self.spec, self._built_for, sampling)
        per_clip = num_tokens(self._encoder, self.spec, self._built_for, sampling)
        shape = (len(videos), len(clips.views), len(clips.views[0]) * per_clip, num_layers * self._encoder.width)
        self._refuse_large(split, shape)
        values = torch.empty(shape, dtype=self._autocast_dtype or torch.float16)
        sums = self._no_pooled(split, num_layers, self._pools) if sampling == Sampling() else {}
        job = Layers(split, num_layers, sampling, tuple(sums), True)
        for rows, view, place, (*parts, tokens) in self._encoded(job):
            values[rows, view, place * per_clip : (place + 1) * per_clip] = tokens.cpu()
            add(sums, rows, parts, len(clips.views[0]))
        self._keep_pooled(split, num_layers, sums)  # spares the next evaluation an encoding of its own
        return _finite(values, split)

    def _refuse_large(self, split: str, shape: tuple[int, ...]) -> None:
        num_bytes = 2 * torch.Size(shape).numel()
        if num_bytes > self._max_gib * GIB:
            raise ValueError(
                f"the {split} split's tokens, {' x '.join(map(str, shape))} in half precision, take {num_bytes:,} "
                f"bytes, more than runtime.tokens_gib={self._max_gib:g} allows: use fewer samples "
                "(evals.attentive.max_train), clips or views, or allow more"
            )

    def _no_pooled(self, split: str, num_layers: int, pools: Collection[Pooling]) -> dict[Pooling, Tensor]:
        # Made outside inference mode, so that a probe may use it under autograd; on the device, so that a GPU is
        # waited for once and not after every batch.
        num_videos, width = len(self._videos[split]), num_layers * self._encoder.width
        return {pool: torch.zeros(num_videos, num_parts(pool) * width, device=self.device) for pool in pools}


def _finite(values: Tensor, split: str) -> Tensor:
    # In parts: the answers for all tokens at once would take half as much memory as they do.
    if not all(part.isfinite().all() for part in torch.split(values, 1024)):
        raise FloatingPointError(f"the encoder's features of the {split} split are not finite")
    return values
