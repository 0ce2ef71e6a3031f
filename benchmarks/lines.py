"""The lines of a benchmark: shown as they are found, and kept in a file where that is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def arguments_of(doc: str | None, output: Path) -> argparse.ArgumentParser:
    """A parser whose help is the benchmark's `doc` and that knows ``--write``, which is for `output`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"also into {output.relative_to(ROOT)}")
    return parser


def show(lines: Iterable[str], output: Path | None) -> None:
    """Print each line as it comes, and write all of them to `output`, if given, once the last has come."""
    shown = []
    for line in lines:
        print(line, flush=True)
        shown.append(line)
    if output is not None:
        output.write_text("\n".join(shown) + "\n", encoding="utf-8")
