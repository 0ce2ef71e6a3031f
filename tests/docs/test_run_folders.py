"""The runs of all pages, typed one after the other in one folder: none is refused for another page's."""

from __future__ import annotations

from tests.docs.blocks import DOCS, blocks, typed


def trainings() -> list[tuple[str, str, list[str]]]:
    """(page, folder, words) of each `python -m core.train` that trains."""
    found = []
    for page in [*sorted(path.name for path in DOCS.glob("*.md")), "../README.md"]:
        for block in blocks(page, "bash"):
            for words in typed(block):
                told = dict(word.split("=", 1) for word in words if "=" in word)
                if words[1:3] == ["-m", "core.train"] and "help" not in told:
                    found.append((page, told.get("runtime.dir", "runs/last"), words[3:]))
    return found


def test_no_two_runs_of_the_pages_ask_for_one_folder():
    of_folder: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for page, folder, words in trainings():
        of_folder.setdefault(folder, {}).setdefault(tuple(words), []).append(page)
    assert len(of_folder) > 20
    assert not {folder: asked for folder, asked in of_folder.items() if len(asked) > 1}
