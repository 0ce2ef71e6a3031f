"""The site's pages as text: complete, escaped, linked, the same every time."""

from __future__ import annotations

import html
import io
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from sqlalchemy.orm import Session

from analysis.figures import agreement_drawing
from analysis.numbers import agreement
from analysis.numbers.frame import load
from analysis.one_study import table_of
from analysis.site import runs, study_page
from analysis.site.html import about, cost
from analysis.site.pages import Content, Site
from analysis.site.study_page import AGREES, OPEN, OPPOSITE, READING, shown_rows
from analysis.site.summary import command, not_launched
from sweeps import cli
from sweeps.console.offered import HERE, Place
from sweeps.database.tables import Artifact, Blob
from sweeps.study.files import names
from sweeps.study.reading import read
from tests.analysis.conftest import MAIN, ROWS, fill_grid
from tests.analysis.site.conftest import EVIL

VOID = {"meta", "link", "br", "img", "input", "wbr"}


class Page(HTMLParser):
    """Elements, links and visible words of a page; fails on an element that is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.open, self.links, self.tags, self.words = path, [], [], [], ""
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.parts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], f"{path.name}: not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("href", "src")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"{self.path.name}: </{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words += data
        self.parts.append(data)


@pytest.fixture(scope="module")
def pages(report: Path) -> dict[str, Page]:
    return {str(path.relative_to(report)): Page(path) for path in sorted(report.rglob("*.html"))}


def text(page: Page) -> str:
    return " ".join(" ".join(page.parts).split())


def test_there_is_an_index_a_page_a_study_and_a_page_a_run(pages):
    assert "index.html" in pages
    assert [name for name in pages if name.startswith("studies/")] == [
        "studies/evil.html", "studies/ijepa_masking.html", "studies/masking_ratio.html",
    ]  # fmt: skip
    # 21 of the grid; 11 of the rows; evil's own and those it shares with the rows are the same pages.
    assert len([name for name in pages if name.startswith("runs/")]) == 21 + 11 + 1


def test_every_link_leads_to_a_file_of_the_site(report, pages):
    for name, page in pages.items():
        for link in page.links:
            if link.startswith(("#", "data:,")):
                continue
            assert not re.match(r"\w+:|//", link), f"{name} loads or leads to {link}"
            path, _, fragment = map(unquote, link.partition("#"))
            target = ((report / name).parent / path).resolve()
            assert target.is_file(), f"{name}: {link}"
            if target.name == "explore.html":  # its fragment is what it shows, for its script to read
                continue
            assert not fragment or fragment in pages[str(target.relative_to(report))].ids, f"{name}: {link}"


def test_no_string_of_a_run_becomes_markup(pages):
    for name, page in pages.items():
        # Which pages there are; the explorer's own, its columns, and four libraries.
        assert page.tags.count("script") == (8 if name == "explore.html" else 2), name
        assert page.handlers == [], name
    assert EVIL in pages["studies/evil.html"].words and EVIL in pages["index.html"].words
    assert any(EVIL in page.words for name, page in pages.items() if name.startswith("runs/"))


def test_the_index_names_studies_that_nobody_has_run(pages):
    words = text(pages["index.html"])
    for name in names():
        assert name in words
    assert "python -m sweeps.launch study=mae_st_scratch" in words


def test_the_index_counts_what_is_done_failed_and_missing(pages):
    row = re.search(r"ijepa_masking Which mask\?.*?(?=masking_ratio How much)", text(pages["index.html"]))
    assert row is not None
    assert "partial" in row.group() and "7 of 12 3 failed 1 diverged" in row.group()
    # The missing run costs what the other run of its config did.
    assert "≈ 1 min from recorded runs of the same options" in row.group()


def test_a_studys_page_shows_ours_and_printed_with_the_difference(pages):
    words = text(pages["studies/ijepa_masking.html"])
    assert "71.33 ± 3.79" in words and "54.2" in words
    assert "20.2 −34.0" in words  # printed, and printed less the printed baseline
    assert "failed (3/3 seeds)" in words and "DINO (printed only)" in words


def test_a_hint_says_whether_our_difference_has_the_printed_sign(laboratory, tmp_path):
    laboratory.study("rows", ROWS)
    for seed in range(3):
        laboratory.run("rows", "multiblock", seed, {MAIN: 50.0 + seed})
        laboratory.run("rows", "block", seed, {MAIN: 40.0 + seed})
        laboratory.run("rows", "random", seed, {MAIN: (50.5, 49.0, 53.0)[seed]})
        laboratory.run("rows", "random_init", seed, {MAIN: 10.0})
    hints = hints_of(laboratory, "rows")
    assert hints["block (0.6)"] == [AGREES] and hints["random (0.6)"] == [OPEN]
    higher = {**ROWS, "printed": {**ROWS["printed"], "values": {"multiblock": 54.2, "block": 60.0}}}
    laboratory.study("higher", higher)
    assert hints_of(laboratory, "higher")["block (0.6)"] == [OPPOSITE]


def hints_of(laboratory, study):
    frame = load(laboratory.engine, study)
    rows = shown_rows(table_of(frame), frame)
    return {row.label: [cell.hint for cell in row.cells if cell.hint] for row in rows}


def test_a_study_that_nobody_has_run_names_the_command_that_tells_its_cost(laboratory):
    found = {one.name: one for one in not_launched(["rows"], HERE)}
    assert found["ijepa_context_scale"].cost_left is None
    assert found["ijepa_context_scale"].cost_basis == "python -m sweeps.plan study=ijepa_context_scale"
    # The printed setting on two seeds; 14 trials on two, four of them on two more, the best and that setting on five.
    assert (found["search_masking"].num_wanted, found["search_masking"].num_to_come) == (2, 14 * 2 + 4 * 2 + 2 * 5)
    assert found["search_multiblock"].num_to_come == 24  # one seed a trial: the budget
    assert found["seeds"].num_to_come == 18


def test_a_study_file_that_cannot_be_read_is_listed_with_what_is_wrong_and_ends_no_report(
    laboratory, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "draft.yaml").write_text("title: Draft\nquestion: What?\nrowz: []\n")
    (draft,) = [one for one in not_launched([], HERE) if one.name == "draft"]
    assert "cannot be read" in draft.question and "unknown key rowz" in draft.question and draft.state == "not run"
    laboratory.study("rows", ROWS)
    laboratory.run("rows", "block", 0, {MAIN: 40.0})
    site = Site(laboratory.engine)
    assert b"unknown key rowz" in site.index_page([site.summary(load(laboratory.engine, "rows"))], [])


def test_the_page_of_agreement_has_every_table_that_is_compared(laboratory):
    laboratory.study("rows", ROWS)
    for seed in range(3):
        for row, value in (("multiblock", 50.0), ("block", 40.0), ("random", 45.0)):
            laboratory.run("rows", row, seed, {MAIN: value + seed})
    summaries = agreement.summarise([agreement.of_study(load(laboratory.engine, "rows"))])
    page = Site(laboratory.engine).agreement_page(summaries, agreement_drawing.images(summaries)).decode()
    words = " ".join(re.sub("<[^>]*>", " ", page.replace("<wbr>", "")).split())
    assert "rows 1 % linear top-1, Table 6 ridge top-1, digits (%) 3 3 0.33 [0.33, 0.33]" in words
    assert "2 of 2 differences to the baseline have the printed sign" in words
    assert 'href="studies/rows.html#agreement"' in page and page.count("<svg") == 1
    assert "So few seeds make a bootstrap too narrow" in words


def test_the_index_sets_few_signs_beside_no_chance(laboratory):
    laboratory.study("rows", ROWS)
    for seed in range(3):
        for row, value in (("multiblock", 50.0), ("block", 40.0)):
            laboratory.run("rows", row, seed, {MAIN: value + seed})
    frame, site = load(laboratory.engine, "rows"), Site(laboratory.engine)
    page = site.index_page([site.summary(frame)], agreement.summarise([agreement.of_study(frame)])).decode()
    assert "of 1; too few to tell from chance" in page


def test_the_index_leads_to_the_page_of_agreement_even_where_there_is_none(laboratory):
    site = Site(laboratory.engine)
    assert b'href="agreement.html"' in site.index_page([], [])
    assert b"No table has two rows" in site.agreement_page([], {})


def test_a_figure_says_what_its_marks_and_intervals_are(pages):
    words = text(pages["studies/masking_ratio.html"])
    assert (
        "whiskers (bands from six seeds on): their 95 % t-intervals; hollow: printed, or with seeds missing; dashed:"
        in words
    )


@pytest.mark.parametrize("stem", names())
def test_every_kind_of_figure_of_a_study_has_a_caption(stem):
    for figure in read(stem).figures:
        kinds = [part.get("kind", figure.get("kind", "line")) for part in figure.get("panels") or [{}]]
        assert set(kinds) <= READING.keys()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0"), (0.35, "< 1 s"), (45, "45 s"), (230.0, "3 min 50 s"), (13716, "3 h 48 min")],
)
def test_a_cost_is_as_people_say_it(seconds, words):
    assert cost(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0"), (0.3, "< 1 s"), (45, "≈ 45 s"), (1107, "≈ 18 min"), (13716, "≈ 3.8 h"), (1e6, "≈ 278 h")],
)
def test_an_estimate_is_no_finer_than_it_is(seconds, words):
    assert about(seconds) == words


def test_a_studys_page_has_the_command_that_gives_it_and_its_figures(pages):
    page = pages["studies/masking_ratio.html"]
    assert "python -m sweeps.launch study=masking_ratio" in page.words
    assert page.words.count("attempt 2 went on at step 101") == 1
    assert page.tags.count("svg") == 2 + 6  # two figures, a drawing of the loss for each of six cells


def test_a_runs_page_shows_config_attempts_and_what_differs_from_the_baseline(pages):
    (page,) = [p for n, p in pages.items() if n.startswith("runs/") and "Attempt 2" in p.words]
    words = text(page)
    assert "50 %" not in words and "0.5, half length, seed 0" in words
    assert "mask.ratio 0.5 0.9" in words
    assert "Attempt 1 lost" in words and "Attempt 2 done" in words
    assert "cccccccccccc with uncommitted changes" in words and "torch 2.11.0" in words and "left-pad" not in words
    assert "optim.steps=300" in words


def test_tables_have_captions_and_headers_say_what_they_head(pages):
    for name, page in pages.items():
        source = page.path.read_text(encoding="utf-8")
        assert page.tags.count("table") == page.tags.count("caption"), name
        assert "<th>" not in source and len(re.findall(r'<th scope="(?:row|col)"', source)) == page.tags.count("th"), (
            name
        )


def test_printed_numbers_stand_beside_ours_before_the_other_metrics(pages):
    page = pages["studies/ijepa_masking.html"].path.read_text(encoding="utf-8")
    head = re.sub("<wbr>|</?span[^>]*>", "", page.split("<thead>")[1].split("</thead>")[0])
    labels = [label.strip() for label in re.findall(r"<th[^>]*>(.*?)</th>", head)]
    assert labels == [
        "row",
        "ridge top-1, digits (%)",
        "Δ baseline",
        "printed: 1 % linear top-1",
        "k-NN top-1, digits (%)",
    ]


def test_many_printed_columns_do_not_stand_between_the_metrics(laboratory):
    values = {row: {f"q{n}": 50.0 + n + place for n in range(6)} for place, row in enumerate(("multiblock", "block"))}
    printed = {"metric": "a, b", "source": "Table 6", "values": values, "compare": {"q4": MAIN}}
    laboratory.study("rows", {**ROWS, "printed": printed})
    frame = load(laboratory.engine, "rows")
    kinds = [column.label for column in study_page.side_by_side(table_of(frame), frame).columns]
    assert kinds[:4] == ["ridge top-1, digits (%)", "Δ baseline", "printed: q4", "k-NN top-1, digits (%)"]
    assert kinds[4:] == [f"printed: q{n}" for n in (0, 1, 2, 3, 5)]


def test_a_studys_page_says_how_far_its_order_is_the_printed_one(laboratory):
    laboratory.study("rows", ROWS)
    for seed in range(3):
        for row, value in (("multiblock", 50.0), ("block", 40.0), ("random", 45.0)):
            laboratory.run("rows", row, seed, {MAIN: value + seed})
    frame = load(laboratory.engine, "rows")
    page = Site(laboratory.engine).study_page(Content(frame, table_of(frame))).decode()
    words = " ".join(re.sub("<[^>]*>", " ", page.split('id="agreement"')[1].replace("<wbr>", "")).split())
    assert (
        "1 % linear top-1, Table 6 ridge top-1, digits (%) 3 3 0.33 [0.33, 0.33] 0.50 [0.50, 0.50] 2 of 2 2 of 2"
        in words
    )


@pytest.mark.parametrize("rule", [{"start": 3, "until": "decided"}, {"stop_when": "half_width < 1.5", "max": 5}])
def test_the_command_of_a_study_that_was_launched_with_a_rule_of_its_own_has_that_rule(laboratory, rule):
    words = shlex.split(
        command("ijepa_targets", {"seeds": rule}, ["study=ijepa_targets"], Place("sqlite:///x.sqlite", "out"))
    )
    (word,) = (word for word in words if word.startswith("seeds="))
    assert cli.parse([word], ("seeds",)).seed_rule() == rule


def test_a_study_s_answer_stands_on_its_page_and_in_the_index_and_a_verdict_in_its_row(laboratory):
    laboratory.study("rows", ROWS)
    for seed in range(3):
        for row, value, slope in (("multiblock", 50.0, 1.0), ("block", 40.0, 1.2), ("random", 45.0, 0.8)):
            laboratory.run("rows", row, seed, {MAIN: value + slope * seed})
    frame, site = load(laboratory.engine, "rows"), Site(laboratory.engine)
    page = site.study_page(Content(frame, table_of(frame))).decode()
    index = site.index_page([site.summary(frame)], []).decode()
    said = "ridge top-1, digits beside multi-block: block (0.6) and random (0.6) are worse."
    assert f'<p class="lead answer">{said}</p>' in page and '<td class="verdict">worse</td>' in page
    assert f">{said}</span>" in index


def test_what_came_out_of_a_run_stands_before_what_it_cost(laboratory):
    laboratory.study("rows", ROWS)
    laboratory.run("rows", "block", 0, {"cost/train_seconds": 9.0, MAIN: 40.0})
    with laboratory.engine.connect() as connection:
        (run,) = runs.read(connection, [1])
    assert [metric for metric, _, _ in run.results] == [MAIN, "cost/train_seconds"]


def test_a_run_that_kept_pictures_shows_them(laboratory, tmp_path):
    laboratory.study("rows", ROWS)
    laboratory.run("rows", "block", 0, {MAIN: 40.0})
    grid, clips = (2, 3, 3), np.arange(4 * 12 * 12, dtype=np.uint8).reshape(1, 4, 12, 12, 1)
    context = np.arange(18).reshape(1, 1, 18) % 3 == 0
    arrays = [
        {"clips": clips},
        {
            "grid": np.array(grid), "context": context, "target": ~context, "kind": np.zeros(1, int),
            "shares": np.zeros(1, int), "frames": np.arange(4), "reconstruction": clips[:, None],
        },
    ]  # fmt: skip
    with Session(laboratory.engine) as session, session.begin():
        for name, found in zip(("clips.npz", "masks.npz"), arrays, strict=True):
            buffer = io.BytesIO()
            np.savez(buffer, **found)
            session.add(Blob(sha256=name * 7 + "0", content=buffer.getvalue()))
            session.add(
                Artifact(run_id=1, attempt=1, name=name, uri=name, sha256=name * 7 + "0", bytes=9, kind="picture")
            )
    files = Site(laboratory.engine).run_pages([1])
    (page, picture) = files.items()
    assert f'src="../{picture[0]}"' in page[1].decode() and "67 % hidden" in page[1].decode()
    shown = np.asarray(Image.open(io.BytesIO(picture[1])).convert("RGB"))
    assert shown.shape == (3 * 14 - 2, 4 * 14 - 2, 3)  # three lines of four frames, with gaps
    # A palette of fewer colours: near, not equal.
    assert np.abs(shown[:12, :12, 0].astype(int) - clips[0, 0, :, :, 0]).max() <= 6


def test_every_command_of_a_page_names_the_database_that_was_read(laboratory):
    fill_grid(laboratory)
    place = Place("sqlite:///my runs.sqlite", "out")
    site = Site(laboratory.engine, place=place)
    frame = load(laboratory.engine, "masking_ratio")
    pages = [
        site.index_page([site.summary(frame)], []),
        site.study_page(Content(frame, table_of(frame))),
        *site.run_pages([1]).values(),
    ]
    commands = [
        html.unescape(found)
        for page in pages
        for found in re.findall(r"<code[^>]*>(python -m [^<]* [^<]*)</code>", page.decode())
    ]
    assert {command.split()[2] for command in commands} >= {"sweeps.launch", "analysis.report", "sweeps.status"}
    assert [command for command in commands if "'db=sqlite:///my runs.sqlite'" not in command] == []
    assert all("results_dir=out" in command for command in commands if "sweeps.launch" in command)


def test_a_run_that_two_studies_share_leads_back_to_the_one_that_one_came_from(pages):
    shared = next(
        name
        for name, page in pages.items()
        if name.startswith("runs/") and {"of-evil", "of-ijepa_masking"} <= {*page.ids}
    )
    for study in ("evil", "ijepa_masking"):
        assert f"../{shared}#of-{study}" in pages[f"studies/{study}.html"].links
        assert f"../studies/{study}.html#runs" in pages[shared].links


def test_a_name_with_signs_is_a_link_that_works_and_words_as_on_disk(laboratory):
    name = "ijepa_masking@smoke,data=own_set"
    laboratory.study(name, ROWS, "smoke", ["data=own_set"])
    laboratory.run(name, "multiblock", 0, {MAIN: 60.0})
    site = Site(laboratory.engine)
    frame = load(laboratory.engine, name)
    page = site.study_page(Content(frame, table_of(frame))).decode()
    assert "#of-ijepa_masking%40smoke%2Cdata%3Down_set" in page
    run_id = int(frame.runs["run_id"].dropna().iloc[0])
    run = next(iter(site.run_pages([run_id]).values())).decode()
    assert f'id="of-{name}"' in run
    assert 'href="../studies/ijepa_masking%40smoke%2Cdata%3Down_set.html#runs">' + name in run
