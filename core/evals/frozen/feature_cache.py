"""Features on disk, found again by what they were made from.

A file is named by a digest of the encoder's weights, the data's content and how the one was shown the other, so a
changed weight or a changed pixel finds nothing and a stale file is never read. Files are written whole or not at all
and read memory-mapped; the least recently used go when the folder is full. Several processes may share a folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.file_lock import locked
from core.types import Dataset

log = logging.getLogger(__name__)
VERSION = 1  # bump when an encoder's arithmetic changes and its weights do not
GIB = 2**30


class FeatureCache:
    """Tensors by key below `folder`, at most `max_gib` of them; a larger one is not kept at all."""

    def __init__(self, folder: Path, max_gib: float) -> None:
        self.folder, self.max_bytes = folder, int(max_gib * GIB)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def get(self, key: str) -> Tensor | None:
        """The tensor, memory-mapped (writing to it changes no file); None where there is none."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                features: Tensor = file.get_tensor("features")
            os.utime(path)  # it was used: others go first
        except FileNotFoundError:
            return None
        except RuntimeError as error:  # the file is opened twice, and another process made room in between
            if "No such file" not in str(error):
                raise
            return None
        except SafetensorError as error:  # a disk that lied about flushing
            log.warning("cached features %s cannot be read (%s); they are made again", path, error)
            path.unlink(missing_ok=True)
            return None
        return features

    def put(self, key: str, features: Tensor) -> None:
        """Keep `features`, making room first. A disk that takes no more is logged: they are there all the same."""
        num_bytes = features.numel() * features.element_size()
        if num_bytes > self.max_bytes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{key}.{os.getpid()}.tmp"
        try:
            # Two at once would both find the same room.
            with locked(self.folder / ".lock"):
                self._make_room(num_bytes)
                save_file({"features": features.contiguous()}, draft)
                draft.replace(self.path(key))
        except OSError as error:
            log.warning("features were not cached in %s: %s", self.folder, error)
        finally:
            draft.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> None:
        files = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + num_bytes <= self.max_bytes:
                break
            path.unlink(missing_ok=True)  # whoever has it mapped keeps it until they are done
            total -= size


def weights_digest(encoder: nn.Module) -> str:
    """Of every parameter and buffer, by name."""
    found = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def data_digest(dataset: Dataset) -> str | None:
    """Of every sample, or what the data set says stands for them; None where only reading all files would tell."""
    told = getattr(dataset, "fingerprint", None)
    if told is not None:
        return str(told())
    if getattr(dataset, "is_lazy", False):
        return None
    found = hashlib.sha256()
    for indices in torch.split(torch.arange(len(dataset)), 256):
        found.update(dataset.fetch(indices).clips.contiguous().numpy().data)
    return found.hexdigest()


def key_of(*facts: Any) -> str:
    """One name for everything that decides features."""
    return hashlib.sha256(repr((VERSION, torch.__version__, *facts)).encode()).hexdigest()[:32]
