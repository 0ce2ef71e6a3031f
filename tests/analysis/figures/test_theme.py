from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, findfont, fontManager

from analysis.figures.theme import FONT, every_form, settings


@pytest.fixture
def fonts_of_machine(monkeypatch):
    """A list of fonts as matplotlib keeps it in the user's cache, to be changed."""
    found = list(fontManager.ttflist)
    monkeypatch.setattr(fontManager, "ttflist", found)
    return found


@pytest.mark.parametrize("has_own", [True, False])
def test_figures_are_in_the_font_that_ships_with_matplotlib_whatever_the_machine_has(fonts_of_machine, has_own):
    others = [font for font in fonts_of_machine if has_own or font.name != FONT]
    fonts_of_machine[:] = [FontEntry(fname="/usr/share/fonts/DejaVuSans.ttf", name=FONT), *others]
    with mpl.rc_context(settings()):
        found = Path(findfont(FONT)).resolve()
    assert found == Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf").resolve()


@pytest.mark.parametrize("layout", [None, "constrained"])
def test_every_form_of_a_figure_has_the_bytes_that_savefig_gives_placed_as_in_its_svg(layout):
    def drawn() -> Figure:
        figure = Figure(figsize=(3, 2), layout=layout)
        axes = figure.add_subplot()
        axes.imshow(np.arange(12).reshape(3, 4) / 12, aspect="auto")
        axes.set(xlabel="steps", ylabel="a label\nof two lines", title="a title")
        figure.suptitle("above")
        return figure

    def saved(form: str, **told: object) -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, **told)
        return buffer.getvalue()

    with mpl.rc_context(settings()):
        figure = drawn()
        svg = saved("svg", metadata={"Date": None, "Creator": None})
        if layout is not None:
            figure.set_layout_engine("none")
        assert every_form(drawn()) == {
            "svg": svg,
            "png": saved("png", dpi=160, metadata={"Software": None}),
            "pdf": saved("pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}),
        }
