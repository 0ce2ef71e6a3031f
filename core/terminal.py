"""Terminals of whatever encoding."""

from __future__ import annotations

import io
import sys


def survive_any() -> None:
    """Letters that the terminal's encoding does not have (–, ±) are replaced, rather than ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
