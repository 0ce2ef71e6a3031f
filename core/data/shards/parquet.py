"""Pictures in Parquet files, as data sets are kept on public hubs.

Read by pyarrow, which reads exactly the files that it is given: no network, no code of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.shards.shard_set import Shard, ShardSet, Span


@dataclass
class Parquet(ShardSet):
    """Parquet shards with encoded pictures: `path`/**/train-*.parquet and test-*.parquet (or validation-*).

    A column of bytes, or of bytes and path as Hugging Face's `datasets` writes pictures, and a column of class numbers,
    whose names are read where the file has them. A split too large for `memory_gb` takes its encoded pictures' size in
    the cache, since in a shard they are compressed together.
    """

    image: str = ""  # the column of pictures; empty: the only one of bytes
    label: str = ""  # the column of class numbers; empty: label, labels, class or fine_label, if there is one

    def suffixes(self) -> tuple[str, ...]:
        return (".parquet",)

    def options(self) -> list[str | None]:
        return [self.image, self.label]

    def shard(self, file: Path) -> Shard:
        # Importing pyarrow takes half a second, which only those who use it should wait for.
        from core.data.shards.parquet_columns import described

        stat = file.stat()
        return described(file, stat.st_size, stat.st_mtime_ns, self.image, self.label)

    def spans(self, file: Path) -> list[Span] | None:
        return None

    def blobs(self, file: Path, places: Sequence[int]) -> Iterator[bytes]:
        from core.data.shards.parquet_columns import blobs  # as above: it imports pyarrow

        return blobs(file, places, self.image)
