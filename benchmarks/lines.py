"""What a benchmark leaves: its lines, below a head that says by which command, when and where they were found.

Standard library only: `benchmarks.report_mlflow` runs where nothing of this project is installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
NOT_RECORDED = "not recorded"
KERNELS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}  # which decide how fast bf16 is, and how sums round
_NUMBER = r"([-+]?\d[\d,]*(?:\.\d+)?)"
# What lines say of their targets is no number that was found. Before there was `show` each benchmark had its own words.
_STATED = re.compile(r" target [^;]*?\bat (?:least|most) .*$| \(?target (?:[<>]= )?[\d,.]+ ?[^\s;,)]*")
_BOUND = re.compile(rf"(?P<each>each )?(?P<before>.*?)(?P<way>at least|at most) {_NUMBER} ?(?P<after>.*)")


@dataclass(frozen=True)
class Head:
    """Where lines come from. A field that nobody wrote down says so."""

    command: str = NOT_RECORDED
    date: str = NOT_RECORDED
    machine: str = NOT_RECORDED
    software: str = NOT_RECORDED

    def lines(self) -> list[str]:
        return [f"{field.name}: {getattr(self, field.name)}" for field in fields(self)]


class Result(NamedTuple):
    """A file under benchmarks/results."""

    head: Head
    lines: list[str]


def read(path: Path) -> Result:
    """Raises ValueError where the head is not `Head`'s fields in their order, then an empty line."""
    text = path.read_text(encoding="utf-8").splitlines()
    names = [field.name for field in fields(Head)]
    found = [line.partition(": ") for line in text[: len(names)]]
    if [name for name, _, _ in found] != names or text[len(names) : len(names) + 1] != [""]:
        raise ValueError(f"{path.name}: must begin with the lines {', '.join(names)} and an empty one")
    return Result(Head(*(value for _, _, value in found)), text[len(names) + 1 :])


# ---- targets ---------------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """One target of a line: in the words of the benchmark's TARGETS, what was found in the same words, and whether
    that is what was asked; both None where the line has no such number."""

    target: str
    found: str | None
    is_met: bool | None


def judged(lines: Iterable[str], targets: Mapping[str, str]) -> Iterator[tuple[str, str | None, list[Verdict]]]:
    """Each line, the key of its targets and what they say of it; None and nothing where there is no target.

    `targets`: how a line begins -> its targets, "; " between them, each as "at most 5 ms": a number of that unit, the
    first in the line ("each at least 94 %": all of them), or behind a word as "ratio at least 10". A target is of the
    first line that begins so.
    """
    left = dict(targets)
    for line in lines:
        words = " ".join(line.split())
        key = next((key for key in left if words.startswith((f"{key} ", f"{key}:"))), None)
        yield line, key, [] if key is None else [_verdict(words, target) for target in left.pop(key).split("; ")]


def _verdict(line: str, target: str) -> Verdict:
    bound = _BOUND.fullmatch(target)
    assert bound is not None, target
    before, after = bound["before"].strip(), bound["after"]
    pattern = rf"(?<!\w){re.escape(before)}\s*{_NUMBER}" + (rf"\s*{re.escape(after)}(?!\w)" if after else "")
    numbers = re.findall(pattern, _STATED.sub("", line))
    if not numbers:
        return Verdict(target, None, None)
    wanted, is_least = _value(bound[4]), bound["way"] == "at least"
    shown = (min if is_least else max)(numbers, key=_value) if bound["each"] else numbers[0]
    is_met = _value(shown) >= wanted if is_least else _value(shown) <= wanted
    return Verdict(target, " ".join(filter(None, [before, shown, after])), is_met)


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def met(verdict: Verdict) -> str:
    return {True: "met", False: "missed", None: "not measured"}[verdict.is_met]


# ---- written ---------------------------------------------------------------------------------------------------------


def parser_of(doc: str | None, file: str) -> argparse.ArgumentParser:
    """A parser whose help is the module's `doc`, its usage being the ``python -m`` of the module's `file`."""
    module = ".".join(Path(file).relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    return argparse.ArgumentParser(
        f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def arguments_of(doc: str | None, output: Path) -> argparse.ArgumentParser:
    """`parser_of` the benchmark that `output` is named after, which knows ``--write``, for that file."""
    parser = parser_of(doc, str(ROOT / f"benchmarks/{output.stem}.py"))
    parser.add_argument("--write", action="store_true", help=f"also into {output.relative_to(ROOT)}")
    return parser


def show(
    lines: Iterable[str],
    output: Path | None,
    *,
    benchmark: str,
    software: Sequence[str] = (),
    targets: Mapping[str, str] | None = None,
    device: str = "",
    words: Sequence[str] | None = None,
) -> None:
    """Print the head of here and now and each line as it comes, with what its target says of it; write all of them to
    `output`, if given, once the last has come.

    `benchmark`: the module's `__file__`; `software`: distributions whose versions matter; `device`: other than the CPU;
    `words`: the command's, where they are not the process's own.
    """
    shown = [*head(benchmark, software, device, sys.argv[1:] if words is None else words).lines(), ""]
    print("\n".join(shown), flush=True)
    for line, _, verdicts in judged(lines, targets or {}):
        said = "; ".join(f"{verdict.target}: {met(verdict)}" for verdict in verdicts if verdict.found is not None)
        shown.append(f"{line}   target {said}" if said else line)
        print(shown[-1], flush=True)
    if output is not None:
        output.parent.mkdir(exist_ok=True)
        output.write_text("\n".join(shown) + "\n", encoding="utf-8")


def head(benchmark: str, software: Sequence[str], device: str, words: Sequence[str]) -> Head:
    versions = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in software)]
    return Head(
        f"python -m benchmarks.{Path(benchmark).stem} {shlex.join(map(_anywhere, words))}".strip(),
        date.today().isoformat(),
        f"{device}; host {machine()}" if device else machine(),
        ", ".join(versions),
    )


def _version(name: str) -> str:
    """As the loaded module says it, which may name its build ("2.15.0+cu132")."""
    return str(getattr(sys.modules.get(name), "__version__", None) or metadata.version(name))


def machine() -> str:
    """CPU model, the kernels that bf16 has there, cores and how busy they were."""
    path = Path("/proc/cpuinfo")
    about = dict(
        (name.strip(), value.strip())
        for name, _, value in (line.partition(":") for line in reversed(path.read_text().splitlines()))
    ) if path.exists() else {}  # fmt: skip
    model, flags = about.get("model name", platform.machine()), about.get("flags", "").split()
    kernels = " and ".join(name for flag, name in KERNELS.items() if flag in flags)
    known = kernels or (f"neither {' nor '.join(KERNELS.values())}" if flags else f"kernels {NOT_RECORDED}")
    return f"{model}, {known}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def _anywhere(word: str) -> str:
    """A word of a command without the folders of this machine."""
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else word
