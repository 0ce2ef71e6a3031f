"""A row is called after what it trains at the scale of the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeps.cells.request import Request
from sweeps.study.files import StudyError, names
from sweeps.study.model import SCALES
from sweeps.study.reading import parse, read

ROW = {
    "key": "k400",
    "label": "{data.num_train} clips",
    "labels": {"paper": "240K"},
    "set": {"data.num_train": 720},
    "scales": {"gpu": {"data.num_train": 12000}, "paper": {"data.path": "k400.csv"}},
}


def study(row):
    return parse({"title": "T", "question": "Q?", "rows": [row], "metrics": ["a/b"]}, Path("t.yaml"))


def test_a_label_takes_its_numbers_from_the_options_and_the_papers_name_at_its_scale():
    found = {scale: study(ROW).cells(scale)[0].row_label for scale in SCALES if scale != "lab"}
    assert found == {"smoke": "720 clips", "cpu": "720 clips", "gpu": "12,000 clips", "paper": "240K"}


def test_what_the_database_keeps_has_the_label_of_its_scale():
    row = Request(study(ROW), "gpu").spec()["rows"][0]
    assert (row["key"], row["label"]) == ("k400", "12,000 clips")
    assert "labels" not in row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {}, "set": {}}, "rows[0].label: {data.num_train} is not set by the row at scale smoke"),
        ({"labels": {"papr": "240K"}}, "unknown key rows[0].labels.papr"),
    ],
)
def test_a_label_that_cannot_be_made_is_refused(changes, message):
    with pytest.raises(StudyError, match=re.escape(message)):
        study({**ROW, **changes})


# What papers call their models and sets; counts of samples; sizes in pixels; epochs.
PAPERS = re.compile(
    r"ViT-|IN1k|IN22k|K400|SSv2|CIFAR|Places|iNat|ResNet-|-T$|\b\d+ px|\bepochs? \d|\d epochs?\b|\b\d+(?:\.\d+)?[kKM]\b"
)


@pytest.mark.parametrize("stem", [stem for stem in names() if not stem.endswith("_masks")])
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_no_row_is_called_after_the_papers_experiment_at_a_smaller_scale(stem, scale):
    found = read(stem)
    for level in (*found.rows, *found.columns):
        text = level.labels.get(scale, level.label)
        assert not PAPERS.search(re.sub(r"\{[\w.]+\}( px)?", "", text)), f"{stem}, {level.key} at {scale}: {text}"
