"""How figures look, and what keeps their bytes the same from one machine and day to the next."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from sweeps.cells.edited import content_of

# Okabe and Ito's palette: told apart with any common colour blindness, and in print; black is kept for references.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#666666"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]  # so that colour is never the only difference
REFERENCE = "#333333"
# Inches: a column and the text of the narrowest usual two-column paper, LaTeX's own article, and the text of one of one
# column (ICLR, NeurIPS). A figure is as wide as one of them and is never scaled, so that its type is of one size.
COLUMN = 3.15
TEXTS = {"two_column": 6.45, "one_column": 5.45}
PASTED = "two_column"
TYPE = 8.0  # points
POINTS = 72.0  # an inch
FONT = "DejaVu Sans"  # ships with matplotlib
FONT_FILES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")

_RC: dict[str, Any] = {
    "font.family": FONT,
    "svg.fonttype": "path",
    "svg.hashsalt": "ssl-ablations",  # element ids are random otherwise
    "text.usetex": False,
    "text.parse_math": False,  # a label's "$" is a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # journals refuse Type 3
    "font.size": TYPE,
    "axes.titlesize": TYPE,
    "axes.labelsize": TYPE,
    "xtick.labelsize": TYPE,
    "ytick.labelsize": TYPE,
    "legend.fontsize": TYPE,
    "legend.title_fontsize": TYPE,
    "figure.titlesize": TYPE + 1,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "grid.color": "#E4E4E4",
}


def settings(article: str = PASTED) -> dict[str, Any]:
    """rcParams to draw and save in: seaborn's white grid and ours on top, nothing of the user's matplotlibrc.

    A figure is as wide as the text of this article unless it is drawn for a column.
    """
    _use_own_font()
    size = {"figure.figsize": (TEXTS[article], 4.0)}
    return {**sns.plotting_context("paper"), **sns.axes_style("whitegrid"), **_RC, **size}


def text_width() -> float:
    """Inches, within `settings`."""
    return float(mpl.rcParams["figure.figsize"][0])


@functools.cache
def what_decides(article: str = PASTED) -> tuple[str, ...]:
    """What the bytes of a figure depend on beside what is drawn, our code and the libraries: settings and the font."""
    with mpl.rc_context(cast(Any, settings(article))):
        # Asked for its backend, matplotlib would look for a screen; ours are named in the code below.
        chosen = [f"{key}: {mpl.rcParams[key]!r}" for key in sorted(mpl.rcParams) if key != "backend"]
    return *chosen, *(content_of(_own_fonts() / name) for name in FONT_FILES)


def _own_fonts() -> Path:
    return Path(mpl.get_data_path(), "fonts", "ttf").resolve()


def _use_own_font() -> None:
    """Of `FONT` the files that ship with matplotlib alone: a machine's are of another version and give other bytes."""
    own = _own_fonts()
    listed = [font.fname for font in fontManager.ttflist if font.name == FONT]
    if listed and all(Path(name).resolve().parent == own for name in listed):
        return
    fontManager.ttflist[:] = [font for font in fontManager.ttflist if font.name != FONT]
    for name in FONT_FILES:
        fontManager.addfont(own / name)


def svg(figure: Figure) -> bytes:
    """Bytes that depend on the drawing alone: no date, no version."""
    buffer, canvas = io.BytesIO(), cast(Any, FigureCanvasSVG(figure))
    with _laid_out(figure):
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """As `svg`: what a paper includes."""
    buffer, canvas = io.BytesIO(), cast(Any, FigureCanvasPdf(figure))
    with _laid_out(figure):
        canvas.print_pdf(buffer, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return buffer.getvalue()


def every_form(figure: Figure) -> dict[str, bytes]:
    """One figure thrice: everything stands where `svg` alone puts it, whose bytes are the same."""
    FigureCanvasSVG(figure)
    with _laid_out(figure):
        return {"svg": svg(figure), "png": png(figure), "pdf": pdf(figure)}


def png(figure: Figure) -> bytes:
    buffer, canvas = io.BytesIO(), cast(Any, FigureCanvasAgg(figure))
    with _laid_out(figure, 160):
        canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _laid_out(figure: Figure, dpi: float | None = None) -> Iterator[None]:
    """Placed as its canvas wants it. `Figure.savefig` gives the same bytes and draws all of it twice for them.

    `dpi`: of a picture of pixels; without it lengths are in points, and pictures among the lines have the figure's.
    """
    own, engine = figure.dpi, figure.get_layout_engine()
    figure.dpi = dpi or POINTS
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.dpi = dpi or own
    yield
    figure.dpi = own
    if engine is not None:
        figure.set_layout_engine(engine)
