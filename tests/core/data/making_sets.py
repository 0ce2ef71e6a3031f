"""Tiny copies of public sets of pictures, in the files that their makers offer."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from core.types import Data


def picture(seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(seed: int, side: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(seed, side)).save(stream, "PNG")
    return stream.getvalue()


def write_file(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


# ---- arrays ----------------------------------------------------------------------------------------------------------


def stl10(root: Path, num: int = 20, unlabeled: int = 12) -> Path:
    """Channel by channel, each column by column; labels from 1."""
    folder = root / "stl10_binary"
    for split, number in (("train", num), ("test", num), ("unlabeled", unlabeled)):
        pixels = [picture(hash_of(split, i), 96).transpose(2, 1, 0).tobytes() for i in range(number)]
        write_file(folder / f"{split}_X.bin", b"".join(pixels))
        if split != "unlabeled":
            write_file(folder / f"{split}_y.bin", bytes(1 + i % 10 for i in range(number)))
    write_file(folder / "class_names.txt", b"airplane\nbird\n")
    return root


def hash_of(split: str, number: int) -> int:
    return {"train": 0, "test": 1000, "unlabeled": 2000}[split] + number


class Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes bytes as Python 2 wrote its texts."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def pickled(content: Any) -> bytes:
    """As Python 2 and the NumPy of 2009 wrote it."""
    stream = io.BytesIO()
    Python2(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def batch(seed: int, num: int) -> np.ndarray:
    return np.stack([picture(seed + i).transpose(2, 0, 1).ravel() for i in range(num)])


def cifar10(root: Path, num: int = 20) -> Path:
    for place, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = {
            b"batch_label": name.encode(),
            b"labels": [i % 10 for i in range(num)],
            b"data": batch(100 * place, num),
        }
        write_file(root / "cifar-10-batches-py" / name, pickled(content | {b"filenames": [b"a.png"] * num}))
    write_file(root / "cifar-10-batches-py" / "batches.meta", pickled({b"label_names": [b"airplane"]}))
    return root


def cifar10_binary(root: Path, num: int = 20) -> Path:
    for place, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = [bytes([i % 10]) + row.tobytes() for i, row in enumerate(batch(100 * place, num))]
        write_file(root / "cifar-10-batches-bin" / f"{name}.bin", b"".join(rows))
    return root


def cifar100(root: Path, num: int = 40) -> Path:
    for place, name in enumerate(("train", "test")):
        fine, coarse = [i % 100 for i in range(num)], [i % 20 for i in range(num)]
        content = {b"fine_labels": fine, b"coarse_labels": coarse, b"data": batch(100 * place, num)}
        write_file(root / "cifar-100-python" / name, pickled(content))
    return root


def cifar100_binary(root: Path, num: int = 40) -> Path:
    for place, name in enumerate(("train", "test")):
        rows = [bytes([i % 20, i % 100]) + row.tobytes() for i, row in enumerate(batch(100 * place, num))]
        write_file(root / "cifar-100-binary" / f"{name}.bin", b"".join(rows))
    return root


# ---- files -----------------------------------------------------------------------------------------------------------

WNIDS = ("n01440764", "n02102040")


def imagenette(root: Path, num: int = 8) -> Path:
    for split, offset in (("train", 0), ("val", 100)):
        for label, wnid in enumerate(WNIDS):
            for i in range(num):
                write_file(
                    root / "imagenette2-160" / split / wnid / f"{wnid}_{i}.JPEG", encoded(offset + 10 * label + i, 40)
                )
    write_file(root / "imagenette2-160" / "noisy_imagenette.csv", b"path,noisy_labels_0\n")
    return root


def tiny_imagenet(root: Path, num: int = 8) -> Path:
    folder, lines = root / "tiny-imagenet-200", []
    for label, wnid in enumerate(WNIDS):
        for i in range(num):
            write_file(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", encoded(10 * label + i, 64))
        write_file(folder / "train" / wnid / f"{wnid}_boxes.txt", b"n01440764_0.JPEG\t0\t0\t63\t63\n")
    for i in range(num):
        write_file(folder / "val" / "images" / f"val_{i}.JPEG", encoded(200 + i, 64))
        lines.append(f"val_{i}.JPEG\t{WNIDS[(i + 1) % 2]}\t0\t32\t44\t62\n")
    write_file(folder / "val" / "val_annotations.txt", "".join(lines).encode())
    write_file(folder / "test" / "images" / "test_0.JPEG", encoded(300, 64))
    write_file(folder / "wnids.txt", "\n".join(WNIDS).encode())
    return root


# ---- shards ----------------------------------------------------------------------------------------------------------


def write_parquet(file: Path, seeds: Sequence[int], *, classes: int = 2, names: bool = True) -> Path:
    """A struct of bytes and path, and class numbers, with the head that Hugging Face's `datasets` writes."""
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": encoded(seed), "path": f"{seed}.png"} for seed in seeds],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "label": pa.array([seed % classes for seed in seeds], pa.int64()),
        }
    )
    features = {
        "image": {"_type": "Image"},
        "label": {"names": [f"kind {i}" for i in range(classes)], "_type": "ClassLabel"},
    }
    if names:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=4)
    return file


def parquet(root: Path, num: int = 10) -> Path:
    write_parquet(root / "data" / "train-00000-of-00002.parquet", range(num))
    write_parquet(root / "data" / "train-00001-of-00002.parquet", range(num, 2 * num))
    write_parquet(root / "data" / "test-00000-of-00001.parquet", range(100, 100 + num))
    return root


def write_tar(file: Path, seeds: Sequence[int], *, classes: int = 2, kind: str = "png", labels: bool = True) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for seed in seeds:
            members = {kind: encoded(seed), "json": b"{}"} | ({"cls": str(seed % classes).encode()} if labels else {})
            for suffix, content in members.items():
                head = tarfile.TarInfo(f"{seed:06d}.{suffix}")
                head.size = len(content)
                archive.addfile(head, io.BytesIO(content))
    return file


def webdataset(root: Path, num: int = 10) -> Path:
    write_tar(root / "shapes-train-000000.tar", range(num))
    write_tar(root / "shapes-train-000001.tar", range(num, 2 * num))
    write_tar(root / "shapes-val-000000.tar", range(100, 100 + num))
    return root


# ---- of all kinds ----------------------------------------------------------------------------------------------------


def made(kind: str, root: Path) -> tuple[str, dict[str, Any]]:
    """Files of a kind below `root`, and the kind with the options that read them small."""
    makers = {
        "stl10": (stl10, {"size": 32}),
        "cifar10": (cifar10, {}),
        "cifar100": (lambda root: cifar100(root, 200), {"superclass": True}),
        "imagenette": (lambda root: imagenette(root, 12), {"size": 32}),
        "tiny_imagenet": (lambda root: tiny_imagenet(root, 12), {"size": 32}),
        "parquet": (parquet, {"size": 32}),
        "webdataset": (webdataset, {"size": 32}),
    }
    make, options = makers[kind]
    return kind, {"path": str(make(root)), **options}


KINDS = ("stl10", "cifar10", "cifar100", "imagenette", "tiny_imagenet", "parquet", "webdataset")


def loaded_pixels(data: Data, split: str, cache: Path, index: int) -> np.ndarray:
    """[H, W, 3] of one picture."""
    return data.load(split, cache).fetch(torch.tensor([index])).clips[0, :, 0].permute(1, 2, 0).numpy()
