"""Pickles of arrays, read without running what they say.

A pickle is a program: it may call any function that can be imported. Here it gets none but the four that NumPy's arrays
and byte strings are made by.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 writes bytes as in the formats of Python 2; `codecs.encode` itself knows codecs that unpack."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    **{(module, "_reconstruct"): _reconstruct for module in _ARRAYS},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays are read here") from None

    def persistent_load(self, name: Any) -> Any:
        raise pickle.UnpicklingError("it refers to what is not in it")


def read_arrays(file: Path) -> Any:
    """The numbers, texts, lists, dicts and arrays in a pickle; texts of Python 2 are bytes.

    Raises ValueError naming the file: cut off, no pickle, or one that asks for anything else, which is not run.
    """
    try:
        with file.open("rb") as opened:
            return _ArraysOnly(opened, encoding="bytes").load()
    # What a damaged pickle raises depends on where it is damaged.
    except (
        pickle.UnpicklingError,
        EOFError,
        ArithmeticError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"data.path: {file} cannot be read as a pickle of arrays: {error}") from error
