"""Stored studies beside their files of today: in the words of these where they ask for the runs that there are.

Title, notes, labels, order, columns, figures, margin and printed numbers only say how runs are shown: tables, pages and
messages take them from the file, with no launch. A file that asks for other runs (rows, options, metrics that were not
recorded, search, seeds) is named, and all is shown as it was launched. Imports neither torch nor core.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, select

from sweeps.cells import edits, expansion_cache, untrained
from sweeps.cells.edits import LAUNCHED, Edit, scale_of
from sweeps.cells.expand import LABEL, LABELS, figure_metrics, fill, resolve
from sweeps.console.errors import close_matches
from sweeps.console.offered import HERE, Place
from sweeps.console.url import mask_url
from sweeps.database.tables import CellRow, Config, Result, RunRow, StudyRow
from sweeps.study import fair_rows
from sweeps.study.files import StudyError, folders
from sweeps.study.model import DEFAULT_SCALE, Cell, Study, instance_name
from sweeps.study.reading import parse, read
from sweeps.study.seed_rule import without_file
from sweeps.study.shown import wrong_comparisons, wrong_figures

__all__ = [
    "Edited", "Shown", "ShownCell", "content_of", "digest_of_files", "display_of", "edited", "file_of", "label_of",
    "launch_words", "launched", "remember", "scale_of", "shown", "shown_row", "without_file", "words_here",
]  # fmt: skip

_NAMED = 6  # differences that one line names
_STUDIES = "studies/"


@dataclass(frozen=True)
class Edited:
    """A file that what is shown does not follow: it asks for other runs, or cannot be read or shown (`wrong`)."""

    name: str
    file: Path
    runs: tuple[str, ...]
    wrong: str
    command: str  # that launches what the file says now

    @property
    def reason(self) -> str:
        return "asks for other runs" if self.runs else "cannot be shown"

    def __str__(self) -> str:
        if self.wrong:
            return (
                f"{self.file} was edited since {self.name} was launched and {self.wrong}. What is shown is as it was "
                f"launched; mend the file"
            )
        more = [f"and {len(self.runs) - _NAMED} more"] if len(self.runs) > _NAMED else []
        return (
            f"{self.file} was edited since {self.name} was launched: {'; '.join([*self.runs[:_NAMED], *more])}. "
            f"What is shown is as it was launched; launch it again: {self.command}"
        )


class ShownCell(NamedTuple):
    """A place of a study's table, as it is called today."""

    row_key: str
    col_key: str
    display: dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """A stored study in the words that it is shown with: `spec` as a launch of them would store it."""

    name: str
    spec: Mapping[str, Any]
    cells: Mapping[tuple[str, str], Cell] = field(default_factory=dict)  # by stored keys; none: all as stored

    @property
    def study(self) -> Study:
        return launched(self.name, self.spec)

    def cell(self, stored: Any) -> ShownCell:
        """`stored` has row_key, col_key and display as the database has them; a search's trials keep theirs."""
        cell = self.cells.get((stored.row_key, stored.col_key))
        if cell is None:
            return ShownCell(stored.row_key, stored.col_key, stored.display)
        return ShownCell(cell.row_key, cell.col_key, display_of(cell))


def display_of(cell: Cell) -> dict[str, Any]:
    """What the database keeps of a cell beside its keys."""
    return {
        "row_label": cell.row_label,
        "col_label": cell.col_label,
        "row_order": cell.row_order,
        "col_order": cell.col_order,
        "is_random_init": cell.is_random_init,
    }


def label_of(display: Mapping[str, Any]) -> str:
    """A cell in words: multi-block, 400 epochs."""
    return ", ".join(filter(None, [display["row_label"], display.get("col_label")]))


def edited(connection: Connection, names: Sequence[str], place: Place = HERE) -> list[Edited]:
    """Those of the studies whose files ask for what is not shown; a study whose file is not here is not among them."""
    found = []
    for row in _rows(connection, names):
        file = file_of(connection, row.name, row.source)
        if file is None:
            continue
        answer = _today(connection, file, row)
        if not isinstance(answer, Shown):
            command = place.command("sweeps.launch", *words_here(connection, row.name, row.spec, row.source))
            runs, wrong = ((), answer) if isinstance(answer, str) else (answer, "")
            found.append(Edited(row.name, file, runs, wrong, command))
    return found


def shown(connection: Connection, names: Iterable[str]) -> dict[str, Shown]:
    """How each of these studies is shown, by name."""
    return {row.name: shown_row(connection, row) for row in _rows(connection, list(names))}


def shown_row(connection: Connection, row: Any) -> Shown:
    """How the study of this row of `sw_study` is shown."""
    file = file_of(connection, row.name, row.source)
    answer = None if file is None else _today(connection, file, row)
    return answer if isinstance(answer, Shown) else Shown(row.name, row.spec)


def digest_of_files(connection: Connection) -> str:
    """Another one when a study's file here is edited."""
    found = hashlib.sha256()
    for row in connection.execute(select(StudyRow.name, StudyRow.source).order_by(StudyRow.name)):
        if (file := file_of(connection, row.name, row.source)) is not None:
            found.update(f"{row.name} {content_of(file)}".encode())
    return found.hexdigest()


def launched(name: str, spec: Mapping[str, Any]) -> Study:
    """The study as its file said at the launch, from what the database has of it."""
    content = {key: value for key, value in spec.items() if key not in LAUNCHED}
    return parse(content, Path(f"{name.partition('@')[0]}.yaml"))


def launch_words(name: str, spec: Mapping[str, Any], study: str = "") -> list[str]:
    """What is typed to launch this instance, but for its seeds; `study` where its name does not find its file."""
    stem, _, slug = name.partition("@")
    scale, overrides = str(spec.get("scale", DEFAULT_SCALE)), list(spec.get("overrides", []))
    words = [f"study={study or stem}", *([f"scale={scale}"] if scale != DEFAULT_SCALE else []), *overrides]
    words += [f"plugins=[{','.join(spec['plugins'])}]"] if spec.get("plugins") else []
    if slug and name != instance_name(stem, scale, overrides):
        words.append(f"name={slug.removeprefix('' if scale == DEFAULT_SCALE else f'{scale},')}")
    return words


def words_here(connection: Connection, name: str, spec: Mapping[str, Any], source: str | None) -> list[str]:
    """`launch_words` as they can be typed on this machine: the study by its path where its name does not find it, and
    where its data lies. A file that is not known here is called by its name, as it is typed beside it."""
    file = file_of(connection, name, source)
    study = _typed(file) if file is not None else "" if source is None or source.startswith(_STUDIES) else source
    root = expansion_cache.read_root(_key(connection, name))
    return [*launch_words(name, spec, study), *([f"runtime.data_root={root}"] if root != "." else [])]


# ---- files -----------------------------------------------------------------------------------------------------------


def remember(connection: Connection, name: str, file: Path, data_root: str = ".") -> None:
    """Where a study's file and data lie on this machine, which the database is not told."""
    key = _key(connection, name)
    expansion_cache.write_file(key, file)
    expansion_cache.write_root(key, data_root)


def file_of(connection: Connection, name: str, source: str | None) -> Path | None:
    """The file on this machine that a stored study was launched from, if it is there and this machine knows it."""
    if source is None:
        return None
    if source.startswith(_STUDIES):
        files = (folder / source.removeprefix(_STUDIES) for folder in folders())
        if found := next((file for file in files if file.is_file()), None):
            return found
    file = expansion_cache.read_file(_key(connection, name))
    return file if file is not None and f"/{file}".endswith(f"/{source}") and file.is_file() else None


def _key(connection: Connection, name: str) -> str:
    url = connection.engine.url
    is_file = url.get_backend_name() == "sqlite" and url.database
    return f"{Path(url.database).resolve() if is_file and url.database else mask_url(url)} {name}"


def _typed(file: Path) -> str:
    """As `study=` has it; "" where the name alone finds it."""
    if any(file.is_relative_to(folder) for folder in folders()):
        return ""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


# ---- the file of today -----------------------------------------------------------------------------------------------


def _rows(connection: Connection, names: Sequence[str]) -> Sequence[Any]:
    query = select(StudyRow.id, StudyRow.name, StudyRow.revision, StudyRow.source, StudyRow.spec)
    return connection.execute(query.where(StudyRow.name.in_(names)).order_by(StudyRow.name)).all()


def content_of(path: Path) -> str:
    """The digest of a file, empty where there is none to read: two edits in one tick of the clock may leave its time
    and its size."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


@functools.lru_cache(maxsize=512)
def _read(file: Path, content: str) -> Study | StudyError:
    """`content` is the digest of what is read."""
    try:
        return read(file)
    except StudyError as error:
        return error


@functools.lru_cache(maxsize=512)
def _compared(file: Path, content: str, name: str, spec: str) -> Edit | str:
    """What the file of this content asks otherwise than was launched, or why it cannot be read."""
    today, stored = _read(file, content), json.loads(spec)
    if isinstance(today, StudyError):
        return f"cannot be read any more ({str(today).splitlines()[0].removeprefix(f'{file}: ')})"
    return edits.compare(today, launched(name, stored), stored)


def _today(connection: Connection, file: Path, row: Any) -> Shown | tuple[str, ...] | str:
    """The study in its file's words; else what the file asks that is not there, or what is wrong with it."""
    content = content_of(file)
    edit = _compared(file, content, row.name, json.dumps(row.spec))
    if isinstance(edit, str):
        return edit
    if edit.is_nothing:
        return Shown(row.name, row.spec)
    today = _read(file, content)
    assert isinstance(today, Study)
    if edit.runs:
        return (*edit.runs, *edit.metrics, *edit.inits)
    recorded = _Recorded(connection, row)
    labels = _labels(today, row.spec, recorded)
    runs = [] if _are_recorded(today, row.spec, labels, recorded) else [*edit.metrics]
    runs += [] if recorded.has_inits(edit, today, row.spec) else edit.inits
    if runs:
        return tuple(runs)
    wrong = [*_wrong(today, row.spec, edit, labels, recorded)]
    if wrong:
        return f"cannot be shown ({'; '.join(wrong[:_NAMED])})"
    return Shown(row.name, edits.spec_today(today, row.spec, labels or []), edit.cells)


class _Recorded:
    """What the database has of a study's cells and runs, as far as somebody asks."""

    def __init__(self, connection: Connection, row: Any) -> None:
        self.connection = connection
        self.here = and_(CellRow.study_id == row.id, CellRow.revision == row.revision)

    @functools.cached_property
    def configs(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The options of each cell, by its stored keys."""
        query = select(CellRow.row_key, CellRow.col_key, Config.json).join(Config, Config.id == CellRow.config_id)
        return {(row.row_key, row.col_key): row.json for row in self.connection.execute(query.where(self.here))}

    @functools.cached_property
    def metrics(self) -> set[str]:
        """The names that every finished run has a number of."""
        done = and_(
            RunRow.config_id.in_(select(CellRow.config_id).where(self.here)),
            RunRow.state == "done",
        )
        num_done = self.connection.scalar(select(func.count()).select_from(RunRow).where(done)) or 0
        query = (
            select(Result.metric)
            .join(RunRow, RunRow.id == Result.run_id)
            .where(done, Result.agg == "final")
            .group_by(Result.metric)
            .having(func.count(Result.run_id.distinct()) == num_done)
        )
        return set(self.connection.scalars(query)) if num_done else set()

    def has_inits(self, edit: Edit, today: Study, spec: Mapping[str, Any]) -> bool:
        """Whether each random initialisation is also that of the baseline of today."""
        if not edit.inits:
            return True
        metrics = [*today.metrics(scale_of(spec)), *figure_metrics(today, "")]
        stored = {(cell.row_key, cell.col_key): place for place, cell in edit.cells.items()}
        for place, cell in edit.cells.items():
            if cell.is_random_init:
                own, baseline = self.configs[place], self.configs[stored[today.baseline, cell.col_key]]
                if not untrained.is_judged(own) or untrained.form(own, metrics) != untrained.form(baseline, metrics):
                    return False
        return True


def _labels(today: Study, spec: Mapping[str, Any], recorded: _Recorded) -> list[str] | None:
    """The labels that a launch would fill in, where the file has a place for them; None where nothing here tells."""
    asked = today.metrics(scale_of(spec))
    told = [*asked, json.dumps([today.spec.get(key) for key in ("figures", "printed", "search")])]
    if not any(LABEL in text or LABELS in text for text in told):
        return []
    known = edits.labels_of(asked, spec["metrics"]) or edits.labels_among(asked, spec["metrics"])
    if not known:
        parts = [(today.spec.get("figures"), spec.get("figures"))]
        parts.append(((today.spec.get("printed") or {}).get("compare"), (spec.get("printed") or {}).get("compare")))
        parts.append((today.search_section(scale_of(spec)), spec.get("search")))
        known = list(filter(None, (edits.label_in(*part) for part in parts)))[:1]
    more = edits.labels_among([*asked, *figure_metrics(today, LABEL)], sorted(recorded.metrics))
    if any(LABELS in metric for metric in asked):
        # In the order of the data, which names that were recorded do not have.
        return known if known and set(more) <= set(known) else more if len(more) == 1 else None
    return known or (more if len(more) == 1 else None)


def _are_recorded(today: Study, spec: Mapping[str, Any], labels: Sequence[str] | None, recorded: _Recorded) -> bool:
    """Whether the table's metrics are those that were launched, or every finished run has them."""
    asked = today.metrics(scale_of(spec))
    if edits.labels_of(asked, spec["metrics"]) is not None:
        return True
    return labels is not None and set(resolve(asked, labels, today.path)) <= recorded.metrics


def _wrong(
    today: Study, spec: Mapping[str, Any], edit: Edit, labels: Sequence[str] | None, recorded: _Recorded
) -> Iterator[str]:
    """What a launch would refuse of the words, which has the data's labels and the rows' options too."""
    if labels is None:
        yield f"{LABEL} stands for a label of the data that no run has told: name it"
        return
    scale = scale_of(spec)
    cells = [(cell, recorded.configs[place]) for place, cell in edit.cells.items() if place in recorded.configs]
    figures = fill(today.spec.get("figures", []), labels[0] if labels else "")
    yield from wrong_figures(today, figures, [config for _, config in cells], scale)
    drawn = figure_metrics(dataclasses.replace(today, figures=tuple(figures)), "")
    before = figure_metrics(launched(today.name, spec), "")
    kinds = {metric.partition("/")[0] for metric in recorded.metrics}
    for metric in dict.fromkeys(drawn):
        # Without a number of its kind it may be one of another scale, or one that is made later.
        if metric not in recorded.metrics and metric not in before and close_matches(metric.partition("/")[0], kinds):
            yield f"figures: no run recorded {metric!r}{close_matches(metric, recorded.metrics)}"
    is_other = any(str(word).startswith(("data", "eval_data")) for word in spec.get("overrides", ()))
    is_own_data = bool(labels) and scale == DEFAULT_SCALE and not is_other
    yield from wrong_comparisons(today, labels, is_own_data=is_own_data)
    if "varies" in edit.words:
        yield from fair_rows.wrong(today, scale, cells)
