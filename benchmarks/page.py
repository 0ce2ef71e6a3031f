"""Write benchmarks/README.md: what was measured, when and where, beside what it should reach.

    python -m benchmarks.page [check=true]

From the files under benchmarks/results and, read without importing them (some need a card, or what is not installed),
the `TARGETS` and the first sentence of each benchmark.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from analysis import files
from analysis.tables.render import escape_markdown
from benchmarks.lines import NOT_RECORDED, ROOT, Head, Verdict, judged, met, read
from sweeps import cli

FOLDER = ROOT / "benchmarks"
NAME = "README.md"
SOURCE = "benchmarks/results"
COLUMNS = ("measured", "found", "target", "met", "command", "date", "machine")
USAGE = """usage: python -m benchmarks.page [check=true]

Write benchmarks/README.md from benchmarks/results and the targets in each benchmark's source.

  check=false   true: write nothing; exit 1 if the page is not what the results give"""
OPTIONS = ("check",)
_MODULE = re.compile(r"benchmarks[./](\w+)")
_SENTENCE = re.compile(r"(.+?)[.:](?:\s|$)", re.DOTALL)


class Benchmark(NamedTuple):
    about: str
    targets: dict[str, str]
    has_results: bool  # it can write them to benchmarks/results


def benchmark(name: str, folder: Path = FOLDER) -> Benchmark:
    """What the source of `benchmarks.name`, or of its shell script, says of itself."""
    script = folder / f"{name}.sh"
    if script.is_file():
        comments = [line[2:] for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        return Benchmark(_first_sentence(comments[0]), {}, True)
    tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    targets = ast.literal_eval(constants["TARGETS"]) if "TARGETS" in constants else {}
    return Benchmark(_first_sentence(ast.get_docstring(tree) or name), targets, "OUTPUT" in constants)


def _first_sentence(text: str) -> str:
    found = _SENTENCE.match(text)
    return " ".join((found[1] if found else text).split())


def contents(folder: Path = FOLDER) -> bytes:
    lines = [
        "# What the benchmarks found",
        "",
        "Written by `python -m benchmarks.page` from `results/` and the targets in each benchmark's source; do not",
        "edit. A row in bold links to all lines of a benchmark; those that have a target stand below it. What nobody",
        "wrote down when it was measured is *not recorded*; by now every benchmark does (`benchmarks/lines.py`).",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + ":--|" * len(COLUMNS),
    ]
    measured = set()
    for path in sorted((folder / "results").glob("*.txt")):
        head, found = read(path)
        name = _MODULE.search(head.command)
        if name is None:
            raise ValueError(f"{path.name}: its command names no benchmark: {head.command}")
        measured.add(name[1])
        about, targets, _ = benchmark(name[1], folder)
        number = f"{sum(map(bool, found))} lines"
        lines.append(_row(_title(path.stem, f"results/{path.name}", about), number, _whether(targets), "", head))
        lines += _judged_rows(found, targets, head)
    for path in sorted(folder.glob("*.py")):
        about, targets, has_results = benchmark(path.stem, folder)
        if has_results and path.stem not in measured:
            head = Head(f"python -m benchmarks.{path.stem} --write")
            lines.append(_row(_title(path.stem, path.name, about), NOT_RECORDED, _whether(targets), "", head))
            lines += _judged_rows([], targets, head)
    return "\n".join([*lines, ""]).encode()


def _title(name: str, link: str, about: str) -> str:
    words = about.replace("|", "\\|")  # its code stays code
    return f"**[{escape_markdown(name)}]({link})** {words}"


def _whether(targets: dict[str, str]) -> str:
    return "see below" if targets else "no target"


def _judged_rows(found: Sequence[str], targets: dict[str, str], head: Head) -> list[str]:
    measured = {key: verdicts for _, key, verdicts in judged(found, targets)}
    return [
        _row(escape_markdown(key), verdict.found or NOT_RECORDED, verdict.target, met(verdict), head)
        for key, words in targets.items()
        for verdict in measured.get(key) or [Verdict(target, None, None) for target in words.split("; ")]
    ]


def _row(measured: str, found: str, target: str, is_met: str, head: Head) -> str:
    mark = f"**{is_met}**" if is_met == "missed" else is_met
    fields = [measured, escape_markdown(found), escape_markdown(target), mark, f"`{head.command}`"]
    fields += [escape_markdown(head.date), escape_markdown(head.machine)]
    return "| " + " | ".join(field or " " for field in fields) + " |"


# ---- command line ----------------------------------------------------------------------------------------------------


def command(words: Sequence[str]) -> int:
    is_check = cli.parse(words, OPTIONS).flag("check")
    again = "python -m benchmarks.page"
    return files.write_or_check({NAME: contents()}, FOLDER, source=SOURCE, command=again, is_check=is_check)


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
