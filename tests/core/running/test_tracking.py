"""A tracker is told what a run logs, one curve over all attempts, and nothing that it does harms the run."""

import json
import logging
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from core.configuring.config import ConfigError, load
from core.running import tracking
from core.running.stacked import train_stacked
from core.running.trainer import train
from tests.core.running.test_trainer import TINY, Notebook
from tests.sweeps.installed import missing

ROOT = Path(__file__).parents[3]
# A tracker of the wandb-shaped API that writes lines: what it was opened with, told and ended.
LINES = """
import json

class Run:
    def __init__(self, path):
        self.file = open(path, "a")

    def log(self, data, step=None):
        print(json.dumps({"step": step, **data}), file=self.file, flush=True)

    def finish(self):
        self.file.close()

def init(project, name, config, resume, id=None):
    with open("opened", "a") as file:
        print(json.dumps([project, name, resume, id, config["seed"]]), file=file)
    return Run(id)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, in which modules that tests write are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("line_tracker", "broken_tracker", "slow_tracker"):
        sys.modules.pop(name, None)


class Killed(Notebook):
    """Ends as a killed process does: before the third step's checkpoint."""

    def should_stop(self):
        self.steps_seen += 1
        if self.steps_seen == 3:
            raise RuntimeError("killed")
        return False


def run_of(folder, *words):
    return load([*TINY, "method=mae", *words, f"runtime.dir={folder}", "runtime.cache=cache"])


def told(here):
    """The lines of each run that the tracker has, and what it was opened with."""
    opened = [json.loads(line) for line in (here / "opened").read_text().splitlines()]
    return opened, {one[3]: [json.loads(line) for line in Path(one[3]).read_text().splitlines()] for one in opened}


def test_a_tracker_is_told_what_is_logged(here):
    (here / "line_tracker.py").write_text(LINES)
    record = Notebook(here / "run")
    train(run_of(here / "run", "runtime.tracker=line_tracker", "seed=3"), record)
    opened, lines = told(here)
    assert [one[:3] + one[4:] for one in opened] == [["ssl-ablations", "run seed 3", "never", 3]]
    [points] = lines.values()
    assert [point["step"] for point in points] == [1, 2, 3, 4, 5, 6, 6]
    assert [point["loss"] for point in points[:6]] == [record.points[step]["loss"] for step in range(1, 7)]
    assert points[6]["ridge/digit_top1"] == record.results["ridge/digit_top1"]


def test_attempts_at_a_run_continue_one_curve(here):
    (here / "line_tracker.py").write_text(LINES)
    words = ["runtime.tracker=line_tracker", "runtime.checkpoint_every=4"]
    with pytest.raises(RuntimeError, match="killed"):
        train(run_of(here / "run", *words), Killed(here / "run"))
    train(run_of(here / "run", *words), Notebook(here / "run"))
    opened, lines = told(here)
    assert [one[2] for one in opened] == ["never", "allow"] and opened[0][3] == opened[1][3]
    [points] = lines.values()
    assert [point["step"] for point in points if "loss" in point] == [1, 2, 3, 4, 5, 6]


def test_the_runs_of_a_stack_have_each_their_own(here):
    (here / "line_tracker.py").write_text(LINES)
    seeds = [run_of(here / str(seed), "runtime.tracker=line_tracker", f"seed={seed}") for seed in (0, 1)]
    assert train_stacked(seeds, [Notebook(here / str(seed)) for seed in (0, 1)]) == [None, None]
    _, lines = told(here)
    assert [[point["step"] for point in points] for points in lines.values()] == [[1, 2, 3, 4, 5, 6, 6]] * 2


@pytest.mark.parametrize(
    "broken",
    [
        "def init(**words): raise ConnectionError('no network')",
        "def init(**words): raise SystemExit('log in first: no network')",
        "class Run:\n    def log(self, data, step): raise OSError('no network')\ndef init(**words): return Run()",
        "import no_such_module_no_network",
        "answer = 'no network: it has no init'",
    ],
)
def test_an_error_of_a_tracker_is_named_once_and_the_run_ends_as_without_it(here, caplog, broken):
    (here / "broken_tracker.py").write_text(broken)
    plain, record = Notebook(here / "plain"), Notebook(here / "run")
    train(run_of(here / "plain"), plain)
    with caplog.at_level(logging.WARNING):
        train(run_of(here / "run", "runtime.tracker=broken_tracker"), record)
    assert record.outcome == "done" and record.results == plain.results and record.points == plain.points
    said = [each.message for each in caplog.records if "runtime.tracker=broken_tracker" in each.message]
    assert len(said) == 1 and "the run's own record has every number" in said[0]


def test_a_tracker_that_does_not_answer_is_not_waited_for(here, caplog, monkeypatch):
    (here / "slow_tracker.py").write_text(
        "import threading\nend = threading.Event()\nclass Run:\n"
        "    def log(self, data, step): end.wait()\n    def finish(self): pass\ndef init(**words): return Run()\n"
    )
    monkeypatch.setattr(tracking, "CLOSE_S", 0.1)
    record = Notebook(here / "run")
    with caplog.at_level(logging.WARNING):
        train(run_of(here / "run", "runtime.tracker=slow_tracker"), record)
    assert record.outcome == "done" and "took longer than 0.1 s to end" in caplog.text
    sys.modules["slow_tracker"].end.set()
    for thread in threading.enumerate():
        if thread.name.startswith("tracker of "):
            thread.join(10)


@pytest.mark.parametrize("name", ["trackioo", "trackioo.inner", "../trackio"])
def test_a_tracker_that_is_not_installed_is_refused_before_training(here, name):
    with pytest.raises(ConfigError, match=r"runtime\.tracker must be an installed module with wandb's init"):
        run_of(here / "run", f"runtime.tracker={name}")


@pytest.mark.parametrize(("name", "typed"), [("trackio", r"'ssl-ablations\[trackio\]'"), ("wandb", "wandb")])
def test_it_is_said_how_a_known_tracker_is_installed(here, name, typed, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"got '{name}'; install it: pip install {typed}, or give another"):
        run_of(here / "run", f"runtime.tracker={name}")


TRACKIO = """
import json
from pathlib import Path
from core.running.trainer import train
from tests.core.running.test_tracking import Killed, Notebook, run_of

words = ["runtime.tracker=trackio", "runtime.tracker_project=tests", "runtime.checkpoint_every=4"]
folder = Path("run").absolute()
try:
    train(run_of(folder, *words), Killed(folder))
except RuntimeError:
    record = Notebook(folder)
    train(run_of(folder, *words), record)

from trackio.sqlite_storage import SQLiteStorage
names = SQLiteStorage.get_runs("tests")
logs = [SQLiteStorage.get_logs("tests", name) for name in names]
losses = {step: point["loss"] for step, point in record.points.items() if "loss" in point}
print(json.dumps([names, logs, losses, record.results], default=str))
"""


def test_trackio_s_own_store_has_one_curve_of_a_resumed_run(tmp_path):
    if find_spec("trackio") is None:
        missing("trackio is not installed (make setup installs it)")
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names, [logs], losses, results = json.loads(done.stdout.splitlines()[-1])
    assert names == ["run seed 0"]
    points = {str(point["step"]): point["loss"] for point in logs if "loss" in point}
    assert points == losses and len(points) == sum("loss" in point for point in logs) == 6
    assert [point["ridge/digit_top1"] for point in logs if "ridge/digit_top1" in point] == [results["ridge/digit_top1"]]
