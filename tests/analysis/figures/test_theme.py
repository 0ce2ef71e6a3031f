from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.font_manager import FontEntry, findfont, fontManager

from analysis.figures.theme import FONT, settings


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
