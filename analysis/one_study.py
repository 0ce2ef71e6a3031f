"""All that a report has of one study: its table and figures, its pages, and what is said of it beside others.

Each study is made on its own, so that a large report's are shared out among processes.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL

from analysis.figures import drawing, landscape, plotting, search, searched, theme
from analysis.numbers import agreement, remembered
from analysis.numbers.frame import Frame, load
from analysis.site.pages import FOLDER, Content, Site, study_files
from analysis.site.summary import Summary
from analysis.tables import building, latex, render
from analysis.tables.parts import Table
from sweeps.console.offered import Place
from sweeps.database.opening import open_database, url_to_share

WORTH_A_PROCESS = 8  # studies: fewer are made sooner here than a new process imports matplotlib
MOST_UNSEEN = 50_000  # new objects before Python's collector looks through them; 700 of its own accord


@dataclass(frozen=True)
class Part:
    """`files` are its table and figures, `pages` what the site has of it: by path under the results folder.

    Both are empty of a study that is only said something of beside others.
    """

    summary: Summary
    agreement: agreement.OfStudy
    files: Mapping[str, bytes]
    pages: Mapping[str, bytes]


def part(site: Site, name: str, style: latex.Style, *, is_asked: bool) -> Part:
    frame = load(site.engine, name)
    files: dict[str, bytes] = {}
    pages: dict[str, bytes] = {}
    if is_asked:
        images, table = figures(frame, style.article), table_of(frame)
        drawn = {f"figures/{name}-{of}.{end}": data for of, ends in images.items() for end, data in ends.items()}
        files = table_files(table, style) | drawn
        pages = study_files(site, Content(frame, table, images))
    return Part(site.summary(frame), agreement.of_study(frame), files, pages)


# ---- its files -------------------------------------------------------------------------------------------------------


def table_of(frame: Frame) -> Table:
    return building.build(frame) if frame.study.search(frame.scale) is None else search.table(frame)


def table_files(table: Table, style: latex.Style) -> dict[str, bytes]:
    return {
        f"tables/{table.name}.md": render.markdown(table).encode(),
        f"tables/{table.name}.tex": latex.latex(table, style).encode(),
        f"tables/{table.name}.csv": render.to_csv(table).encode(),
    }


def figures(frame: Frame, article: str = theme.PASTED) -> dict[str, dict[str, bytes]]:
    """Every figure of the study by name, each as svg, png and pdf: as it is remembered, else drawn."""
    plots = {str(figure["name"]): plot_of(frame, figure) for figure in frame.study.figures}
    keys = {name: remembered.key_of("figure", theme.what_decides(article), plot) for name, plot in plots.items()}
    known = {name: files for name, key in keys.items() if (files := remembered.read(key)) is not None}
    drawn = {name: draw(plot, article) for name, plot in plots.items() if name not in known}
    remembered.write({keys[name]: files for name, files in drawn.items()})
    return {name: known[name] if name in known else drawn[name] for name in plots}


def pictures(frame: Frame, figure: Mapping[str, Any]) -> dict[str, bytes]:
    """One figure as svg, png and pdf."""
    return draw(plot_of(frame, figure))


def plot_of(frame: Frame, figure: Mapping[str, Any]) -> plotting.Plot | searched.Landscape:
    return searched.plot(frame, figure) if figure.get("kind") in searched.KINDS else plotting.plot(frame, figure)


def draw(plot: plotting.Plot | searched.Landscape, article: str = theme.PASTED) -> dict[str, bytes]:
    """A search's figures are for a column of either article."""
    return landscape.images(plot) if isinstance(plot, searched.Landscape) else drawing.images(plot, article)


# ---- many of them ----------------------------------------------------------------------------------------------------


def made(site: Site, studies: Mapping[str, bool], style: latex.Style) -> tuple[dict[str, bytes], list[Part]]:
    """The explorer's files, and the part of each of these studies, in their order; of those that are True whole.

    This process begins with the last one and others with the first, until they meet.
    """
    num_others = min(os.cpu_count() or 1, sum(studies.values()) // WORTH_A_PROCESS) - 1
    with ExitStack() as stack:
        stack.enter_context(settled())
        if num_others < 1:
            explorer = _explorer(site)
            return explorer, [part(site, name, style, is_asked=is_asked) for name, is_asked in studies.items()]
        # Not forked: this process may have threads by now.
        pool = ProcessPoolExecutor(num_others, multiprocessing.get_context("spawn"), initializer=_settle)
        stack.enter_context(pool)
        threads = stack.enter_context(ThreadPoolExecutor(num_others))
        there = url_to_share(site.engine), site.place
        explorer_there = pool.submit(_explorer_there, *there)
        waiting, found = deque(studies), dict[str, Part]()

        def go_on(take: Callable[[], str], make: Callable[[str], Part]) -> None:
            """Until none is left, or one fails here or there."""
            try:
                for name in _until_empty(take):
                    found[name] = make(name)
            except BaseException:
                waiting.clear()
                raise

        # A study is given to a process that has none: one that waits in a pool's queue could not be made here.
        def make_there(name: str) -> Part:
            return pool.submit(_part_there, *there, name, style, studies[name]).result()

        others = [threads.submit(go_on, waiting.popleft, make_there) for _ in range(num_others)]
        go_on(waiting.pop, lambda name: part(site, name, style, is_asked=studies[name]))
        for other in others:
            other.result()
        return explorer_there.result(), [found[name] for name in studies]


def _until_empty(take: Callable[[], str]) -> Iterator[str]:
    with suppress(IndexError):
        while True:
            yield take()


def _explorer(site: Site) -> dict[str, bytes]:
    return {f"{FOLDER}/{path}": content for path, content in site.explorer_files().items()}


@functools.cache
def _site_there(url: URL, place: Place) -> Site:
    """Another process's, for all that it makes."""
    return Site(open_database(url, read_only=True), place=place)


def _explorer_there(url: URL, place: Place) -> dict[str, bytes]:
    return _explorer(_site_there(url, place))


def _part_there(url: URL, place: Place, name: str, style: latex.Style, is_asked: bool) -> Part:
    return part(_site_there(url, place), name, style, is_asked=is_asked)


@contextmanager
def settled() -> Iterator[None]:
    """What is here by now, a million objects of libraries, stays: Python's collector does not look through it again.

    It would once for each study that is loaded, 0.15 s each. Of a study it then looks through what is new less often.
    """
    if gc.get_freeze_count():  # whoever froze what there is goes on without it
        yield
        return
    before = gc.get_threshold()
    _settle()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def _settle() -> None:
    gc.freeze()
    gc.set_threshold(MOST_UNSEEN, *gc.get_threshold()[1:])
