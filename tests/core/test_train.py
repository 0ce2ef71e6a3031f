"""What `python -m core.train help=...` shows, and that it trains on any machine."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.configuring.config import GROUPS, SECTIONS, parse
from core.running.checkpoint import checkpoints
from core.train import describe, main


@pytest.mark.parametrize("topic", [*GROUPS, *SECTIONS, "evals"])
def test_help_shows_options_as_they_are_typed(topic):
    lines = [line.strip().split("  (or ")[0] for line in describe(topic).splitlines() if line.startswith("    ")]
    assert lines
    for line in lines:
        [(_, value)] = parse([line]).items()
        assert "<" not in str(value) and value != "None", line


def test_help_names_the_other_choices_of_an_option():
    assert "    data.fit=resize  (or cover, crop, pad)" in describe("data")


def test_help_names_only_the_choices_that_an_option_takes():
    shown = describe("evals").splitlines()
    assert {"    evals.finetune.pool=mean  (or cls)", "    evals.quadrants.pool=quadrants  (or octants)"} <= {*shown}


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_run_trains_where_onednn_has_no_kernels_for_bfloat16(tmp_path, precision):
    words = ["method=mae", "scale=smoke", "optim.steps=1", "evals=[]", f"precision={precision}"]
    folders = [f"runtime.dir={tmp_path / 'run'}", f"runtime.cache={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "core.train", *words, *folders]
    older = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=older, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def signals():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_run_that_its_cluster_warns_stops_at_a_checkpoint(tmp_path, signals):
    folder, over = tmp_path / "run", threading.Event()

    def warn():
        while not over.wait(0.01):
            if checkpoints(folder):
                os.kill(os.getpid(), signal.SIGUSR2)
                return

    warning = threading.Thread(target=warn)
    warning.start()
    words = ["scale=smoke", "optim.steps=100000", "evals=[]", "runtime.checkpoint_every=1", "runtime.tensorboard=false"]
    status = main([*words, f"runtime.dir={folder}", f"runtime.cache={tmp_path / 'cache'}"])
    over.set()
    warning.join()
    assert status == 130 and checkpoints(folder)
