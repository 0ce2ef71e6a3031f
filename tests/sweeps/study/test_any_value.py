"""Whatever stands at any place of a study's file, what is wrong with it is told: nothing ends in a traceback."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.study.files import StudyError, load_document
from sweeps.study.reading import parse

ROWS = """
title: T
question: Q?
source: {paper: P, arxiv: "2301.08243", place: Table 1}
base: {method: mae, optim.steps: 2, evals: [collapse, ridge]}
scales: {smoke: {seeds: [0, 1], margin: 1.0, metrics: [collapse/rankme]}, gpu: {optim.steps: 3}}
rows:
  - {key: a, label: "A {mask.ratio}", set: {mask.ratio: 0.5}, labels: {paper: Big}}
  - {key: b, label: B, set: {mask.ratio: 0.75}, scales: {smoke: {optim.batch_size: 4}}}
columns:
  - {key: c, set: {optim.steps: 2}}
  - {key: d, set: {optim.steps: 3}}
baseline: b
random_init: true
stop: {metric: collapse/rankme, below: 1.2, after: 1}
seeds: {start: 3, until: decided, max: 12}
metrics: ["ridge/{label}_top1", collapse/rankme]
margin: 1.5
varies: [augment]
table: {caption: hello, digits: {"collapse/*": 2}, columns: metrics, latex: [collapse/rankme]}
figures:
  - {name: f, kind: line, x: mask.ratio, xlabel: hi, hue: columns, panels: [{x: mask.ratio, metric: collapse/rankme}]}
  - {name: g, kind: bar}
printed: {metric: m, source: s, values: {a: {c: 1.0, d: 2.0}}, outcomes: {b: crashed}, digits: {c: 1}}
notes: some
plugins: []
"""
SEARCH = """
title: T
question: Q?
base: {method: ijepa, optim.steps: 2}
search:
  space: {mask.num_targets: {int: [1, 6]}, loss.beta: {float: [0.1, 1.0], log: true}, loss: {categorical: [mse, l1]}}
  seeds: 2
  promote: {trials: 4, seeds: 4}
  judge: {seeds: 5}
  budget: 24
  pruner: median
  eval_every: 1
scales: {smoke: {search: {budget: 2, space: {mask.num_targets: {int: [1, 2]}}}}}
metrics: ["ridge/{label}_top1"]
figures: [{name: importance, kind: importance}]
"""
LEAVE_OUT = """
title: T
question: Q?
leave_out: {decay: {optim.weight_decay: 0.0}, warm_up: {label: W, set: {optim.warmup_share: 0.0}, scales: {smoke: {}}}}
metrics: ["ridge/{label}_top1"]
"""
GRID = """
title: T
question: Q?
grid: {mask.ratio: [0.5, 0.75], optim.steps: [2, 3]}
metrics: ["ridge/{label}_top1"]
"""
ODD = (
    *(None, True, 3, -1, 1.5, float("nan"), float("inf"), 10**25, "", "x", "{x}", "[red]", "a/b", [], [1], ["a", "a"]),
    *([None], [[]], [{}], {}, {"a": 1}, {1: 2}, {None: 1}, {"a": {"b": [1]}}),
)
ODD_KEYS = (1, None, "", True, "zzz", 1.5, "optim")


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*path, key))


def changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    whole = copy.deepcopy(tree)
    parent = whole
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return whole


def renamed(tree: Any, path: tuple[Any, ...], key: Any) -> Any:
    parent = tree
    for part in path[:-1]:
        parent = parent[part]
    if not isinstance(parent, dict):
        return tree
    return changed(tree, path[:-1], {key if own == path[-1] else own: value for own, value in parent.items()})


@pytest.mark.parametrize("text", [ROWS, SEARCH, LEAVE_OUT, GRID], ids=["rows", "search", "leave_out", "grid"])
def test_any_value_and_any_key_anywhere_is_taken_or_told(text: str) -> None:
    whole = yaml.safe_load(text)
    parse(copy.deepcopy(whole), Path("f.yaml"))
    for path in places(whole):  # as a file, not as a config: what core knows is refused by `expand`
        for value in ODD:
            with contextlib.suppress(StudyError):
                parse(changed(whole, path, value), Path("f.yaml"))
        for key in ODD_KEYS if path else ():
            with contextlib.suppress(StudyError):
                parse(renamed(whole, path, key), Path("f.yaml"))


@pytest.mark.parametrize("value", [{1: 2}, [], "x", 0])
def test_a_scale_that_is_no_mapping_of_options_is_refused_by_name(value: object) -> None:
    with pytest.raises(StudyError, match=r"scales\.smoke"):
        parse(yaml.safe_load(GRID) | {"scales": {"smoke": value}}, Path("f.yaml"))


def test_a_date_is_a_word_as_on_a_command_line(tmp_path: Path) -> None:
    path = tmp_path / "dates.yaml"
    path.write_text("base: {data.version: 2026-05-01}\nrows: [{key: 2026-13-41}]\n")
    assert load_document(path)[0] == {"base": {"data.version": "2026-05-01"}, "rows": [{"key": "2026-13-41"}]}


@pytest.mark.parametrize("text", ["a: !!set {x}", "a: !!binary aGk=", "a: !!float x", "a: !!bool x", "? [a]\n: b"])
def test_what_no_study_can_hold_is_refused_by_the_file_s_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tags.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=r"tags\.yaml: not valid YAML"):
        load_document(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"base": {"optim.weight_decay": float("nan")}}, r"base\.optim\.weight_decay must be a finite number, got nan"),
        ({"printed": {"values": {"0.5": float("inf")}}}, r"printed\.values\.0\.5 must be a finite number, got inf"),
        ({"seeds": [10**20]}, r"seeds must be a list of different whole numbers in \[0, 2\*\*63\)"),
        ({"seeds": {"start": 3, "until": "decided", "max": 10**25}}, r"seeds\.max must be at most 10000"),
    ],
)
def test_a_number_that_no_database_holds_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(StudyError, match=rf"(?s)^f\.yaml: .*{told}"):
        parse(yaml.safe_load(GRID) | change, Path("f.yaml"))


def test_a_label_of_what_is_left_out_is_a_word() -> None:
    whole = yaml.safe_load(LEAVE_OUT)
    whole["leave_out"]["warm_up"]["label"] = {"a": 1}
    with pytest.raises(StudyError, match=r"leave_out\.warm_up\.label must be text, got \{'a': 1\}"):
        parse(whole, Path("f.yaml"))
