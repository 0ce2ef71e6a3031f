"""The code blocks of a document, as somebody would paste them."""

import re
import shlex
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"
MAX_LINES = 100


def blocks(document: str, language: str) -> list[str]:
    text = (DOCS / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[tuple[str, list[str]]]:
    """(module, arguments) of every `python -m module arguments` in the document's shell blocks."""
    found = []
    for block in blocks(document, "bash"):
        # A command may go on over lines inside quotes.
        for text in re.split(r"\n(?=python )", block.strip()):
            words = shlex.split(text)
            assert words[:2] == ["python", "-m"], text
            found.append((words[2], words[3:]))
    return found
