r"""Numbers that a LaTeX source marks, against the database: ``python -m analysis.report check_paper=main.tex``.

A number is marked where it stands, and typeset as itself:

    \newcommand{\abl}[3][value]{#3}
    \abl{masking_ratio/0.9/long/ridge/digit_top1}{47.8 $\pm$ 6.5}
    \abl[difference]{ijepa_masking_strategy/random/ridge/digit_top1}{+0.45}

The second argument names study, row, column (where the study has columns) and metric, the third is what the paper says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from analysis.numbers.comparing import of_column
from analysis.numbers.frame import Frame, load, names
from analysis.numbers.stats import Estimate, mean_interval
from sweeps.console.errors import UserError, close_matches
from sweeps.console.tables import counted

MACRO = "abl"
KINDS = ("value", "difference", "printed")
MOST_NAMED = 12  # of what there is, in a message
# \newcommand\abl[3]... defines the macro; \ablation is another one.
_MARK = re.compile(rf"(?<!command)(?<!\\def)\\{MACRO}(?![A-Za-z@])\s*(?:\[([^\]]*)\])?\s*\{{")
_INPUT = re.compile(r"\\(?:input|include)\s*\{([^{}]+)\}")
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?|[+-]?\.\d+")


@dataclass(frozen=True)
class Mark:
    """A marked number: where it stands, what it names and what the paper says."""

    place: str  # "main.tex:12"
    kind: str
    key: str
    text: str

    def __str__(self) -> str:
        option = "" if self.kind == KINDS[0] else f"[{self.kind}]"
        return f"{self.place}: \\{MACRO}{option}{{{self.key}}}{{{self.text}}}"


# ---- reading the source ----------------------------------------------------------------------------------------------


def read(path: Path) -> list[Mark]:
    """The marks of a LaTeX file and of the files that it inputs, in their order; commented ones are none.

    Raises UserError where a file cannot be read, a mark is not closed, or there is no mark: a check of nothing passes
    nothing.
    """
    marks = list(_read(path, path.parent, set()))
    if not marks:
        raise UserError(f"check_paper={path}: no number is marked; mark one with \\{MACRO}{{study/row/metric}}{{61.4}}")
    return marks


def _read(path: Path, folder: Path, seen: set[Path]) -> Iterator[Mark]:
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"check_paper={path}: cannot be read: {reason}") from None
    text = "\n".join(_COMMENT.sub(r"\1", line) for line in source.split("\n"))
    found = [*_MARK.finditer(text), *_INPUT.finditer(text)]
    for match in sorted(found, key=lambda match: match.start()):
        if match.re is _INPUT:
            # LaTeX looks beside the main file, and in folders of its own: what is not here is not the paper's text.
            other = folder / match[1].strip()
            other = other if other.is_file() else other.with_name(other.name + ".tex")
            if other.is_file():
                yield from _read(other, folder, seen)
            continue
        place = f"{path}:{text.count(chr(10), 0, match.start()) + 1}"
        key, end = _argument(text, match.end(), place)
        opening = re.compile(r"\s*\{").match(text, end)
        if opening is None:
            raise UserError(f"{place}: \\{MACRO}{{{key}}} has no number after it, in braces of its own")
        number, _ = _argument(text, opening.end(), place)
        yield Mark(place, match[1] or KINDS[0], re.sub(r"\\(?=[_%&#$])", "", key), number)


def _argument(text: str, start: int, place: str) -> tuple[str, int]:
    """What stands from `start` to the brace that closes it, on one line; and where it ends."""
    depth = 1
    for match in re.compile(r"(?<!\\)[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return " ".join(text[start : match.start()].split()), match.end()
    raise UserError(f"{place}: a brace of \\{MACRO} is not closed")


# ---- comparing -------------------------------------------------------------------------------------------------------


def differences(engine: Engine, marks: list[Mark]) -> list[str]:
    """One line a mark that does not say what the database does, in the marks' order."""
    known = names(engine)
    frames: dict[str, Frame] = {}
    found = []
    for mark in marks:
        study = mark.key.partition("/")[0]
        if study in known and study not in frames:
            frames[study] = load(engine, study)
        reason = _reason(mark, frames[study]) if study in frames else unknown("study", study, known)
        if reason:
            found.append(f"{mark}: {reason}")
    return found


def unknown(what: str, name: str, known: list[str], *, where: str = "the database") -> str:
    hint = close_matches(name, known)
    if not hint:
        more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
        hint = f"; it has: {', '.join(known[:MOST_NAMED]) or 'none'}{more}"
    return f"{where} has no {what} {name!r}{hint}"


def _reason(mark: Mark, frame: Frame) -> str:
    """Why this mark is wrong; "" where it is right."""
    if mark.kind not in KINDS:
        return f"[{mark.kind}] must be one of {', '.join(KINDS)}"
    numbers = numbers_of(mark.text)
    if numbers is None:
        return "not a number, nor a number ± a half-width"
    key = mark.key.partition("/")[2]
    if mark.kind == "printed":
        return _printed_reason(frame, key, numbers)
    places = {"/".join(filter(None, place)): place for place in frame.by_place}
    if key not in places:
        return unknown("cell and metric", key, list(places))
    row, column, metric = places[key]
    runs = frame.by_place[places[key]]
    reference = frame.runs_of(frame.study.baseline, column, metric) if mark.kind == "difference" else None
    if mark.kind == "difference" and (reference is None or row == frame.study.baseline):
        return f"the baseline {frame.study.baseline!r} has no difference to itself, or none in this column"
    for name, found in (("it", runs), ("the baseline", reference)):
        if found is not None and (found.without or not found.values):
            states = ", ".join(sorted(set(found.without)))
            return f"{name} has {len(found.values)} of {counted(found.num_wanted, 'seed')} ({states})"
    if reference is not None and len(runs.values.keys() & reference.values.keys()) < 2:
        return "a difference needs two shared seeds"
    if reference is None:
        return compare(numbers, mean_interval(list(runs.values.values())))
    return compare(numbers, of_column(frame, column, metric).differences[row].estimate)


def _printed_reason(frame: Frame, key: str, numbers: tuple[str, ...]) -> str:
    """A number quoted from the original paper: study/row, or study/row/column or quantity."""
    printed: Mapping[str, Mapping[str, float]] = frame.study.printed.values if frame.study.printed else {}
    places = {
        "/".join(filter(None, (row, col))): value for row, cells in printed.items() for col, value in cells.items()
    }
    if key not in places:
        return unknown("printed number", key, list(places))
    return "" if float(numbers[0]) == places[key] else f"the study file says {places[key]:g} is printed"


def compare(numbers: tuple[str, ...], estimate: Estimate, source: str = "the database gives") -> str:
    """ "" where the estimate, rounded to as many decimals as the paper gives, is what it says."""
    parts = [estimate.mean, estimate.half_width]
    if len(numbers) == 2 and not estimate.has_interval:
        return "one seed has no interval"
    rounded = [_rounded(value, _decimals(text)) for value, text in zip(parts, numbers, strict=False)]
    if all(_rounded(float(text), _decimals(text)) == value for text, value in zip(numbers, rounded, strict=True)):
        return ""
    return f"{source} {' ± '.join(rounded)}"


def numbers_of(text: str) -> tuple[str, ...] | None:
    r"""The number, or number and half-width, of `61.4`, `$-1.2$`, `\textbf{61.4} $\pm$ 0.8`, `96{,}000`, `61.4\,\%`."""
    plain = text.replace("{,}", "").replace("−", "-").replace("\\pm", "±")
    plain = re.sub(r"\\(?:[A-Za-z]+\*?|.)|[${}~]", " ", plain)
    plain = re.sub(r"([+-])\s+(?=[\d.])", r"\1", plain)
    parts = [_NUMBER.findall(part) for part in plain.split("±")]
    if not 1 <= len(parts) <= 2 or any(len(found) != 1 for found in parts):
        return None
    return tuple(found[0] for found in parts)


def _decimals(text: str) -> int:
    return len(text.partition(".")[2])


def _rounded(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text
