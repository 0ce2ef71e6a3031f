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


def mistakes(words: Sequence[str]) -> list[str]:
    """What is wrong with the command, all of it."""
    files = [word for word in words if "=" not in word]
    names = dict.fromkeys(word.partition("=")[0] for word in words if "=" in word)
    repeated = terminal.given_twice(words)
    wrong = [repeated] if repeated else []
    if strange := [name for name in names if name != "part"]:
        wrong.append(terminal.unknown_options(strange, ["part"], is_open=False))
    if "part=" in words:
        wrong.append("part= has no value; give one, or leave the word out")
    if len(files) != 1:
        got = f", got {len(files)}: {', '.join(files)}" if files else ""
        wrong.append(f"say which file of weights, one{got}: python -m core.weights FILE [part=NAME]")
    return wrong


def main(words: Sequence[str]) -> int:
    """0, or 2 for a mistake in the command or a file that is none."""
    if any(word in ("-h", "--help", "help") for word in words):
        print(USAGE)
        return 0
    if wrong := mistakes(words):
        said = terminal.without_passwords("\n".join(wrong))
        print(f"error: {said}", file=sys.stderr)
        return 2
    given = dict(word.partition("=")[::2] for word in words if "=" in word)
    try:
        file = next(word for word in words if "=" not in word)
        print(describe(Path(file).expanduser(), given.get("part")))
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(terminal.answered(lambda: main(sys.argv[1:])))
