"""docs/dense_evaluations.md: its commands run."""

import json

from core.evaluate import main as evaluate
from core.train import main as train
from tests.docs.blocks import commands


def test_the_commands_give_numbers_of_pixels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (trained, words), (judged, again) = commands("dense_evaluations.md")
    assert (trained, judged) == ("core.train", "core.evaluate")
    small = ["scale=smoke", "data.num_train=100", "data.num_test=30"]
    assert train([*words, *small]) == 0
    assert evaluate(again) == 0
    (entry,) = json.loads((tmp_path / "runs/pixels/evaluations.json").read_text())
    assert [0 < value <= 100 for name, value in entry["results"].items() if name.endswith("/miou")] == [True]
