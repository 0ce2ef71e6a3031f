"""The explorer in a real browser: filtered, scattered, overlaid, compared, left and come back to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from analysis import files
from analysis.serve import open_server
from analysis.site.html import assets
from analysis.site.pages import Site
from benchmarks.report import generate
from sweeps.database.opening import open_database
from sweeps.study.metric_words import metric_words
from tests.analysis.site.browser import Browser, programs
from tests.analysis.site.conftest import EVIL
from tests.sweeps.installed import missing

pytestmark = pytest.mark.slow
READY = "return document.documentElement.dataset.explorer === 'ready'"
ROWS = ".tabulator-tableholder .tabulator-row"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = programs()
    if found is None:
        missing("chromium and chromedriver are not installed")
    opened = Browser(*found, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def at_the_explorer(browser: Browser, folder: Path, *, seconds: float = 20.0) -> Iterator[Browser]:
    browser.prefers("light")
    browser.resize(1280, 1600)
    browser.open("about:blank")
    browser.open((folder / "explore.html").as_uri())
    browser.until(READY, seconds=seconds)
    yield browser
    assert browser.complaints() == []


@pytest.fixture
def page(browser: Browser, report: Path):
    yield from at_the_explorer(browser, report)


def fill(browser: Browser, text: str) -> None:
    browser.js(
        "const box = document.getElementById('filter');box.value = arguments[0]; box.dispatchEvent(new Event('input'))",
        text,
    )


def choose(browser: Browser, number: int) -> None:
    for place in range(1, number + 1):
        browser.click(f".tabulator-tableholder .tabulator-row:nth-child({place}) input[type=checkbox]")


def test_a_filter_by_words_and_by_a_condition_leaves_the_runs_that_match(page):
    whole = int(page.text("#count").split()[0])
    fill(page, "study=masking_ratio mask.ratio>0.5 state=done")
    page.until("return document.getElementById('count').textContent.includes(' of ')")
    page.until(f"return parseInt(document.getElementById('count').textContent) < {whole}")
    assert int(page.text("#count").split()[0]) > 0
    assert "filter=study%3Dmasking_ratio" in page.js("return location.hash")


def count(browser: Browser, text: str) -> int:
    """How many runs a filter leaves."""
    return int(count_words(browser, text).split()[0])


def count_words(browser: Browser, text: str) -> str:
    browser.js("document.getElementById('count').textContent = ''")
    fill(browser, text)
    browser.until("return document.getElementById('count').textContent !== ''")
    return browser.text("#count")


def test_a_method_is_a_word_a_condition_and_a_choice(page):
    of_ratios = count(page, "study=masking_ratio")
    assert of_ratios > 0
    assert count(page, "method=mae") == of_ratios
    assert 0 < count(page, "mae seed=0") < of_ratios
    assert page.js("return [...document.getElementById('color').options].map((one) => one.value)").count("method") == 1


def test_spaces_around_a_sign_change_nothing(page):
    plain = count(page, "mask.ratio>0.5 state=done")
    assert count(page, "mask.ratio > 0.5 state = done") == count(page, "mask.ratio >0.5 state =done") == plain > 0


def test_a_shared_run_is_found_and_called_by_the_study_that_is_asked_for(page):
    for study in ("ijepa_masking", "evil"):  # the second has the first row of the first
        assert count(page, f"study={study} row=multi-block") == 3
        page.until(f"return document.querySelector('{ROWS} [tabulator-field=c0]').textContent === '{study}'")
    whole, own = count(page, ""), count(page, "study=evil")
    assert count(page, "study!=evil") == whole - own


def test_words_with_a_space_are_quoted_and_a_method_is_told_as_it_is_written(page):
    assert count(page, 'row="random init" study=ijepa_masking') == 3
    assert count(page, "I-JEPA") == count(page, "method=IJEPA") == count(page, "method=ijepa") > 0


def test_what_is_no_number_is_said_to_be_none(page):
    assert count_words(page, "mask.ratio>abc") == "mask.ratio>abc: “abc” is no number."


def test_a_run_without_an_option_is_not_unlike_a_value_of_it(page):
    assert count(page, "mask.ratio!=0.9") + count(page, "mask.ratio=0.9") == count(page, "mask.ratio>=0")


def test_runs_of_no_study_are_counted_and_found_and_blamed_on_no_command(page):
    assert count(page, "study=none") == count(page, "study=") == count(page, "vjepa") == 1
    assert page.text("#of-no-study").startswith("1 of the runs no study of today asks for, so that they have no page")
    assert page.js("return document.getElementById('unlinked').hidden")


SHADOWS = (
    "const table = document.getElementById('runs-table');"
    "return ['::before', '::after'].map((edge) => Number(getComputedStyle(table, edge).opacity) > 0.3)"
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_edge_behind_which_the_table_goes_on_is_in_shadow(page, scheme):
    page.prefers(scheme)
    page.resize(400, 900)
    page.until(f"{SHADOWS.replace('return ', 'const seen = ')}; return String(seen) === 'false,true'")
    page.js("const rows = document.querySelector('.tabulator-tableholder'); rows.scrollLeft = rows.scrollWidth")
    page.until(f"{SHADOWS.replace('return ', 'const seen = ')}; return String(seen) === 'true,false'")


def test_a_wide_window_has_no_shadow_on_the_table(page):
    assert page.js(SHADOWS) == [False, False]


def test_on_a_phone_the_heads_of_columns_are_no_taller_than_two_rows(page):
    page.resize(400, 900)
    page.reload()
    page.until(READY)
    heights = "return ['.tabulator-header', '.tabulator-row'].map((one) => document.querySelector(one).offsetHeight)"
    head, row = page.js(heights)
    assert head <= 2 * row


def test_an_unknown_column_is_named(page):
    fill(page, "mask.ratoi>0.5")
    page.until("return document.getElementById('count').textContent.includes('mask.ratoi')")


def test_any_option_stands_against_any_number(page):
    page.until("return document.querySelector('#scatter canvas')")
    page.js(
        "const x = document.getElementById('x'); x.value = 'mask.ratio'; x.dispatchEvent(new Event('change'));"
        "return document.getElementById('scatter-note').textContent"
    )
    page.until("return location.hash.includes('x=mask.ratio')")
    page.until(
        "return [...document.querySelectorAll('.tabulator-col-title')].some(t => t.textContent === 'mask.ratio')"
    )


def test_a_metric_is_called_by_its_words_and_filtered_by_its_key(page):
    said = page.js("return [...document.querySelectorAll('#y option')].map(o => [o.value, o.textContent, o.title])")
    assert ["ridge/digit_top1", "ridge top-1, digits (%)", "ridge/digit_top1"] in said
    fill(page, "ridge/digit_top1>0")
    page.until("return parseInt(document.getElementById('count').textContent) > 0")


def test_the_address_brings_back_the_order_of_the_runs(page):
    page.click('.tabulator-col[tabulator-field="c2"] .tabulator-col-title')
    page.until("return location.hash.includes('sort=seed%3A')")
    page.reload()
    page.until(READY)
    page.until("return document.querySelector('.tabulator-col[tabulator-field=\"c2\"]').ariaSort !== 'none'")


def test_three_curves_lie_over_one_another_and_a_value_stands_under_the_pointer(page):
    choose(page, 3)
    page.until("return document.querySelector('#curves canvas')")
    page.js("document.querySelector('#curves canvas').scrollIntoView({block: 'center'})")
    box = page.js(
        "const r = document.querySelector('#curves canvas').getBoundingClientRect();"
        "return [r.x, r.y, r.width, r.height]"
    )
    middle = {"x": int(box[0] + box[2] * 0.3), "y": int(box[1] + box[3] * 0.5)}
    moves = [
        {"type": "pointerMove", "duration": 50, **middle},
        {"type": "pointerMove", "duration": 50, "x": middle["x"] + 4, "y": middle["y"]},
    ]
    page._send(
        "POST",
        "/actions",
        {"actions": [{"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}]},
    )
    page.until("return document.querySelector('#vg-tooltip-element.visible') !== null")
    told = page.js("return document.querySelector('#vg-tooltip-element').textContent")
    assert "step" in told and "seed" in told


def test_two_runs_stand_side_by_side_and_the_address_brings_them_back(page):
    choose(page, 2)
    page.until("return document.querySelectorAll('#compare thead th').length === 3")
    page.until("return location.hash.includes('%2C')")  # both: the driver may see a changed address later than the page
    kept = page.js("return location.hash")
    chosen = page.js("return [...document.querySelectorAll('#compare thead a')].map(a => a.textContent)")
    page.click("#compare thead a")
    page.until("return location.pathname.includes('/runs/')")
    page.back()
    page.until("return location.pathname.endsWith('/explore.html')")
    page.until(READY)
    page.until(f"return location.hash === {json.dumps(kept)}")
    page.until("return document.querySelectorAll('#compare thead th').length === 3")
    assert page.js("return [...document.querySelectorAll('#compare thead a')].map(a => a.textContent)") == chosen


def test_what_a_run_is_called_is_words_and_nothing_else(page):
    fill(page, "study=evil <script>")
    page.until(f"return document.querySelector('{ROWS}').textContent.includes('<script>')")
    choose(page, 1)
    page.until("return document.querySelectorAll('#compare thead th').length === 2")
    assert page.js("return document.title") == "All runs"
    assert page.js("return document.querySelectorAll('main script').length") == 0
    assert EVIL[:8] in page.js("return document.getElementById('compare').textContent")


def test_what_a_metric_is_called_is_words_in_the_head_of_its_column(page, report):
    page.open("about:blank")
    page.open(f"{(report / 'explore.html').as_uri()}#{urlencode({'y': EVIL})}")
    page.until(READY)
    titles = page.js("return [...document.querySelectorAll('.tabulator-col-title')].map(t => t.textContent)")
    assert metric_words(EVIL) in titles and "<script>" in metric_words(EVIL)
    assert page.js("return document.querySelectorAll('main :is(script, [onmouseover])').length") == 0
    page.js(
        "const head = [...document.querySelectorAll('.tabulator-col')].find(c => c.textContent.includes('<script>'));"
        "head.dispatchEvent(new MouseEvent('mousemove', {bubbles: true}))"
    )
    page.until("return document.querySelector('.tabulator-tooltip') !== null")
    assert page.text(".tabulator-tooltip") == EVIL
    assert page.js("return document.title") == "All runs"


def test_a_chosen_run_stays_chosen_while_a_filter_hides_it(page):
    choose(page, 1)
    page.until("return document.querySelectorAll('#compare thead th').length === 2")
    first = page.text("#compare thead a")
    fill(page, "study=masking_ratio mask.ratio>0.5 state=done")
    page.until(f"return document.querySelector('{ROWS}').textContent.includes('masking_ratio')")
    choose(page, 1)
    page.until("return document.querySelectorAll('#compare thead th').length === 3")
    assert page.text("#compare thead a") == first
    fill(page, "")
    page.until(f"return document.querySelectorAll('{ROWS}.tabulator-selected').length > 0")
    assert page.js("return document.querySelectorAll('#compare thead th').length") == 3


def test_nothing_offers_to_draw_or_compare_before_a_run_is_chosen(page):
    shown = "return [...document.querySelectorAll('.of-chosen, #compare-note')].map((one) => one.hidden)"
    assert page.js(shown) == [True, True, False]
    choose(page, 1)
    page.until(f"return String((() => {{ {shown} }})()) === 'false,false,true'")


def test_keys_alone_choose_a_run(page):
    page.js("document.querySelector('.tabulator-tableholder input[type=checkbox]').focus()")
    page.press(" ")
    page.until("return document.querySelectorAll('#compare thead th').length === 2")


def test_a_narrow_dark_page_is_no_wider_than_the_window(page):
    page.prefers("dark")
    page.resize(400, 900)
    page.until("return document.documentElement.scrollWidth <= 400")
    assert page.js("return getComputedStyle(document.querySelector('.tabulator-row')).backgroundColor") == page.js(
        "const p = document.createElement('p'); p.style.background = 'var(--surface)'; document.body.append(p);"
        "const found = getComputedStyle(p).backgroundColor; p.remove(); return found"
    )


def test_a_served_explorer_draws_under_the_servers_rules(browser, lively):
    engine = open_database(f"sqlite:///{lively}", read_only=True)
    server = open_server(engine, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.prefers("light")
    browser.resize(1280, 1600)
    browser.open(f"http://127.0.0.1:{server.server_address[1]}/explore.html")
    browser.until(READY)
    browser.until("return document.querySelector('#scatter canvas')")
    choose(browser, 1)
    browser.until("return document.querySelector('#curves canvas')")
    assert browser.complaints() == []
    server.shutdown()
    server.server_close()
    engine.dispose()


# ---- many runs: more than a page can have rows for


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """The explorer's files of 30,000 runs in five studies of 300 ratios, two lengths and ten seeds."""
    folder = tmp_path_factory.mktemp("many")
    engine = open_database(f"sqlite:///{folder / 'large.sqlite'}")
    generate(engine, num_runs=30_000, num_points=120_000, num_studies=5)
    files.write(Site(engine).explorer_files() | assets() | {"pages.js": b""}, folder)
    engine.dispose()
    return folder


@pytest.fixture
def large(browser: Browser, many: Path):
    yield from at_the_explorer(browser, many, seconds=60)


def cells(browser: Browser, field: str) -> list[str]:
    return browser.js(
        f"return [...document.querySelectorAll('{ROWS} [tabulator-field={field}]')].map(c => c.textContent)"
    )


def count_is(browser: Browser, found: int) -> None:
    browser.until(f"return document.getElementById('count').textContent === '{found} of 30000 runs.'")


def test_a_filter_finds_its_runs_among_many(large):
    count_is(large, 30_000)
    fill(large, "study=large3 seed=0 mask.ratio<=0.01")  # ten ratios of two lengths
    count_is(large, 20)
    large.until(f"return document.querySelectorAll('{ROWS}').length === 20")
    assert set(cells(large, "c0")) == {"large3"} and set(cells(large, "c2")) == {"0"}
    fill(large, "0.123 large4 seed=7")
    count_is(large, 2)
    fill(large, "")
    count_is(large, 30_000)
    large.until("return document.getElementById('scatter-note').textContent.startsWith('The first 5000 of 30000 runs')")


def test_a_filter_by_a_number_asks_for_that_number(large):
    """Only the axes' numbers are there at first."""
    asked = "return [...document.querySelectorAll('head script[src^=\"explore/\"]')].length"
    before = large.js(asked)
    fill(large, "ridge/digit_top1>-1")
    count_is(large, 30_000)
    assert large.js(asked) == before + 1
    fill(large, "ridge/digit_top1>1000")
    count_is(large, 0)


def test_many_runs_are_sorted_and_turned_page_by_page(large):
    first = cells(large, "c1")
    large.click(".tabulator-page[data-page=next]")
    large.until("return document.querySelector('.tabulator-page.active').textContent === '2'")
    assert cells(large, "c1") != first
    large.click('.tabulator-col[tabulator-field="c2"] .tabulator-col-title')
    large.click('.tabulator-col[tabulator-field="c2"] .tabulator-col-title')
    large.until("return location.hash.includes('sort=seed%3Adesc')")
    large.until("return document.querySelector('.tabulator-page.active').textContent === '1'")
    assert set(cells(large, "c2")) == {"9"}
    fill(large, "seed<5")
    count_is(large, 15_000)
    large.until(f"return document.querySelector('{ROWS} [tabulator-field=c2]').textContent === '4'")


def test_runs_without_a_script_of_their_own_are_compared_by_all_numbers(many, browser):
    browser.open("about:blank")
    browser.open((many / "explore.html").as_uri())
    browser.until(READY, seconds=60)
    choose(browser, 2)
    browser.until("return document.querySelectorAll('#compare thead th').length === 3")
    told = browser.js("return [...document.querySelectorAll('#compare tbody th')].map(t => t.title)")
    assert {"ridge/digit_top1", "knn/digit_top1", "collapse/rankme", "low_shot/digit_top1"} <= set(told)
    assert "Without such a curve here" in browser.text("#curves-note")
    assert all("ERR_FILE_NOT_FOUND" in one for one in browser.complaints())
