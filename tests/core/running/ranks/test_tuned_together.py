"""Fine-tuning by two processes: the steps of one, its draws, its end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from core.evals.tuned.detect_tuned import DetectTuned
from core.evals.tuned.finetune import FineTune, kept_patches
from core.evals.tuned.mixing import dropout, erase, mix
from core.evals.tuned.rand_augment import rand_augment
from core.running.tuning import mirrored, piece
from core.types import Part, generator_for
from tests.core.running.ranks.test_distributed import ROOT, train_two
from tests.core.running.test_trainer import run_it

CLIPS = torch.rand(8, 3, 5, 12, 12, generator=generator_for(0, "clips"))
PIXELS = (255 * CLIPS).to(torch.uint8)
TUNED = [
    "method=mae_st", "optim.steps=2", "evals=[detect_tuned,finetune,seg_tuned]", "evals.finetune.steps=4",
    "evals.finetune.batch_size=8", "evals.finetune.repeats=2", "evals.finetune.drop_path=0.3",
    "evals.finetune.dropout=0.3", "evals.finetune.erase=0.5", "evals.finetune.mask_ratio=0.5",
    "evals.finetune.color=0.4", "evals.finetune.flip=true", "evals.finetune.intermediate=digit",
    "evals.finetune.labels=[digit]", "evals.seg_tuned.steps=4", "evals.seg_tuned.batch_size=8",
    "evals.detect_tuned.steps=2", "evals.detect_tuned.batch_size=8",
]  # fmt: skip


def whole_or(part):
    return part or Part(8)


CHANGES = {
    "rand_augment": lambda rows, part: rand_augment(
        PIXELS[rows], layers=2, magnitude=9, std=0.5, generator=generator_for(3), part=part
    ),
    "erase": lambda rows, part: erase(CLIPS[rows], 0.5, generator_for(3), part),
    "dropout": lambda rows, part: dropout(CLIPS[rows].flatten(1), 0.5, generator_for(3), part),
    "mixup": lambda rows, part: mix(CLIPS[rows], torch.eye(8)[rows], mixup=1.0, cutmix=0.0, generator=generator_for(3))[
        0
    ],
    "cutmix": lambda rows, part: mix(
        CLIPS[rows], torch.eye(8)[rows], mixup=0.0, cutmix=1.0, generator=generator_for(3)
    )[1],
    "masks": lambda rows, part: kept_patches(0.5, 0.0, whole_or(part), 16, lambda _: generator_for(3)),
    "moments": lambda rows, part: piece(CLIPS[rows], 2, lambda _: generator_for(3), whole_or(part)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("size", [2, 4])
def test_a_process_changes_its_samples_as_one_process_changes_them(name, size):
    whole = CHANGES[name](torch.arange(8), None)
    for rank in range(size):
        rows = mirrored(8, rank, size)
        torch.testing.assert_close(CHANGES[name](rows, Part(8, rows)), whole[rows], rtol=0, atol=0)


def test_rows_are_shared_out_without_overlap_each_with_its_mirror_image():
    shares = [mirrored(12, rank, 3).tolist() for rank in range(3)]
    assert shares == [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]


def test_batches_that_cannot_be_shared_out_so_are_one_process_s():
    assert FineTune(batch_size=8).can_share(4)
    assert not FineTune(batch_size=6).can_share(2)
    assert not DetectTuned(batch_size=8).can_share(2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return run_it(folder / "cache", folder / "run", *TUNED)


def series(points):
    """Losses of fine-tuning by name and step."""
    tuned = [(int(step), name, value) for step, point in points.items() for name, value in point.items()]
    return {(name, step): value for step, name, value in tuned if name.startswith("finetune/") and "_loss" in name}


def same_results(found, expected):
    """Rounding moves a few of 64 test clips from right to wrong."""
    named = [name for name in expected if name.split("/")[1].split("_")[-1] in ("top1", "top5", "miou", "map")]
    assert named and {name: found[name] for name in named} == pytest.approx(
        {name: expected[name] for name in named}, abs=4
    )


@pytest.mark.slow
def test_two_processes_fine_tune_as_one_does(tmp_path, alone):
    together = train_two(tmp_path, *TUNED)
    assert series(together["points"]) == pytest.approx(series(alone.points), rel=1e-3)
    same_results(together["results"], alone.results)


EACH = """
import os, sys
from pathlib import Path
from tests.core.running.test_trainer import run_it
folder, stop_other, words = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
is_main = os.environ["RANK"] == "0"
record = run_it(folder / "cache", folder / "run", *words, stop_after=None if is_main else stop_other)
if is_main:
    print(record.outcome, record.facts.get("why"))
"""


def run_two(tmp_path, stop_other, *words):
    """A run by two processes, of which the second is asked to stop after so many steps."""
    (tmp_path / "each.py").write_text(EACH)
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(tmp_path / "each.py")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = [sys.executable, *command, str(tmp_path / "two"), str(stop_other), *words]
    return subprocess.run(told, capture_output=True, text=True, cwd=ROOT, timeout=280, env=env)


@pytest.mark.slow
def test_a_stop_that_one_process_is_asked_for_stops_both_and_both_go_on(tmp_path, alone):
    said = run_two(tmp_path, 8, *TUNED)  # two of pretraining, five of the stage before
    assert said.returncode == 0 and said.stdout.startswith("preempted"), said.stderr[-3000:]
    assert [path.name for path in (tmp_path / "two/run/finetune/digit").iterdir()] == ["step-000000001.pt"]
    together = train_two(tmp_path, *TUNED)
    assert series(together["points"]) == pytest.approx(series(alone.points), rel=1e-3)


@pytest.mark.slow
def test_fine_tuning_that_diverges_ends_the_run_in_both_processes(tmp_path):
    said = run_two(tmp_path, 1000, *TUNED, "evals.finetune.lr=1e30")
    assert said.returncode == 0 and said.stdout.startswith("diverged fine-tuning "), said.stderr[-3000:]
