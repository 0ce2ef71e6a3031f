"""A searched study from its file to its figures, with real, tiny training."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from sqlalchemy import func, select

from sweeps import launch
from sweeps.console.errors import OK
from sweeps.database.opening import open_database
from sweeps.database.tables import Attempt, CellRow, RunRow

TINY = {
    "title": "Tiny search",
    "question": "Does it run?",
    "base": {"method": "ijepa", "evals": ["ridge"], "data.num_train": 48, "data.num_test": 32, "optim.steps": 2},
    "search": {
        "space": {
            "mask.num_targets": {"int": [1, 4]},
            # A least target of 0.05 has 3 patches on the 8x8 grid, and 4 must be kept: infeasible.
            "mask.target_scale_min": {"float": [0.05, 0.15], "step": 0.05},
            "predictor.depth": {"int": [1, 2]},
        },
        "budget": 6,
        "sampler": "random",
        "pruner": "median",
        "eval_every": 1,
    },
    "metrics": ["ridge/{label}_top1"],
    "figures": [
        {"name": "importance", "kind": "importance"},
        {"name": "contour", "kind": "contour", "x": "mask.num_targets", "y": "predictor.depth"},
    ],
}
WORDS = ["study=tiny_search", "scale=smoke"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "tiny_search.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counted(folder) -> tuple[int, int, int]:
    """Charged trials, runs of the study, attempts that ended as done or pruned."""
    engine = open_database(f"sqlite:///{folder}/results/ablations.sqlite", read_only=True)
    with engine.connect() as connection:
        cells = connection.scalars(select(CellRow.display).where(CellRow.row_key.startswith("trial_"))).all()
        runs = connection.scalar(select(func.count()).select_from(RunRow))
        ended = connection.scalar(select(func.count()).where(Attempt.outcome.in_(("done", "pruned"))))
    engine.dispose()
    return sum(not cell["trial"]["is_cached"] for cell in cells), runs or 0, ended or 0


@pytest.mark.slow
def test_a_search_goes_from_its_file_to_its_figures_and_launching_again_trains_nothing(folder, capsys):
    words = [*WORDS, "executor=inline"]
    assert launch.main(words) == OK
    first = capsys.readouterr().out
    assert "trials (" in first
    assert counted(folder) == (6, 8, 8)  # six trials, the default and the random initialisation, each trained once
    files = {path.name: path.read_bytes() for path in (folder / "results").glob("[tf]*/*")}
    assert {"tiny_search@smoke-importance.svg", "tiny_search@smoke-contour.png"} <= set(files)
    assert launch.main(words) == OK
    assert counted(folder) == (6, 8, 8)
    assert capsys.readouterr().out == first
    assert {path.name: path.read_bytes() for path in (folder / "results").glob("[tf]*/*")} == files


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_whose_launcher_and_workers_are_killed_keeps_to_its_budget(folder):
    """Killed twice, at whatever it happens to be doing, then let run to its end."""
    command = [sys.executable, "-m", "sweeps.launch", *WORDS, "workers=2", "lease_s=5"]
    for least in (2, 5):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda least=least: has_ended(folder, least), process)
        finally:
            # The whole group: the launcher, its fork server and its workers.
            with_signal(process)
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=280).returncode == 0
    charged, runs, ended = counted(folder)
    assert (charged, runs, ended) == (6, 8, 8)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_search_of_several_seeds_trains_no_run_twice_and_judges_its_best(folder):
    """Killed among its trials, and among what follows them."""
    search = {**TINY["search"], "pruner": "none", "budget": 3, "seeds": 2}
    rounds = {"promote": {"trials": 2, "seeds": 3}, "judge": {"seeds": 2}}
    (folder / "studies" / "tiny_search.yaml").write_text(yaml.safe_dump({**TINY, "search": {**search, **rounds}}))
    command = [sys.executable, "-m", "sweeps.launch", *WORDS, "workers=2", "lease_s=5"]
    for least in (5, 11):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda least=least: has_ended(folder, least), process)
        finally:
            with_signal(process)
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=280).returncode == 0
    # Three trials, the default and the random initialisation on two seeds; two on one more; two judged on two.
    charged, runs, ended = counted(folder)
    assert (charged, runs, ended) == (3, 10 + 2 + 4, 10 + 2 + 4)
    assert "best_judged" in (folder / "results" / "tables" / "tiny_search@smoke.csv").read_text()


def has_ended(folder, least: int) -> bool:
    return (folder / "results" / "ablations.sqlite").exists() and counted_or_none(folder) >= least


def counted_or_none(folder) -> int:
    """Ended attempts; 0 while the tables are being made."""
    try:
        return counted(folder)[2]
    except Exception as error:
        assert "no such table" in str(error), error
        return 0


def wait_for(is_true, process) -> None:
    deadline = time.monotonic() + 240
    while not is_true():
        assert process.poll() is None or is_true(), "the launcher ended before it was killed"
        assert time.monotonic() < deadline, "the launcher does not get on"
        if process.poll() is not None:
            return
        time.sleep(0.05)


def with_signal(process) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
