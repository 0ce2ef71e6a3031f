"""Database URLs in messages and logs: without a password, whatever somebody wrote into them."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

# Options of a URL that hold no secret: of the others (password, sslpassword, passfile, options, a misspelt one) none
# is shown.
PUBLIC = (
    "host", "user", "dbname", "service", "sslmode", "connect_timeout", "application_name",
    "target_session_attrs", "mode", "uri", "immutable", "cache", "timeout",
)  # fmt: skip


def mask_url(url: str | URL) -> str:
    """`url` without its password, fit for a message or a log."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "<not a database URL>"  # it may be a mistyped URL with a password inside: print nothing of it
    if is_torn(url):
        return "<a database URL>"
    parsed = parsed.update_query_dict({name: "***" for name in parsed.query if name not in PUBLIC})
    return parsed.render_as_string(hide_password=True)


def is_torn(url: str | URL) -> bool:
    """Whether a letter of the password that should have been escaped cut the URL at the wrong place."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return False
    if isinstance(url, str) and url.count("@") > 1:  # what follows the first may be the rest of a password
        return True
    return any(letter in part for part in (parsed.host or "", parsed.database or "") for letter in "@#")
