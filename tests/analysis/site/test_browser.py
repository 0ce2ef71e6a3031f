"""The site in a real browser: clicked through, sorted, filtered, in both themes, by keyboard, and while it changes."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from analysis.report import write
from analysis.serve import open_server
from sweeps.database.opening import open_database
from sweeps.database.tables import Attempt, Result, RunRow
from tests.analysis.conftest import MAIN
from tests.analysis.site.browser import ENTER, TAB, Browser, programs
from tests.sweeps.installed import missing

pytestmark = pytest.mark.slow
UNFOLD = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
WAIT_S = 60  # for something that takes two seconds on a machine with nothing else to do


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = programs()
    if found is None:
        missing("chromium and chromedriver are not installed")
    opened = Browser(*found, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def index(browser: Browser, report: Path) -> Iterator[Browser]:
    """At the static index, with nothing remembered from another test."""
    browser.prefers("light")
    browser.resize(1280, 900)
    browser.open((report / "index.html").as_uri())
    browser.js("localStorage.clear()")
    browser.reload()
    yield browser
    assert browser.complaints() == []


def column(browser: Browser, table: str, number: int) -> list[str]:
    """The words of a column's visible cells."""
    return browser.js(
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].filter(row => !row.hidden)"
        ".map(row => row.cells[arguments[1]].innerText.trim().split('\\n')[0])",
        table, number,
    )  # fmt: skip


def test_from_the_index_to_a_study_to_a_run_and_back(index: Browser) -> None:
    index.click('a[href="studies/ijepa_masking.html"]')
    assert index.text("h1") == "Masking strategy"
    index.click('#run-list a[href^="../runs/"]')
    assert index.text("h1") == "multi-block, seed 0"
    assert "mask=multiblock" not in index.text("main")  # the options are folded away
    index.click("summary")
    assert "mask=multiblock" in index.text("main")
    index.click("nav li:first-child a")
    assert index.text("h1") == "Which part matters?"


def test_what_has_no_page_in_this_folder_is_words_and_no_link(browser: Browser, lively: Path, tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{lively}", read_only=True)
    write(engine, ["ijepa_masking"], tmp_path)
    browser.open((tmp_path / "report/index.html").as_uri())
    browser.js(UNFOLD)
    linked = "return [...document.querySelectorAll('a[href^=\"studies/\"]')].map((one) => one.getAttribute('href'))"
    assert browser.js(linked) == ["studies/ijepa_masking.html"] and "masking_ratio" in browser.text("#studies")
    assert "python -m analysis.report" in browser.text("#unlinked")
    browser.open((tmp_path / "report/explore.html").as_uri() + "#filter=study=masking_ratio")
    browser.until("return document.querySelector('.tabulator-row')")
    assert browser.js("return document.querySelector('.tabulator-row a')") is None
    assert "python -m analysis.serve" in browser.text("#unlinked")
    write(engine, ["evil", "ijepa_masking", "masking_ratio"], tmp_path)
    browser.reload()
    browser.until("return document.querySelector('.tabulator-row a[href^=\"runs/\"]')")
    assert browser.js("return document.querySelector('#unlinked').hidden")
    engine.dispose()
    assert browser.complaints() == []


def test_a_run_with_markup_for_a_name_is_only_words(index: Browser) -> None:
    index.click('a[href="studies/evil.html"]')
    assert "<script>document.title = 'owned'</script>" in index.text("h1")
    assert not index.js("return document.title === 'owned'")


def test_a_header_sorts_its_column_and_says_so(index: Browser) -> None:
    index.click('a[href="studies/ijepa_masking.html"]')
    index.click("#run-list th:nth-child(4) button")  # the main metric, from the largest
    values = column(index, "run-list", 3)
    numbers = [float(value) for value in values if value != "–"]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) == 7
    assert values[7:] == ["–"] * 5  # what is missing comes last either way
    assert index.js("return document.querySelector('#run-list th:nth-child(4)').ariaSort") == "descending"
    index.click("#run-list th:nth-child(4) button")
    values = column(index, "run-list", 3)
    assert [float(value) for value in values[:7]] == sorted(numbers) and values[7:] == ["–"] * 5
    index.click("#run-list th:first-child button")
    assert column(index, "run-list", 0) == sorted(column(index, "run-list", 0))
    assert len(index.find_all("#run-list th[aria-sort]")) == 1


def test_words_and_states_filter_a_table(index: Browser) -> None:
    index.type("input[data-filters=studies]", "table 6 ijepa_masking which")
    assert column(index, "studies", 0) == ["ijepa_masking"]
    index.click('button[data-shows="complete"]')
    assert column(index, "studies", 0) == [] and index.text("[data-none=studies]") == "No study matches."
    index.js("const i = document.querySelector('input'); i.value = ''; i.dispatchEvent(new Event('input'))")
    assert column(index, "studies", 0) == ["masking_ratio"]
    index.click('button[data-shows="not run"]')
    assert "mae_st_scratch" in column(index, "studies", 0)


def test_the_way_back_to_the_index_shows_it_as_it_was_set(index: Browser) -> None:
    index.type("input[data-filters=studies]", "masking")
    index.click('button[data-shows="partial"]')
    index.until(
        "return location.hash.includes('words.studies=masking') && location.hash.includes('shows.studies=partial')"
    )
    kept, shown = index.js("return location.hash"), column(index, "studies", 0)
    index.click('a[href="studies/ijepa_masking.html"]')
    assert index.text("h1") == "Masking strategy"
    index.back()
    index.until(
        "return location.pathname.endsWith('/index.html') && document.querySelector('table[data-sortable] th button')"
    )
    assert index.js("return location.hash") == kept and column(index, "studies", 0) == shown == ["ijepa_masking"]
    assert index.js("return document.querySelector('input[data-filters=studies]').value") == "masking"


def test_an_order_is_in_the_address_and_all_parts_of_the_index_have_it(index: Browser) -> None:
    index.js(UNFOLD)
    index.click("#studies-1 th:last-child button")
    index.until("return location.hash.startsWith('#sort.studies=')")
    num = index.js("return document.querySelectorAll('#studies table').length")
    index.reload()
    index.until(
        f"return document.querySelectorAll('#studies table th:last-child[aria-sort=descending]').length === {num}"
    )
    assert num >= 2


def test_the_theme_follows_the_system_until_it_is_chosen(index: Browser) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    light = index.js(background)
    index.prefers("dark")
    dark = index.js(background)
    assert light != dark
    index.until("return document.querySelector('button.theme').ariaPressed === 'true'")
    index.click("button.theme")
    assert index.js(background) == light
    index.click('a[href="studies/masking_ratio.html"]')
    assert index.js(background) == light  # remembered on the next page
    # A figure's words are drawn in the page's ink, not in black.
    ink = "return getComputedStyle(document.querySelector('svg.figure g[style*=\"--ink\"]')).fill"
    before = index.js(ink)
    index.click("button.theme")
    assert index.js(background) == dark and index.js(ink) != before


def test_text_stands_out_from_its_background_in_both_themes(index: Browser) -> None:
    """WCAG's 4.5 to 1 for every colour that words have on the three kinds of page."""
    contrast = """
      const luminance = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = (element) => {
        for (; element; element = element.parentElement) {
          const color = getComputedStyle(element).backgroundColor;
          if (!/, 0\\)$/.test(color)) return color;
        }
        return "rgb(255, 255, 255)";
      };
      const poor = [];
      for (const element of document.querySelectorAll("body *:not(svg *):not(script)")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility()) continue;
        const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance).sort().reverse();
        if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(element.outerHTML.slice(0, 80));
      }
      return poor;"""
    for scheme in ("light", "dark"):
        index.prefers(scheme)
        pages = (
            'a[href="agreement.html"]',
            "nav a",
            'a[href="studies/ijepa_masking.html"]',
            '#run-list a[href^="../runs/"]',
        )
        for page in ("", *pages):
            if page:
                index.click(page)
            assert index.js(contrast) == [], (scheme, page)
        index.click("nav li:first-child a")


def test_everything_that_can_be_used_is_reached_by_tab_and_shows_it(index: Browser) -> None:
    index.press(TAB)
    assert index.js("return document.activeElement.className") == "skip"
    assert index.js("return document.activeElement.getBoundingClientRect().left") >= 0  # seen once it has the focus
    index.press(ENTER)
    assert index.js("return location.hash") == "#main"
    index.open(index.js("return location.href.split('#')[0]"))
    usable = "a, button, input, summary, [tabindex='0']"  # but what is folded away
    wanted = index.js(f'return [...document.querySelectorAll("{usable}")].filter(e => e.checkVisibility()).length')
    reached = []
    for _ in range(wanted):
        index.press(TAB)
        reached.append(
            index.js(
                "const e = document.activeElement;"
                "return [[...document.querySelectorAll('*')].indexOf(e), getComputedStyle(e).outlineStyle]"
            )
        )
    assert len({place for place, _ in reached}) == wanted
    assert {style for _, style in reached} <= {"solid", "auto"}


def test_a_column_is_sorted_by_keyboard(index: Browser) -> None:
    index.js(UNFOLD)
    table = index.js("return [...document.querySelectorAll('#studies table')].at(-1).id")  # what never ran: many
    index.js(f"document.querySelector('#{table} th:first-child button').focus()")
    index.press(ENTER)
    index.press(ENTER)
    found = column(index, table, 0)
    assert found == sorted(found, reverse=True) and len(found) > 10


@pytest.mark.parametrize("page", ["", 'a[href="agreement.html"]', 'a[href="studies/masking_ratio.html"]', "run"])
def test_everything_has_a_role_and_a_name(index: Browser, page: str) -> None:
    if page == "run":
        index.click('a[href="studies/masking_ratio.html"]')
        page = '#run-list a[href^="../runs/"]'
    if page:
        index.click(page)
    index.js(UNFOLD)
    for css, role in (("button", "button"), ("input", "searchbox"), ("table", "table"), ("svg[role]", "image")):
        for element in index.find_all(css)[:30]:
            assert index.role(element) == role and index.name(element).strip(), css
    for element in index.find_all("main a")[:30]:
        assert index.role(element) == "link" and index.name(element).strip()
    assert len(index.find_all("h1")) == len(index.find_all("main")) == 1
    levels = index.js("return [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))


def test_a_narrow_window_scrolls_tables_and_not_the_page(index: Browser) -> None:
    index.resize(390, 800)
    for page in (
        'a[href="agreement.html"]',
        "nav a",
        'a[href="studies/masking_ratio.html"]',
        '#run-list a[href^="../runs/"]',
    ):
        assert index.js("return document.documentElement.scrollWidth <= 390"), page
        index.click(page)
    assert index.js("return document.documentElement.scrollWidth <= 390")


def test_neither_words_for_the_ear_nor_a_second_figure_widen_a_narrow_page(index: Browser, report: Path) -> None:
    index.resize(390, 800)
    index.open((report / "studies/ijepa_masking.html").as_uri())
    index.js(
        "document.querySelector('.results td:last-child').insertAdjacentHTML('beforeend', '<i class=unseen>word</i>')"
    )
    assert index.js("return document.querySelector('.figures')")
    assert index.js("return document.documentElement.scrollWidth") <= 390


def test_on_a_narrow_page_neither_a_figure_nor_the_index_covers_the_hint_of_more(index: Browser, report: Path) -> None:
    index.resize(390, 800)
    ground = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert index.js(ground, "#studies table", "backgroundColor") == "rgba(0, 0, 0, 0)"
    index.open((report / "studies/ijepa_masking.html").as_uri())
    assert index.js(ground, ".scroll > svg.figure > g > g > path", "fill") == "none"
    index.resize(1400, 800)
    assert index.js(ground, ".scroll > svg.figure > g > g > path", "fill") != "none"


# ---- served ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(browser: Browser, lively: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the database it reads."""
    path = tmp_path / "growing.sqlite"
    shutil.copy(lively, path)
    engine = open_database(f"sqlite:///{path}", read_only=True)
    with open_server(engine, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", path
        browser.open("about:blank")  # a page that is still open would ask on
        server.shutdown()
        thread.join()
    browser.complaints()
    engine.dispose()


def finish_a_failed_run(path: Path) -> None:
    engine = open_database(f"sqlite:///{path}")
    with Session(engine) as session, session.begin():
        run = session.query(RunRow).filter_by(state="failed", seed=0).one()
        session.execute(update(Attempt).where(Attempt.run_id == run.id).values(outcome="done"))
        session.add(Result(run_id=run.id, metric=MAIN, value=66.25, attempt=1))
        run.state = "done"
    engine.dispose()


def test_a_served_page_shows_a_run_that_finishes_and_keeps_what_the_reader_set(
    browser: Browser, served: tuple[str, Path]
) -> None:
    address, path = served
    browser.open(f"{address}/studies/ijepa_masking.html")
    browser.click("#run-list th:nth-child(4) button")
    assert "66.25" not in browser.text("main")
    browser.js("window.stayed = true")
    finish_a_failed_run(path)
    end = time.monotonic() + WAIT_S
    while "66.25" not in browser.text("main") and time.monotonic() < end:
        time.sleep(0.2)
    assert "66.25" in browser.text("#results") and "66.25" in browser.text("#run-list")
    assert browser.js("return window.stayed") is True  # the page was not loaded again
    assert browser.js("return document.querySelector('#run-list th:nth-child(4)').ariaSort") == "descending"
    assert column(browser, "run-list", 3)[3] == "66.25"
    assert browser.text("p.live") in ("live", "live, updated")
    assert browser.complaints() == []


def test_a_served_site_is_clicked_through_too(browser: Browser, served: tuple[str, Path]) -> None:
    browser.open(served[0])
    browser.click('a[href="studies/masking_ratio.html"]')
    browser.click('#run-list a[href^="../runs/"]')
    assert browser.text("h1").endswith("seed 0")
    assert browser.complaints() == []
