"""The front door takes torch only for what trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ssl_ablations as ab
from tests.sweeps.conftest import engine, postgres, url
from tests.sweeps.launched import finish_next, register, two_rows

__all__ = ["engine", "postgres", "url"]  # fixtures
ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import ssl_ablations as ab
db = sys.argv[1]
frames = [ab.load("ratio", db=db), ab.table("ratio", db=db), ab.runs(db=db), ab.results(db=db), ab.cells(db=db)]
frames += [ab.differences(1, 2, db=db), ab.data([1], db=db), ab.costs(db=db), ab.best("ridge/digit_top1", db=db)]
frames += [ab.sql("select 1 as x", db=db)]
assert "train" in dir(ab)
heavy = ("torch", "timm", "hydra", "torchvision")
print([len(frame) > 0 for frame in frames].count(True), [name for name in heavy if name in sys.modules])
ab.train
print([name for name in heavy[:1] if name in sys.modules])
"""


def test_asking_a_database_imports_no_torch_and_training_does(engine):
    register(engine, two_rows())
    finish_next(engine, {"ridge/digit_top1": 61.25})
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(engine.url)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Of configs made by a test none names its data.
    assert done.stdout.splitlines() == ["9 []", "['torch']"]


def test_every_name_of_the_front_door_is_there_and_says_what_it_raises():
    for name in ab.__all__:
        assert getattr(ab, name).__doc__, name
    questions = [getattr(ab, name) for name in ab.__all__ if name[0].islower()]
    assert [each.__name__ for each in questions if "AblationError" not in each.__doc__] == []


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = ab.trian
