"""Mistakes that whoever typed the command can mend, the exit codes of commands, and words that both use."""

from __future__ import annotations

from core.terminal import close_matches as close_matches

OK, INCOMPLETE, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


class UserError(ValueError):
    """Something that whoever typed the command can mend; the message says how."""
