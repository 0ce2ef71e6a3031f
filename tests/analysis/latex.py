"""Whether a LaTeX table would build, read from its source: for machines without LaTeX."""

from __future__ import annotations

import re


def assert_latex(text: str) -> None:
    """What a build would stop at: an open environment or brace, a cell too many, an active character, a new command."""
    lines = text.splitlines()
    assert lines[0].startswith("%") and not any("%" in line.replace(r"\%", "") for line in lines[1:])
    opened: list[str] = []
    for verb, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if verb == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    plain = re.sub(r"\\[\\{}$&#_%]", "", text)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0 and "_" not in re.sub(r"\\label\{.*\}", "", plain) and "#" not in plain
    assert "^" not in re.sub(r"\$[^$]*\$", "", plain)
    blocks = re.findall(r"\\begin\{(tabular\*?)\}\S*?(l[lr]+)\}\n(.*?)\\end\{\1\}", text, re.DOTALL)
    assert len(blocks) == text.count(r"\begin{tabular") > 0
    for _, columns, block in blocks:
        rows = [line for line in block.splitlines() if line.endswith(r" \\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    commands = {"pm", "Delta", "cdot", "to", "textbackslash", "textless", "textgreater", "textasciitilde", "textbar",
                "textasciicircum", "textasciigrave", "textquotesingle", "texttt", "textcolor", "textbf", "dag",
                "ddag"}  # fmt: skip
    layout = {"begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule", "par", "medskip",
              "parbox", "linewidth", "footnotesize", "setlength", "tabcolsep", "smallskip", "shortstack", "strut",
              "extracolsep", "fill", "addtocounter", "quad"}  # fmt: skip
    assert set(re.findall(r"\\([A-Za-z]+)", "\n".join(lines[1:]))) <= commands | layout
