"""How easily the tree is seen into: files a folder, lengths of files and functions, imports against the rooms' order.

    python -m benchmarks.house [--revision 86e5378 ...] [--write]

Counts core, sweeps and analysis of each revision (default: the tree before it had rooms, and the working tree), read
from git without importing anything. Rooms and their order are those of tests/test_imports.py today; modules of before
have none.
"""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from benchmarks.lines import RESULTS, ROOT, arguments_of, show
from tests import test_imports

OUTPUT = RESULTS / "house.txt"
BEFORE_ROOMS = "86e5378"
HERE = "the working tree"
TARGETS = {
    "the working tree: files a folder": "at most 16",  # "about 15", and the folder's __init__.py
    "the working tree: longest file": "at most 400 lines",
    "the working tree: imports against the order": "at most 0",
}


def sources(revision: str) -> dict[str, str]:
    """The text of each Python file of the packages, by its path."""
    if revision == HERE:
        paths = [path for package in test_imports.PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
        return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    names = git("ls-tree", "-r", "--name-only", revision, "--", *test_imports.PACKAGES).split()
    return {name: git("show", f"{revision}:{name}") for name in names if name.endswith(".py")}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def functions(text: str) -> Iterator[int]:
    """How many lines each function of a file has, methods and those inside others included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1


def lines_of(revision: str, texts: Mapping[str, str]) -> Iterator[str]:
    folders = Counter(str(Path(name).parent) for name in texts)
    (fullest, most), length = folders.most_common(1)[0], {name: len(text.splitlines()) for name, text in texts.items()}
    longest = max(length, key=lambda name: length[name])
    of_functions = sorted(number for text in texts.values() for number in functions(text))
    yield f"{revision}: files a folder {most} at most ({fullest}), {median(folders.values()):g} in the median"
    yield (
        f"{revision}: longest file {length[longest]} lines ({longest}), {median(length.values()):g} in the median of "
        f"{len(texts)}, {sum(number > 400 for number in length.values())} above 400"
    )
    yield (
        f"{revision}: functions {median(of_functions):g} lines in the median of {len(of_functions):,}, "
        f"{of_functions[len(of_functions) * 9 // 10]} at the 90th percentile"
    )


def against_the_order() -> list[str]:
    """Imports that the rule of tests/test_imports.py does not allow, in the working tree."""
    return [
        f"{name} imports {target}"
        for name in test_imports.FILES
        for _, target in test_imports.imports(name, whole_file=True)
        if test_imports.own(target) and not test_imports.is_allowed(name, target)
    ]


def found(revisions: list[str]) -> Iterator[str]:
    for revision in revisions:
        yield from lines_of(revision, sources(revision))
    wrong = against_the_order()
    yield f"{HERE}: imports against the order {len(wrong)}" + (f": {'; '.join(wrong)}" if wrong else "")


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--revision", nargs="*", default=[BEFORE_ROOMS], help="revisions of git to count beside it")
    given = parser.parse_args()
    show(found([*given.revision, HERE]), OUTPUT if given.write else None, benchmark=__file__, targets=TARGETS)


if __name__ == "__main__":
    main()
