"""Decoding what a stored run's representations hold of the pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from sqlalchemy import select

from analysis import gallery
from core.running.decoder import BLOCK_SIDE, NUM_SAMPLES, Decoder, Pairs
from core.types import generator_for
from sweeps import decode
from sweeps.database.opening import open_database
from sweeps.database.tables import Artifact, Blob, Config, RunRow
from sweeps.launch import main as launch

STUDY = """
title: Decoded
question: What is left?
base: {method: ijepa, optim.steps: 2, evals: []}
rows:
  - {key: ijepa, label: I-JEPA}
  - {key: vicreg, label: VICReg, set: {method: vicreg, encoder: vit}}
varies: [augment, optim, encoder]
metrics: [cost/train_seconds]
random_init: false
seeds: [0]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Options of the database and results of two tiny runs, of which the first predicts what it hides."""
    folder = tmp_path_factory.mktemp("decoded")
    (folder / "decoded.yaml").write_text(STUDY, encoding="utf-8")
    where = [f"db=sqlite:///{folder / 'a.sqlite'}", f"results_dir={folder / 'results'}"]
    cache = f"runtime.cache={folder / 'cache'}"
    assert launch([f"study={folder / 'decoded.yaml'}", "scale=smoke", "executor=inline", *where, cache]) == 0
    return folder, where, [*where, cache, "runtime.threads=1"]


def run_of(folder, objective):
    """The id of the one run of that objective."""
    engine = open_database(f"sqlite:///{folder / 'a.sqlite'}", read_only=True)
    with engine.connect() as connection:
        rows = connection.execute(select(RunRow.id, Config.json).join(Config)).all()
    engine.dispose()
    return next(row.id for row in rows if row.json["objective"] == objective)


def content(folder):
    engine = open_database(f"sqlite:///{folder / 'a.sqlite'}", read_only=True)
    with engine.connect() as connection:
        found = connection.scalars(
            select(Blob.content).join(Artifact, Artifact.sha256 == Blob.sha256).where(Artifact.name == "decoded.npz")
        ).all()
    engine.dispose()
    return found


def test_samples_are_kept_and_drawn_and_the_same_again(trained, capsys):
    folder, where, options = trained
    run = f"run={run_of(folder, 'masked')}"
    assert gallery.main(["name=ijepa_rcdm", run, *where]) == 2
    said = capsys.readouterr().err  # with the database and folder that the question named
    assert "python -m sweeps.decode db=" in said and "run=ID" in said
    before = torch.get_rng_state()
    assert decode.main([run, "steps=3", *options]) == 0
    assert torch.equal(before, torch.get_rng_state())
    (first,) = content(folder)
    arrays = np.load(io.BytesIO(first))
    images = len(arrays["originals"])
    assert arrays["blocks"].shape == (images, NUM_SAMPLES, BLOCK_SIDE, BLOCK_SIDE, 3)
    assert arrays["whole"].shape[:2] == (images, NUM_SAMPLES) and arrays["explained"].shape == (2,)
    assert arrays["context"].any((1, 2)).all() and not (arrays["context"] & arrays["target"]).any()
    assert (folder / "results" / "runs" / run.removeprefix("run=") / "decoded.npz").read_bytes() == first
    assert decode.main([run, "steps=3", *options]) == 0
    assert content(folder) == [first]
    assert gallery.main(["name=ijepa_rcdm", run, *where]) == 0
    assert gallery.main(["name=ijepa_rcdm", run, "check=true", *where]) == 0


def test_of_a_run_that_predicts_nothing_whole_images_are_decoded(trained):
    folder, where, options = trained
    number = run_of(folder, "vicreg")
    run = f"run={number}"
    assert decode.main([run, "steps=3", *options]) == 0
    arrays = np.load(folder / "results" / "runs" / str(number) / "decoded.npz")
    assert len(arrays["blocks"]) == len(arrays["context"]) == 0 and np.isnan(arrays["explained"]).tolist() == [1, 0]
    assert len(arrays["whole"]) == len(arrays["originals"]) > 0
    assert gallery.main(["name=ijepa_rcdm", run, *where]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which runs"),
        (["run=1", "mask.num_targets=2"], "mask.num_targets=2: the run is trained; only runtime.* can still be chosen"),
        (["run=9"], "run=9: not in this database"),
        (["run=1", "steps=0"], "steps must be a whole number of at least 1, got '0'"),
    ],
)
def test_a_mistake_is_one_line(trained, capsys, words, message):
    assert decode.main([*words, *trained[2]]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_a_decoder_finds_what_the_state_says_and_varies_what_it_does_not():
    """The state says the left half's brightness; the right half's is chance."""
    generator = generator_for(0, "test")
    left, right = torch.randn(600, 1, generator=generator), torch.randn(600, 1, generator=generator)
    images = torch.cat([left.expand(-1, 8), right.expand(-1, 8)], dim=1).reshape(600, 1, 4, 4).transpose(2, 3)
    pairs = Pairs(left, images)
    decoder = Decoder.fitted(Pairs(left[:500], images[:500]), 400, generator)
    held_out = Pairs(pairs.states[500:], pairs.images[500:])
    assert 0.35 < decoder.explained(held_out, generator) < 0.6
    samples = decoder.sample(torch.full((64, 1), 1.5), generator)[:, 0]  # [64, 4, 4]
    halves = samples[:, :, :2].mean((1, 2)), samples[:, :, 2:].mean((1, 2))
    assert halves[0].mean() == pytest.approx(1.5, abs=0.3) and halves[0].std() < 0.3 < 0.5 < halves[1].std()
