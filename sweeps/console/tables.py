"""Tables and durations as terminals show them."""

from __future__ import annotations

from rich.console import Console


class _Table(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # `run` knows what it means; the original ends the program with code 1


def console() -> Console:
    """For tables: as wide as the terminal, or wide enough to cut nothing where the output goes to a file or a pipe."""
    found = _Table()
    return found if found.is_terminal else _Table(width=240)


def counted(number: int, word: str, many: str = "") -> str:
    """`1 study`, `3 studies`: `many` is the word for several where it is not `word` and an s."""
    return f"{number:,} {word if number == 1 else many or f'{word}s'}"


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`; a dash for None."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )
