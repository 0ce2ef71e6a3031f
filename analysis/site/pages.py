"""Every page of the site: `study_files` and `files_over_all` for the static one, `Site` for a live one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import Environment
from sqlalchemy import Connection, Engine, select

from analysis.numbers.agreement import FEWEST_ROWS, Comparison, compare, counted
from analysis.numbers.agreement import Summary as Agreement
from analysis.numbers.frame import Frame
from analysis.site import explorer, runs, study_page
from analysis.site.groups import grouped
from analysis.site.html import LIBRARIES, assets, environment, inline_svg
from analysis.site.sheet import sheet
from analysis.site.summary import Summary, not_launched, of_frame
from analysis.tables.agreement_page import NOTES, beside_chance, with_interval
from analysis.tables.agreement_page import totals as agreement_totals
from analysis.tables.parts import Table
from sweeps.cells.edited import words_here
from sweeps.console.offered import HERE, Place
from sweeps.database.tables import BROKEN, StudyRow
from sweeps.progress import to_finish
from sweeps.progress.to_finish import Estimator

FOLDER = "report"  # under results_dir


@dataclass(frozen=True)
class Content:
    """What the report made of one study: pages show this and compute no number of their own."""

    frame: Frame
    table: Table
    images: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)  # name -> "svg" -> the drawing


@dataclass(frozen=True)
class Site:
    """The pages of one database. `live`: what a served page asks again for; empty in a file."""

    engine: Engine
    live: str = ""
    place: Place = HERE  # what the commands on the pages are about
    _estimators: list[Estimator] = field(default_factory=list, init=False, compare=False, repr=False)

    @cached_property
    def templates(self) -> Environment:
        return environment()

    def summary(self, frame: Frame) -> Summary:
        """What the index and the study's own page say of it."""
        found: Summary = frame.once(self._summary)
        return found

    def index_page(self, launched: Sequence[Summary], agreements: Sequence[Agreement]) -> bytes:
        """All studies: those of the database, then those that nobody has launched."""
        studies = [*launched, *not_launched([study.name for study in launched], self.place)]
        compared = [one for agreement in agreements for one in agreement.comparisons]
        signs = [sign for agreement in agreements for sign in counted(agreement.comparisons)]
        return self._render(
            "index.html",
            root="",
            studies=studies,
            groups=grouped(studies),
            by_chance=beside_chance(len(signs)),
            totals=totals(studies),
            agreement={study.name: [one for one in compared if one.study == study.name] for study in launched},
            num_signs=len(signs),
            num_same=sum(sign.is_same for sign in signs),
            fewest_rows=FEWEST_ROWS,
        )

    def agreement_page(self, agreements: Sequence[Agreement], images: Mapping[str, bytes]) -> bytes:
        """Our tables beside the printed ones, all of them; `images`: their figure, empty where there is none."""
        label = "rank correlation and agreement of signs, a line a table; the tables below hold its numbers"
        return self._render(
            "agreement.html",
            root="",
            summaries=[(one, shown_comparisons(one.comparisons)) for one in agreements],
            sentences=[agreement_totals(one) for one in agreements],
            differing=[dict.fromkeys((c.study, c.place, c.differs) for c in one.comparisons) for one in agreements],
            notes=NOTES,
            figure=inline_svg(images["svg"], name="agreement", label=label) if images else "",
        )

    def study_page(self, content: Content) -> bytes:
        frame = content.frame
        # A server makes the page of any run that somebody asks for.
        ids = study_page.listed_ids(frame, study_page.MOST_LISTED) if self.live else study_page.page_ids(frame)
        with self.engine.connect() as connection:
            pages = runs.keys(connection, ids)
            groups, num_not_drawn = study_page.curve_groups(connection, frame)
        listed = study_page.listed_runs(frame, pages)
        table = study_page.side_by_side(content.table, frame)
        captions = {str(figure["name"]): study_page.caption(frame, figure) for figure in frame.study.figures}
        figures = [
            (
                name,
                inline_svg(ends["svg"], name=f"f{number}", label=f"{frame.study.title}: figure {name}"),
                captions[name],
            )
            for number, (name, ends) in enumerate(content.images.items())
        ]
        return self._render(
            "study.html",
            root="../",
            summary=self.summary(frame),
            table=table,
            rows=study_page.shown_rows(table, frame),
            comparisons=shown_comparisons(compare(frame)),
            figures=figures,
            groups=groups,
            num_not_drawn=num_not_drawn,
            listed=listed,
            num_runs=len(frame.runs.drop_duplicates(["row_key", "config_id", "seed"])),
            notes=frame.study.notes,
            has_columns=bool(frame.study.columns),
        )

    def run_pages(self, run_ids: Sequence[int]) -> dict[str, bytes]:
        """The page of each of these runs, and its picture where the database holds one, by path."""
        with self.engine.connect() as connection:
            found = runs.read(connection, run_ids)
            drawn = {run.key: sheet(connection, run.run_id) for run in found if run.has_pictures}
        pages = {
            f"runs/{run.key}.html": self._render("run.html", root="../", run=run, picture=drawn.get(run.key))
            for run in found
        }
        return pages | {f"pictures/{key}.png": one.content for key, one in drawn.items()}

    def explorer_page(self) -> bytes:
        return self._render("explore.html", root="", libraries=LIBRARIES)

    def explorer_files(self) -> dict[str, bytes]:
        """The page, the columns and the numbers of all runs, by path."""
        with self.engine.connect() as connection:
            columns = {"explore/runs.js": explorer.read(connection).script()} | explorer.numbers(connection)
        return {"explore.html": self.explorer_page()} | columns

    def curves(self, run_ids: Sequence[int]) -> dict[str, bytes]:
        """The script of each of these runs' curves, by path."""
        with self.engine.connect() as connection:
            return explorer.curves_of(connection, run_ids)

    def _summary(self, frame: Frame) -> Summary:
        with self.engine.connect() as connection:
            query = select(StudyRow.name, StudyRow.spec, StudyRow.source).where(StudyRow.name == frame.name)
            row = connection.execute(query).one()
            words = words_here(connection, *row)
            lines, estimator = to_finish.of_database(connection, [frame.name], self._estimator)
        basis = estimator.said() or "from recorded runs of the same options"
        return of_frame(frame, row.spec, words, lines[frame.name], basis, self.place)

    def _estimator(self, connection: Connection) -> Estimator:
        """Of all runs of the database, which are read once, for the first study of which runs are left."""
        if not self._estimators:
            self._estimators.append(Estimator(to_finish.recorded(connection), {}))
        return self._estimators[0]

    def _render(self, template: str, **values: Any) -> bytes:
        return self.templates.get_template(template).render(live=self.live, place=self.place, **values).encode()


def shown_comparisons(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, str, str]]:
    """Each with its tau and its rho, and their intervals over resampled seeds, in words."""
    return [
        (one, with_interval(one.tau, *one.tau_interval), with_interval(one.rho, *one.rho_interval))
        for one in comparisons
    ]


def totals(studies: Sequence[Summary]) -> dict[str, Any]:
    """Over all studies, runs that several ask for once."""
    seen = {run_id: told for study in studies for run_id, told in study.runs.items()}
    return {
        "complete": sum(study.state == "complete" for study in studies),
        "studies": len(studies),
        "done": sum(state == "done" for state, _, _ in seen.values()),
        "without": sum(state in ("failed", *BROKEN) for state, _, _ in seen.values()),
        "cpu_seconds": sum(cpu for _, cpu, _ in seen.values()),
        "gpu_seconds": sum(gpu for _, _, gpu in seen.values()),
    }


def study_files(site: Site, content: Content) -> dict[str, bytes]:
    """The static site's files of one study, under the results folder: its page, its runs' and their curves."""
    ids = study_page.page_ids(content.frame)
    found = {f"studies/{content.frame.name}.html": site.study_page(content)} | site.run_pages(ids) | site.curves(ids)
    return {f"{FOLDER}/{path}": page for path, page in found.items()}


def listing(paths: Iterable[str]) -> dict[str, bytes]:
    """The script that lists which of these paths under the results folder are pages of studies and runs.

    A folder may hold some studies' pages: in the others a link to one that is not there is shown as words.
    """
    told: dict[str, list[str]] = {"studies": [], "runs": []}
    for path in sorted(set(paths)):
        if found := re.fullmatch(rf"{FOLDER}/(studies|runs)/(.+)\.html", path):
            told[found[1]].append(found[2])
    return {f"{FOLDER}/pages.js": f"window.pages = {json.dumps(told)};\n".encode()}


def files_over_all(
    site: Site, studies: Sequence[Summary], agreements: Sequence[Agreement], agreement_images: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Likewise those of all studies together, but for the explorer's: `Site.explorer_files`."""
    found = {
        "index.html": site.index_page(studies, agreements),
        "agreement.html": site.agreement_page(agreements, agreement_images),
        **assets(),
    }
    return {f"{FOLDER}/{path}": page for path, page in found.items()}
