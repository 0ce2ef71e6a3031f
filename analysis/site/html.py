"""The templates and what they may call. Everything they are given is escaped where it is put into a page."""

from __future__ import annotations

import functools
import re
import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.figures.theme import PALETTE
from sweeps.console.tables import duration
from sweeps.study.metric_words import metric_words
from sweeps.study.overrides import format_override

TEMPLATES = Path(__file__).parent / "templates"
ASSETS = ("style.css", "script.js", "explore.css", "explore.js")
VENDOR = Path(__file__).parent / "vendor"
LIBRARIES = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "tabulator.min.js", "tabulator.min.css")

# What matplotlib draws in, and what stands for it in style.css, so that a figure follows the page's theme.
_COLORS = {
    "#ffffff": "var(--surface)", "#262626": "var(--ink)", "#333333": "var(--ink)", "#000000": "var(--ink)",
    "#cccccc": "var(--line)", "#d9d9d9": "var(--line)", "#e4e4e4": "var(--line-faint)",
    **{color.lower(): f"var(--series-{number})" for number, color in enumerate(PALETTE)},
}  # fmt: skip
_COLOR = re.compile("|".join(_COLORS))
_PLACES = re.compile(r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)')  # hundredths of a point are fine enough


def shown(value: Any) -> str:
    """An option's value as it would be typed on a command line."""
    return format_override("", value).removeprefix("=")


def number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "not finite"
    words = f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.{digits}g}"
    return words.replace("-", "−")


def cost(seconds: float) -> str:
    """As long as it is: `45 s`, `3 h 49 min`; a part of a second is not nothing."""
    return "0" if seconds == 0 else "< 1 s" if seconds < 1 else duration(seconds)


def about(seconds: float) -> str:
    """An estimate, no finer than it is: `≈ 45 s`, `≈ 18 min`, `≈ 1.4 h`."""
    if seconds < 1:
        return cost(seconds)
    if seconds < 5400:
        return f"≈ {cost(seconds) if seconds < 60 else f'{seconds / 60:.0f} min'}"
    return f"≈ {seconds / 3600:.{1 if seconds < 36000 else 0}f} h"


def clock(seconds: float | None) -> str:
    """A time of the database as people write it."""
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def inline_svg(content: bytes, *, name: str, label: str) -> Markup:
    """A drawing of matplotlib's as part of a page: no prolog, ids of its own, colours of the page's theme.

    The drawing has its words as outlines and its comments, which repeat them, are dropped: no text of a run is left.
    """
    text = content.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = _PLACES.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found.group()), text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = _COLOR.sub(lambda found: _COLORS[found.group()], text)
    head, body = text.split(">", 1)
    # Type of 8 points stays 9 pixels high: on a narrow screen a figure is moved along and not shrunk.
    box = re.search(r'viewBox="[\d. ]+"', head)
    assert box is not None
    width = float(box.group().split()[2])
    opening = Markup(
        '<svg class="figure" role="img" aria-label="{}" style="min-width:{:.0f}px;max-width:{:.0f}px" {}>'
    ).format(label, width * 1.15, width * 1.5, Markup(box.group()))
    return opening + Markup(body.rstrip())


@functools.cache
def environment() -> Environment:
    """One for all sites of a process: it keeps its templates compiled."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    found.filters |= {
        "shown": shown,
        "number": number,
        "clock": clock,
        "duration": duration,
        "cost": cost,
        "about": about,
        "words": metric_words,
    }
    return found


def assets() -> dict[str, bytes]:
    """The files beside the pages."""
    ours = {name: (TEMPLATES / name).read_bytes() for name in ASSETS}
    return ours | {f"vendor/{name}": (VENDOR / name).read_bytes() for name in LIBRARIES}
