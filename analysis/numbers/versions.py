"""What decides the files that a database gives beside its content: our code and the libraries. Quick to import."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from sweeps.cells.edited import content_of


@functools.cache
def code(packages: tuple[str, ...]) -> str:
    """Of all files of these packages of ours, the templates and scripts of pages among them."""
    root = Path(__file__).parents[2]
    paths = (path for name in packages for path in sorted((root / name).rglob("*")) if "__pycache__" not in path.parts)
    return digest(f"{path.relative_to(root)} {content_of(path)}" for path in paths if path.is_file())


@functools.cache
def libraries() -> str:
    """Python's version and that of all that is installed: a drawing library decides what a figure's bytes are."""
    installed = {path.name for place in sys.path if place for path in Path(place).glob("*.dist-info")}
    return digest([sys.version, os.name, *sorted(installed)])


def digest(words: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
