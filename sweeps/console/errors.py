"""Mistakes that whoever typed the command can mend, the exit codes of commands, and words that both use."""

from __future__ import annotations

from collections.abc import Iterable

from core.terminal import close_matches as close_matches

OK, INCOMPLETE, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


class UserError(ValueError):
    """Something that whoever typed the command can mend; the message says how."""


def no_such_study(name: str, known: Iterable[str]) -> str:
    """What is said of a table that a database has not; `name` may be a study's file, whose tables are then named."""
    listed = list(known)
    stem = name.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml").partition("@")[0]
    tables = [table for table in listed if table.partition("@")[0] == stem]
    near = f" (did you mean {' or '.join(tables[:3])}?)" if tables else close_matches(name, listed)
    return f"study={name}: the database has no such study{near}"
