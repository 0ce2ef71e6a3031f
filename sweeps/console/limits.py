"""What numbers typed as options may be, and what ``stack=auto`` is."""

from __future__ import annotations

LARGEST = 2**63 - 1  # that a database holds
AUTO_STACK, MOST_STACKED = 0, 64  # of stack=


def as_whole(text: str) -> int | None:
    """The whole number that `text` is; None where it is none."""
    try:
        return int(text) if text.removeprefix("-").isdecimal() else None
    except ValueError:  # of thousands of digits
        return None


MOST_TOGETHER = 4096  # processes of a run
