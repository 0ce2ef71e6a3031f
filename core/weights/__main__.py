"""What a file of weights holds, as the options that read it: ``python -m core.weights jepa.safetensors``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from core import terminal
from core.weights.mapping import Found, identify, plain
from core.weights.reading import WeightsError, open_file, sha256_of

USAGE = """usage: python -m core.weights FILE [part=NAME]

Prints a file's layout, its sha256 and the options that a run needs to start from it. Nothing in the file is run."""


def describe(path: Path, part: str | None) -> str:
    source = open_file(path, part)
    try:
        found = identify(source)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    lines = [
        f"layout     {found.layout.name}",
        f"sha256     {sha256_of(path)}",
        f"options    {' '.join(options(found))}",
    ]
    if "heads" not in found.options:
        lines.append("heads      the file does not say: give encoder.heads as its authors do")
    if found.num_positions is not None:
        lines.append(f"positions  of {found.num_positions} patches")
    return "\n".join(lines)


def options(found: Found) -> list[str]:
    return [f"encoder.{name}={plain(value)}" for name, value in found.options.items()]


def main(words: Sequence[str]) -> int:
    """0, or 2 for a mistake in the command or a file that is none."""
    files = [word for word in words if "=" not in word]
    parts = [word.removeprefix("part=") for word in words if word.startswith("part=")]
    if len(files) != 1 or len(files) + len(parts) != len(words) or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words and words[0] in ("-h", "--help") else 2
    if (repeated := terminal.given_twice(words)) is not None:
        print(f"error: {repeated}", file=sys.stderr)
        return 2
    try:
        print(describe(Path(files[0]).expanduser(), parts[0] if parts else None))
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(terminal.answered(lambda: main(sys.argv[1:])))
