"""Tensors of a file by name, without running anything that the file says.

safetensors hold nothing but tensors. A pickle is a program: it is read by torch's restricted reader, which builds
tensors, containers and numbers, and refuses whatever else the file asks for.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# A released file holds one encoder or several, beside optimisers; the moving average is what the papers judge.
PARTS = ("target_encoder", "ema_encoder", "encoder", "model_state", "model", "module", "state_dict", "learner")
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|backbone\.)+")  # of DDP, torch.compile and V-JEPA's mask wrapper
# What training scripts leave in their checkpoints beside tensors: a plain record of the command line.
HARMLESS: list[Any] = [argparse.Namespace]


class WeightsError(ValueError):
    """A file that cannot be read, or does not fit the encoder; the message says what would."""


@dataclass
class Source:
    """Names and shapes of a file's tensors, and a way to read one."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    encoder: dict[str, Any] = field(default_factory=dict)  # what the file says of its encoder's options, if it does
    pixels: tuple[list[float], list[float]] | None = None  # mean and std, where the file says them


@functools.lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """The file's content as 64 hex digits; read once a process as long as its size and time stay."""
    facts = found(path).stat()
    return _digest(path, facts.st_size, facts.st_mtime_ns)


def found(path: Path) -> Path:
    if path.is_dir():
        raise WeightsError(f"weights.path={path} is a folder: name the file in it (model.safetensors, say)")
    if not path.is_file():
        raise WeightsError(f"weights.path={path}: there is no such file (a relative path starts at runtime.data_root)")
    return path


def open_file(path: Path, part: str | None = None) -> Source:
    """The tensors of `path`; of several state dicts in it, `part` or the first of `PARTS`.

    Raises WeightsError when it is no such file, asks for more than tensors, or has no such part.
    """
    with found(path).open("rb") as file:
        start = file.read(2)
    if zipfile.is_zipfile(path) or start == b"\x80\x02":
        return _pickled(path, part)
    if start[:1] == b"\x80" and start[1:2] in (b"\x03", b"\x04", b"\x05"):
        raise WeightsError(
            f"weights.path={path} is refused, and nothing in it was run: a pickle that torch did not write (protocol "
            f"{start[1]}, torch's is 2)"
        )
    if part is not None:
        raise WeightsError(f"weights.part={part}: a safetensors file has no parts; leave it out")
    return _safetensors(path)


def _safetensors(path: Path) -> Source:
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"weights.path={path}: neither safetensors nor a checkpoint of torch ({str(error).splitlines()[0]})"
        ) from None
    stored = {WRAPPERS.sub("", name): name for name in names}

    def read(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(stored[name])
        return tensor

    ours = json.loads(metadata.get("ssl_ablations", "{}"))
    pixels = (ours["mean"], ours["std"]) if "mean" in ours else None
    encoder = {name: ours[name] for name in ("heads", "position") if name in ours} or _beside(path)
    return Source({clean: shapes[name] for clean, name in stored.items()}, read, encoder, pixels)


def _beside(path: Path) -> dict[str, Any]:
    """The number of heads, which no tensor's shape tells, from the `config.json` that transformers puts beside it."""
    config = path.with_name("config.json")
    if not config.is_file():
        return {}
    try:
        heads = json.loads(config.read_text(encoding="utf-8")).get("num_attention_heads")
    except (ValueError, AttributeError, OSError) as error:
        raise WeightsError(f"{config}: cannot be read as JSON ({error}); mend or remove it") from None
    return {"heads": heads} if isinstance(heads, int) else {}


def _pickled(path: Path, part: str | None) -> Source:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            # Mapped into memory where the format allows: a checkpoint with its optimiser is five times its encoder.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global|function|class) ([\w]+(?:\.[\w]+)+)", str(error))
        what = f"it asks for {asked.group(1)}" if asked else str(error).splitlines()[0]
        raise WeightsError(
            f"weights.path={path} is refused, and nothing in it was run: {what}, which is more than tensors. Where you "
            "trust its author, save its state dict as safetensors and give that"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"weights.path={path} cannot be read: {(str(error) or repr(error)).splitlines()[0]}"
        ) from None
    state, encoder = _part(path, content, part), {}
    if isinstance(content, dict) and isinstance(content.get("config"), str):  # one of our checkpoints
        config = json.loads(content["config"])
        names = {"heads": "encoder.heads", "position": "encoder.position"}
        encoder = {name: config[key] for name, key in names.items() if key in config}
    tensors = {WRAPPERS.sub("", str(name)): value for name, value in state.items() if isinstance(value, Tensor)}
    return Source({name: tuple(value.shape) for name, value in tensors.items()}, tensors.__getitem__, encoder)


def _part(path: Path, content: Any, part: str | None) -> Mapping[str, Any]:
    """The state dict in a checkpoint: itself, or the one under `part` or the first known name."""
    if not isinstance(content, dict):
        raise WeightsError(f"weights.path={path} holds a {type(content).__name__}, not a dict of tensors")
    holders = [str(name) for name, value in content.items() if isinstance(value, dict)]
    if part is not None:
        if part not in holders:
            raise WeightsError(f"weights.part={part}: {path} has no such part; it has: {', '.join(holders) or 'none'}")
        inner: Mapping[str, Any] = content[part]
        return inner
    if any(isinstance(value, Tensor) for value in content.values()):
        return content
    known = [name for name in PARTS if name in holders]
    if not known:
        raise WeightsError(
            f"weights.path={path} holds no tensors by name at its top, nor under {', '.join(PARTS)}; it has: "
            f"{', '.join(map(str, content)) or 'nothing'}. Say which with weights.part"
        )
    return _part(path, content[known[0]], None)
