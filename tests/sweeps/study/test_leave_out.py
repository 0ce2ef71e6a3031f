"""`leave_out:` in a study file: rows without one component each, from one base."""

from pathlib import Path

import pytest

from sweeps.cells.edited import launched
from sweeps.cells.expand import expand
from sweeps.cells.request import Request
from sweeps.cells.untrained import form
from sweeps.console.errors import UserError
from sweeps.study.files import StudyError
from sweeps.study.model import Study
from sweeps.study.reading import parse

WITHOUT = {
    "decay": {"optim.weight_decay": 0.0},
    "warm_up": {"label": "warm-up", "set": {"optim.warmup_share": 0.0}, "scales": {"gpu": {"optim.lr_start": 0.1}}},
}
FILE = Path("studies/parts.yaml")


def study(leave_out: object = WITHOUT, **changes: object) -> Study:
    document = {
        "title": "Parts",
        "question": "Which matter?",
        "base": {"method": "mae", "optim.weight_decay": 0.05, "optim.warmup_share": 0.1},
        "leave_out": leave_out,
        "metrics": ["ridge/{label}_top1"],
        "seeds": [0],
    }
    return parse(document | changes, FILE)


def test_there_is_a_row_of_everything_and_one_without_each_part():
    parts = study()
    assert [(row.key, row.label) for row in parts.rows] == [
        ("all", "all"),
        ("without_decay", "without decay"),
        ("without_warm_up", "without warm-up"),
    ]
    assert parts.baseline == "all"


def test_a_row_is_the_base_without_its_part_and_nothing_else():
    cells = expand(Request(study(), "smoke")).cells
    whole, decay, warm_up, untrained = (config for _, config in cells)
    assert decay == whole | {"optim.weight_decay": 0.0}
    assert warm_up == whole | {"optim.warmup_share": 0.0}
    assert untrained == form(whole | {"optim.steps": 0})


def test_a_part_may_be_switched_off_in_another_way_at_a_scale():
    cell = study().cells("gpu")[2]
    assert (cell.overrides["optim.warmup_share"], cell.overrides["optim.lr_start"]) == (0.0, 0.1)


def test_the_rows_have_columns_like_any_others():
    columns = [{"key": str(n), "set": {"optim.steps": n}} for n in (1, 2)]
    cells = expand(Request(study(columns=columns, random_init=False), "smoke")).cells
    assert [(cell.row_key, cell.col_key) for cell, _ in cells][:3] == [
        ("all", "1"),
        ("all", "2"),
        ("without_decay", "1"),
    ]
    assert len(cells) == 6


def test_what_the_database_holds_keeps_the_order_and_is_the_same_study():
    spec = expand(Request(study(), "smoke")).spec
    assert [list(part) for part in spec["leave_out"]] == [["decay"], ["warm_up"]]
    again = launched(FILE.stem, spec)
    assert again.rows == study().rows


def test_printed_numbers_may_stand_beside_the_rows():
    printed = study(printed={"values": {"all": 2.0, "without_decay": 3.0}}).printed
    assert printed is not None and list(printed.values) == ["all", "without_decay"]


@pytest.mark.parametrize(
    ("leave_out", "message"),
    [
        ({}, "leave_out: name at least one component"),
        (["decay"], "leave_out must map the name of each component"),
        ({"decay": 0}, "leave_out.decay must be the options that switch it off, got 0"),
        ({"decay": {}}, "leave_out.decay: name at least one option"),
        ({"weight decay": {"optim.weight_decay": 0.0}}, "leave_out: 'weight decay' must be a word"),
        ([{"decay": {"optim.clip": 0.0}}, {"decay": {"optim.clip": 1.0}}], "leave_out.decay is there twice"),
        (
            {"decay": {"label": "x", "sets": {}, "set": {"a": 1}}},
            r"unknown key leave_out.decay.sets \(did you mean set",
        ),
        ({"decay": {"weight decay": 0.0}}, "leave_out.decay.set: 'weight decay' is not an option's name"),
        ({"decay": {"set": {"optim.clip": 0.0}, "scales": {"cpuu": {}}}}, "unknown key leave_out.decay.scales.cpuu"),
    ],
)
def test_a_mistake_in_the_section_names_the_part(leave_out, message):
    with pytest.raises(StudyError, match=rf"^studies/parts.yaml: .*{message}"):
        study(leave_out)


@pytest.mark.parametrize(
    ("off", "message"),
    [
        ({"optim.weight_decay": 0.05}, "leave_out.part: optim.weight_decay=0.05 is what the row of everything has"),
        ({"optim.weight_decay": 0.0, "optim.warmup_share": 0.1}, "leave_out.part: optim.warmup_share=0.1 is what"),
        ({"mask": "random"}, "leave_out.part: mask=random is what the row of everything has at scale smoke"),
        ({"optim.weigth_decay": 0.0}, "row 'without_part': optim.weigth_decay: unknown; did you mean optim.weight_dec"),
    ],
)
def test_a_row_that_leaves_nothing_out_is_refused_by_name(off, message):
    with pytest.raises(UserError, match=rf"^studies/parts.yaml: {message}"):
        expand(Request(study({"part": off}), "smoke"))


def test_an_option_of_another_choice_may_equal_the_old_one_s():
    cells = expand(Request(study({"random_mask": {"mask": "space", "mask.ratio": 0.75}}), "smoke")).cells
    assert cells[0][1]["mask.ratio"] == cells[1][1]["mask.ratio"] == 0.75


def test_the_section_goes_with_no_other_rows():
    with pytest.raises(StudyError, match="give one of grid:"):
        study(rows=[{"key": "a"}])
    with pytest.raises(StudyError, match="leave_out: a study has rows or a search:, not both"):
        study(search={"space": {"optim.clip": {"float": [0.0, 1.0]}}, "budget": 2})
