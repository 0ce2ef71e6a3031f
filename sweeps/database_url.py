"""Database URLs in messages and logs: without a password, whatever somebody wrote into them."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError


def mask_url(url: str | URL) -> str:
    """`url` without its password, fit for a message or a log."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "<not a database URL>"  # it may be a mistyped URL with a password inside: print nothing of it
    if is_torn(parsed):
        return "<a database URL>"
    if "password" in parsed.query:
        parsed = parsed.update_query_dict({"password": "***"})
    return parsed.render_as_string(hide_password=True)


def is_torn(url: URL) -> bool:
    """Whether a letter of the password that should have been escaped cut the URL at the wrong place."""
    if url.get_backend_name() == "sqlite":
        return False
    return any(letter in part for part in (url.host or "", url.database or "") for letter in "@#")
