"""What sets share whose files hold many encoded pictures each."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.data import split_folders
from core.data.arrays import ArrayDataset, cache_key, cached_folder, check_from_zero, check_split
from core.data.fingerprint import numbered
from core.data.squares import LazySquares, Squares, unreadable
from core.types import DataSpec, generator_for

log = logging.getLogger(__name__)

_VERSION = 1  # raise it when the same files would be decoded to other pixels


class Shard(NamedTuple):
    """What a file says of its pictures without decoding one."""

    number: int
    labels: list[int] | None  # of each picture; None: it has none
    names: list[str] | None = None  # of each picture, where they have some
    classes: tuple[str, ...] | None = None  # names of all classes, where the file tells them

    def name(self, place: int) -> str:
        return self.names[place] if self.names else f"row {place}"


class Span(NamedTuple):
    """Where the bytes of a picture are."""

    file: str
    start: int
    length: int


class Part(NamedTuple):
    """The pictures of a shard that are in a split, by their places there."""

    file: Path
    places: list[int]


@dataclass
class ShardSet(Squares):
    """Pictures in shards below `path`, in files' order. A shard is of the split that its name or its folder's tells:

    train-00000-of-00002.parquet, val/000.tar; `test` is the validation split where none is called test. Where no name
    tells a split, a share of each class's pictures is held out. Pictures that cannot be read are left out by name.
    """

    test_share: float = 0.2  # held out of each class where no file's name tells a split
    split_seed: int = 0  # which pictures those are

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.test_share < 1, "test_share", "in (0, 1)")

    # ---- what a format says

    def suffixes(self) -> tuple[str, ...]:
        """What its shards' names end in."""
        raise NotImplementedError

    def shard(self, file: Path) -> Shard:
        """Raises ValueError naming the file, and the option that would help."""
        raise NotImplementedError

    def spans(self, file: Path) -> list[Span] | None:
        """Where each picture's bytes are in the shard; None where they are not there as such."""
        raise NotImplementedError

    def blobs(self, file: Path, places: Sequence[int]) -> Iterator[bytes]:
        """The encoded pictures at `places`, which ascend."""
        spans = self.spans(file)
        assert spans is not None, "a format without spans has its own blobs"
        yield from (read_span(spans[place]) for place in places)

    # ---- what a split holds

    def spec(self) -> DataSpec:
        num_classes = self.num_classes()
        self.parts("test")  # a missing split is better known before training than after
        return self.spec_of(num_classes)

    def num_classes(self) -> int:
        """0 where the pictures to learn from have no labels. Raises ValueError where some have and others do not."""
        parts = self.parts("train")
        shards = [self.shard(part.file) for part in parts]
        bare = [part.file for part, shard in zip(parts, shards, strict=True) if shard.labels is None]
        if bare and len(bare) < len(parts):
            raise ValueError(f"data.path={self.path}: {bare[0].name} has no labels, and other shards have")
        if bare:
            return 0
        if named := {shard.classes for shard in shards if shard.classes}:
            if len(named) > 1:
                raise ValueError(f"data.path={self.path}: its shards name different classes")
            return len(named.pop())
        labels = {label for shard in shards for label in shard.labels or []}
        check_from_zero(min(labels), max(labels), f"data.path={self.path}")
        return 1 + max(labels)

    def known_labels(self, split: str) -> dict[str, Tensor]:
        num_classes = self.num_classes()
        return {"class": torch.tensor(self._labels(self.parts(split), num_classes))} if num_classes else {}

    def _labels(self, parts: Sequence[Part], num_classes: int) -> list[int]:
        found: list[int] = []
        for part in parts:
            labels = self.shard(part.file).labels
            if labels is None:
                raise ValueError(f"data.path={self.path}: {part.file.name} has no labels, and those of train have")
            found += [labels[place] for place in part.places]
        if found and not 0 <= min(found) <= max(found) < num_classes:
            wrong = next(label for label in found if not 0 <= label < num_classes)
            raise ValueError(
                f"data.path={self.path}: a picture has the label {wrong}, train only 0 to {num_classes - 1}"
            )
        return found

    def sources(self) -> list[tuple[str, Path]]:
        files = self.files()
        splits = {file: split for split in ("train", "test") for file in files.get(split, [])}
        return [
            (f"{splits.get(file, '')} {name}", file)
            for name, file in numbered(sorted(splits) or files[""], Path(self.path))
        ]

    def files(self) -> dict[str, list[Path]]:
        """Split -> its shards; "" -> all of them, where no name tells a split. Raises ValueError."""
        root, kinds = Path(self.path), " or ".join(f"*{suffix}" for suffix in self.suffixes())
        if not self.path or not root.is_dir():
            there = "" if not self.path else ", which is not a folder" if root.exists() else ", which does not exist"
            raise ValueError(f"data.path must be a folder with {kinds} files, got {self.path!r}{there}")
        files = [file for file in split_folders.walk(root) if file.name.lower().endswith(self.suffixes())]
        if not files:
            raise ValueError(f"data.path={self.path} has no {kinds} file")
        told: dict[str, list[Path]] = {}
        for file in files:
            told.setdefault(split_of(file.relative_to(root)), []).append(file)
        if list(told) == [""]:
            return told
        if unknown := told.get(""):
            raise ValueError(
                f"data.path={self.path}: of {unknown[0].relative_to(root)} neither name nor folder tells a split, as "
                "those of other shards do: name it train-..., or give a folder without it"
            )
        if "train" not in told or len(told) < 2:
            lacks = "train" if "train" not in told else " or ".join(split_folders.NAMES["test"])
            raise ValueError(f"data.path={self.path} has shards of {', '.join(told)}, and none called {lacks}-...")
        return told | ({} if "test" in told else {"test": told["validation"]})

    def parts(self, split: str) -> list[Part]:
        """The pictures of a split. Raises ValueError."""
        files = self.files()
        if "" not in files:
            if split not in files:
                raise ValueError(f"data.path={self.path} has no shards of {split}")
            return [Part(file, list(range(self.shard(file).number))) for file in files[split]]
        check_split(split)
        return self._hold_out(split, files[""])

    def _hold_out(self, split: str, files: Sequence[Path]) -> list[Part]:
        by_class: dict[int, list[tuple[int, int]]] = {}  # the number of a shard, and a place in it
        for number, shard in enumerate(map(self.shard, files)):
            for place, label in enumerate(shard.labels or [0] * shard.number):
                by_class.setdefault(label, []).append((number, place))
        places: list[list[int]] = [[] for _ in files]
        for label, members in sorted(by_class.items()):
            if len(members) < 2:
                raise ValueError(f"data.path={self.path}: class {label} needs two pictures, one to hold out; it has 1")
            num_test = min(max(round(self.test_share * len(members)), 1), len(members) - 1)
            order = torch.randperm(len(members), generator=generator_for(self.split_seed, "split", str(label))).tolist()
            for index in order[:num_test] if split == "test" else order[num_test:]:
                number, place = members[index]
                places[number].append(place)
        return [Part(file, sorted(chosen)) for file, chosen in zip(files, places, strict=True) if chosen]

    # ---- pixels

    def load(self, split: str, cache: Path) -> ArrayDataset | LazyShards:
        check_split(split, tuple(split_folders.NAMES))
        num_classes, parts = self.num_classes(), self.parts(split)
        number = sum(len(part.places) for part in parts)
        in_memory = self.fits(number)
        facts = [(str(part.file.resolve()), (stat := part.file.stat()).st_size, stat.st_mtime_ns) for part in parts]
        divided = [self.test_share, self.split_seed] if "" in self.files() else []
        options = [type(self).__name__, *self.options(), *divided, self.stored, self.crop, in_memory]
        folder = cache / "shards" / f"{split}-{cache_key([_VERSION, facts, options])}"
        cached_folder(folder, lambda draft: self._write(draft, parts, number))

        reasons = unreadable(folder)
        called = self._names(parts, set(reasons))
        for bad, reason in reasons.items():
            log.warning("data.path: left out the unreadable image %s (%s)", called[bad], reason)
        kept = [index for index in range(number) if index not in reasons]
        if not kept:
            raise ValueError(f"data.path={self.path}: no image of the {split} split can be read")
        labels = {}
        if num_classes:
            every = self._labels(parts, num_classes)
            labels["class"] = torch.tensor([every[index] for index in kept])
            if gone := sorted(set(every) - {every[index] for index in kept}):
                raise ValueError(
                    f"data.path={self.path}: no image of class {gone[0]} can be read; each class needs one"
                )
        excluded, spec = tuple(called.values()), self.spec_of(num_classes)
        if in_memory:
            return ArrayDataset(spec, np.load(folder / "clips.npy", mmap_mode="r"), labels, excluded, folder)
        spans = self._spans(folder, parts)
        kept_spans = [spans[index] for index in kept]
        return LazyShards(kept_spans, spec, labels, excluded, folder.name, self.stored, self.crop)

    def options(self) -> list[str | None]:
        """Options of the format that decide what a shard holds."""
        return []

    def _names(self, parts: Sequence[Part], wanted: set[int]) -> dict[int, str]:
        """The pictures at `wanted` places of the split, by their shards and their names there."""
        members = ((part.file, place) for part in parts for place in part.places)
        return {
            index: f"{file.relative_to(self.path).as_posix()}/{self.shard(file).name(place)}"
            for index, (file, place) in enumerate(members)
            if index in wanted
        }

    def _spans(self, folder: Path, parts: Sequence[Part]) -> list[Span]:
        copy = folder / "pictures.bin"
        if copy.exists():
            ends = np.load(folder / "ends.npy").tolist()
            return [Span(str(copy), start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
        found: list[Span] = []
        for part in parts:
            spans = self.spans(part.file)
            assert spans is not None, "what has no spans was copied"
            found += [spans[place] for place in part.places]
        return found

    def _write(self, folder: Path, parts: Sequence[Part], number: int) -> None:
        """`decode_into`; of a split whose squares are not kept, what no shard holds as such is copied."""
        copies = not self.fits(number) and any(self.spans(part.file) is None for part in parts)
        blobs = (blob for part in parts for blob in self.blobs(part.file, part.places))
        if not copies:
            return self.decode_into(folder, map(BytesIO, blobs), number)
        ends: list[int] = []
        with (folder / "pictures.bin").open("wb") as copy:

            def encoded() -> Iterator[BytesIO]:
                for blob in blobs:
                    copy.write(blob)
                    ends.append(copy.tell())
                    yield BytesIO(blob)

            self.decode_into(folder, encoded(), number)
        np.save(folder / "ends.npy", np.array(ends, np.int64))


def split_of(file: Path) -> str:
    """ "train", "test" or "validation" by the words of a file's name, else of its folders'; "" where none tells."""
    for part in reversed(file.parts):
        words = re.findall(r"[a-z]+", part.lower())
        for split in ("train", "validation", "test"):  # test's names have those of validation too
            if any(word in split_folders.NAMES[split] for word in words):
                return split
    return ""


def read_span(span: Span) -> bytes:
    with Path(span.file).open("rb") as opened:
        opened.seek(span.start)
        return opened.read(span.length)


class LazyShards(LazySquares):
    """Of bytes in shards."""

    def __init__(self, spans: Sequence[Span], *about: Any) -> None:
        """`about` them what `LazySquares` is told."""
        super().__init__(*about)
        self._files = sorted({span.file for span in spans})
        number = {file: place for place, file in enumerate(self._files)}
        # As an array: worker processes would copy the pages of a list's objects as they count references to them.
        self._spans = np.array([(number[span.file], span.start, span.length) for span in spans], np.int64)

    def __len__(self) -> int:
        return len(self._spans)

    def picture(self, index: int) -> tuple[Path | BytesIO, str]:
        number, start, length = self._spans[index].tolist()
        span = Span(self._files[number], start, length)
        return BytesIO(read_span(span)), f"{span.file}, {length} bytes at {start},"
