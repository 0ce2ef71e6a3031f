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
        for words in typed(block):
            assert words[:2] == ["python", "-m"], words
            found.append((words[2], words[3:]))
    return found


def typed(block: str) -> list[list[str]]:
    """The words of each command of a shell block, which a shell ends where the line ends: not within quotes, nor behind
    a backslash."""
    found, text = [], ""
    for line in block.replace("\\\n", " ").splitlines():
        text += line
        try:
            words = shlex.split(text, comments=True)
        except ValueError:  # a quotation goes on
            text += "\n"
            continue
        found += [words] if words else []
        text = ""
    assert not text, text
    return found
