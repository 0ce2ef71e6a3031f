"""What is printed when a run has ended."""

import json

import pytest

from core.running.ending import short, whole
from core.train import main

FACTS = {"step": 400, "train_seconds": 61.2, "eval_seconds": 3.0, "wall_seconds": 66.0, "device": "cpu"}
COSTS = {f"cost/{number}": 1.0 for number in range(40)}
RESULTS = {"ridge/digit_top1": 61.4, "knn/digit_top1": 40.0, "collapse/rankme": 9.31, "collapse/feature_std": 0.5}


def record(outcome="done", results=RESULTS, **facts):
    return {
        "outcome": outcome,
        "results": results | COSTS,
        "facts": FACTS | facts,
        "loss": 0.25,
        "data": {"data": "ab"},
    }


def told(lines):
    return {line[:9].strip(): line[9:].strip() for line in lines}


def test_the_end_of_a_run_is_ten_lines_with_the_next_command():
    lines = short(record(), "runs/my first")
    said = told(lines)
    assert len(lines) <= 10 and max(map(len, lines)) <= 80
    assert said["loss"] == "0.2500 at step 400"
    assert said["ridge"] == "digit_top1 61.40"
    assert said["features"] == "RankMe 9.31, std 0.500"
    assert said["next"] == "python -m core.evaluate 'runtime.dir=runs/my first' evals=[linear]"


def test_many_evaluations_share_the_last_of_their_lines():
    results = {f"kind{number}/digit_top1": 1.0 for number in range(9)}
    assert told(short(record(results=results), "runs"))["also"] == "kind4, kind5, kind6, kind7, kind8"
    assert len(short(record(results=results), "runs")) <= 11


def test_a_run_without_numbers_says_why_and_offers_its_curves():
    said = told(short(record("diverged", {}, why="the loss is out of bounds at step 4"), "runs"))
    assert said["outcome"] == "diverged: the loss is out of bounds at step 4"
    assert said["next"] == "tensorboard --logdir runs"


def test_files_that_were_left_out_are_counted():
    assert told(short(record(num_excluded_train=3), "runs"))["files"] == "excluded train 3"


def test_all_numbers_are_printed_where_that_is_asked_for(tmp_path, capsys):
    words = ["method=mae", "scale=smoke", "optim.steps=1", "evals=[ridge]", "runtime.tensorboard=false"]
    words += [f"runtime.dir={tmp_path / 'run'}", f"runtime.cache={tmp_path / 'cache'}"]
    assert main(words) == 0
    assert "cost/" not in (few := capsys.readouterr().out) and len(few.splitlines()) <= 10
    assert main([*words, "verbose=true"]) == 0
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert capsys.readouterr().out.splitlines() == whole(stored)
    assert main([*words, "verbose=yes"]) == 2
    assert "verbose=yes: must be true or false" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["loss", "data"])
def test_results_of_older_code_are_shown_too(missing):
    kept = {key: value for key, value in record().items() if key != missing}
    assert missing not in told(short(kept, "runs"))
