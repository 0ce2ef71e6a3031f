"""docs/architecture.md: its drawing is the import rule's, its functions and places exist, no module is left out."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Iterator

import pytest

from tests.docs.blocks import DOCS, blocks
from tests.test_imports import COMPONENTS, FILES, OPEN, PACKAGES, ROOMS

ROOT = DOCS.parent
PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
[DRAWING] = blocks("architecture.md", "mermaid")
# One name of a module or of something in it, in backticks.
NAMES = sorted(set(re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`", PAGE)))


def arrows() -> list[tuple[str, str]]:
    """(from, to) of every arrow of the drawing; `a --> b --> c` are two."""
    found = []
    for line in DRAWING.splitlines():
        nodes = re.findall(r"(?:^\s*|--> )(\w+)(?:\[\".*?\"\])?", line) if "-->" in line else []
        found += itertools.pairwise(nodes)
    return found


def node_of(package: str, floor: str | tuple[str, ...]) -> str:
    """The node of a floor of the import rule; one of several rooms has its first one's name."""
    room = "components" if floor == COMPONENTS else floor if isinstance(floor, str) else floor[0]
    return f"{package}_{room}"


def node_with(module: str) -> str:
    """The node of the room in which the module or package stands."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    found = [floor for floor in ROOMS[package] if room == floor or (isinstance(floor, tuple) and room in floor)]
    return package if not room else node_of(package, found[0] if found else "commands")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_drawing_has_the_rooms_of_the_import_rule_in_its_order(package: str) -> None:
    downwards = [node_of(package, floor) for floor in ("commands", *reversed(ROOMS[package]))]
    inside = [(a, b) for a, b in arrows() if a.startswith(f"{package}_") and b.startswith(f"{package}_")]
    assert inside == list(itertools.pairwise(downwards))
    for floor in ROOMS[package]:
        [label] = re.findall(rf'{node_of(package, floor)}\["(.+?)"\]', DRAWING)
        assert [room for room in ([floor] if isinstance(floor, str) else floor) if room not in label] == []


def test_the_drawing_has_the_arrows_between_packages_that_the_import_rule_allows() -> None:
    across = {(a, b) for a, b in arrows() if a.partition("_")[0] != b.partition("_")[0]}
    whole = {(node_with(who), node_with(place)) for place, askers in OPEN.items() for who in askers}
    # What all of a package may import is not drawn again from its rooms.
    allowed = {(a, b) for a, b in whole if "_" not in a or (a.partition("_")[0], b) not in whole}
    assert across == allowed


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_exists(name: str) -> None:
    module = max((known for known in FILES if f"{name}.".startswith(f"{known}.")), key=len)
    found = importlib.import_module(module)
    for part in name.removeprefix(module).split(".")[1:]:
        found = getattr(found, part)


def test_the_page_names_the_function_of_every_step_of_a_number() -> None:
    steps = [line for line in SECTIONS["A number's journey"].splitlines() if line.startswith("| ")][1:]
    assert len(steps) >= 10
    assert [line for line in steps if not any(f"`{name}`" in line.rsplit("|", 2)[1] for name in NAMES)] == []


def test_the_number_whose_journey_is_told_is_in_the_table() -> None:
    [number] = set(re.findall(r"\d+\.\d ± \d+\.\d", PAGE))
    rows = (ROOT / "results/tables/masking_ratio.md").read_text(encoding="utf-8").splitlines()
    assert any(row.startswith("| 75 % |") and f"| {number} |" in row for row in rows)


def listed() -> Iterator[tuple[str, str]]:
    """(room, word) of everything in backticks in the lists of modules; what is said above a list is of the commands."""
    for package, text in re.findall(r"^### (\w+)/.*?\n(.*?)(?=^##|\Z)", SECTIONS["What is where"], re.M | re.DOTALL):
        for item in re.split(r"^- ", text, flags=re.MULTILINE):
            words = re.findall(r"`([^`]+)`", item)
            room = words.pop(0).rstrip("/") if words and words[0].startswith(f"{package}/") else package
            yield from ((room, word) for word in words)


def test_every_module_is_named_in_the_line_of_its_room() -> None:
    modules = [(path.relative_to(ROOT).parent, path.stem) for path in FILES.values() if path.stem != "__init__"]
    known = set(listed())
    missing = [(str(folder), name) for folder, name in modules if ("/".join(folder.parts[:2]), name) not in known]
    assert missing == []


def test_every_name_in_the_line_of_a_room_is_there() -> None:
    files = {str(path.relative_to(ROOT).with_suffix("")) for path in FILES.values()}
    places = {(room, word): [ROOT / room / word, ROOT / word] for room, word in listed()}
    absent = [
        f"{room}: {word}"
        for (room, word), paths in places.items()
        if not any(name.startswith(f"{room}/") and name.endswith(f"/{word}") for name in files)
        and not ("/" in word and any(path.exists() for path in paths))
    ]
    assert absent == []


@pytest.mark.parametrize("heading", ["Where a new thing goes", "What is where"])
def test_every_place_that_a_section_names_exists(heading: str) -> None:
    text = SECTIONS[heading].partition("\n### ")[0]
    named = [word for word in re.findall(r"`([\w./-]+)`", text) if "/" in word or "." in word]
    named += [word for word in ("Makefile", "LICENSE") if f"`{word}`" in text]
    roots = (ROOT, ROOT / "studies", ROOT / "results", ROOT / "benchmarks", ROOT / "core/configuring")
    assert named and [word for word in named if not any((root / word).exists() for root in roots)] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_who_wants_to_add_something_is_sent_here(page: str) -> None:
    assert "docs/architecture.md" in (ROOT / page).read_text(encoding="utf-8")
