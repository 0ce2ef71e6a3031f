"""Tables and figures as the report writes them, pasted unedited into articles that LaTeX builds."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from analysis.numbers.frame import load
from analysis.one_study import pictures, table_files, table_of
from analysis.tables.latex import ARTICLES, Style
from sweeps.database.opening import open_database
from tests.sweeps.installed import missing

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
# Of a wide study, one of two axes and the widest ones.
TABLES = (
    "mae_st_target", "masking_ratio", "mc_jepa_main", "mc_jepa_loss_weights", "mc_jepa_flow_start", "vjepa_probe",
    "mae_st_sparse_encoder", "mc_jepa_variance_covariance", "search_masking",
)  # fmt: skip
FIGURES = (("masking_ratio", "curve", "figure*"), ("vjepa_samples_seen", "samples", "figure"))
SMALLEST = 7.97  # 8 points of TeX in those of PDF
ARTICLE = r"""\documentclass%s{article}
\pdfcompresslevel=0
\pdfobjcompresslevel=0
\pagestyle{empty}
\usepackage{booktabs,graphicx,textcomp,xcolor}
\begin{document}
Which part matters is in \ref{tab:mae-st-target}.
%s
\end{document}
"""
FIGURE = r"""\begin{%s}
\centering\includegraphics{%s}
\caption{As written by the report.}
\end{%s}
"""


@pytest.fixture(scope="module", params=ARTICLES)
def article(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built article."""
    is_wide = request.param == "two_column"
    if shutil.which("pdflatex") is None:
        missing("pdflatex is not installed")
    folder = tmp_path_factory.mktemp("article")
    shutil.copy(ROOT / "results/ablations.sqlite", folder / "a.sqlite")
    engine = open_database(f"sqlite:///{folder / 'a.sqlite'}", read_only=True)
    parts = []
    for name in TABLES:
        content = table_files(table_of(load(engine, name)), Style(article=request.param))[f"tables/{name}.tex"]
        (folder / f"{name}.tex").write_bytes(content)
        parts.append(rf"\input{{{name}}}")
    for name, figure, environment in FIGURES[not is_wide :]:  # the first is as wide as two columns
        frame = load(engine, name)
        drawn = next(one for one in frame.study.figures if one["name"] == figure)
        (folder / f"{name}.pdf").write_bytes(pictures(frame, drawn)["pdf"])
        parts.append(FIGURE % (environment, f"{name}.pdf", environment))
    engine.dispose()
    (folder / "paper.tex").write_text(ARTICLE % ("[twocolumn]" * is_wide, "\n".join(parts)), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    for _ in range(2):  # the second knows the labels
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=240)
        assert done.returncode == 0, done.stdout[-3000:]
    return folder


def test_nothing_is_wider_than_its_column_or_taller_than_its_page(article: Path) -> None:
    log = (article / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert not re.findall(r"Overfull.*|.*Float too large.*|.*undefined.*", log)


def test_no_letter_is_below_eight_points(article: Path) -> None:
    sizes = type_sizes((article / "paper.pdf").read_bytes())
    assert len(sizes) > 100 and min(sizes) >= SMALLEST - 0.01


def test_a_figure_is_shown_at_the_size_that_it_was_drawn_in(article: Path) -> None:
    content = (article / "paper.pdf").read_bytes()
    placed = re.findall(rb"q\s+([\d.]+) 0 0 ([\d.]+) [-\d.]+ [-\d.]+ cm\s+/Im\d+ Do", content)
    assert all(float(side) == 1 for sides in placed for side in sides)
    assert len(re.findall(rb"/Im\d+ Do", content)) == len(list(article.glob("*_*.pdf"))) > 0


def type_sizes(content: bytes) -> list[float]:
    """The sizes in which text is set on the pages and in what they include."""
    sizes: list[float] = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        try:
            text = zlib.decompress(stream)
        except zlib.error:
            text = stream
        sizes += [float(size) for size in re.findall(rb"/F[\w-]+ ([\d.]+) Tf", text)]
    return sizes
