"""Training from Python, and what was trained: what the commands do, with their errors."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import ssl_ablations as ab

STUDY = {
    "title": "Ratio",
    "question": "How much?",
    "base": {"method": "mae"},
    "rows": [{"key": "half", "set": {"mask.ratio": 0.5}}, {"key": "most", "set": {"mask.ratio": 0.75}}],
    "metrics": ["ridge/digit_top1"],
    "random_init": False,
    "seeds": [0],
}
TINY = ["optim.steps=2", "evals=[ridge]", "runtime.threads=1", "runtime.tensorboard=false"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study of two runs that `ab.launch` has trained, and the frame that it gave."""
    folder = tmp_path_factory.mktemp("launched")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    return folder, launched(folder)


def launched(folder: Path, **options):
    words = [*TINY[:1], *TINY[2:], f"runtime.cache={folder / 'cache'}"]
    given = {"scale": "smoke", "executor": "inline", "name": "tiny"} | options
    return ab.launch(folder / "tiny.yaml", *words, db=database(folder), results_dir=folder, **given)


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'ablations.sqlite'}"


def test_a_launch_trains_the_study_and_gives_its_frame(place):
    _, frame = place
    assert frame[["row_key", "seed", "state"]].to_numpy().tolist() == [["half", 0, "done"], ["most", 0, "done"]]
    assert frame["value"].notna().all() and frame["mask.ratio"].tolist() == [0.5, 0.75]


def test_a_launch_of_what_is_done_trains_nothing_again(place):
    folder, frame = place
    before = ab.runs(db=database(folder))["attempt"].tolist()
    again = launched(folder)
    assert again["value"].tolist() == frame["value"].tolist()
    assert ab.runs(db=database(folder))["attempt"].tolist() == before == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "smok"}, r"scale must be one of .*, got 'smok' \(did you mean smoke\?\)"),
        ({"sede": [0]}, "sede: unknown option"),
        ({"seeds": [-1]}, "seeds must be a list of different whole numbers"),
        ({"workers": 0}, "workers must be a whole number of at least 1"),
    ],
)
def test_a_launch_raises_what_the_command_would_print(place, options, message):
    with pytest.raises(ab.AblationError, match=message):
        launched(place[0], **options)


def test_a_study_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ab.AblationError, match="no_such_study"):
        ab.launch("no_such_study", db=database(tmp_path), results_dir=tmp_path)


def test_an_encoder_takes_pixels_of_any_size_and_gives_features(place):
    folder, _ = place
    encoder = ab.encoder(run=1, db=database(folder), results_dir=folder)
    spec = encoder.spec
    pixels = torch.arange(2 * spec.channels * 40 * 40, dtype=torch.uint8).reshape(2, spec.channels, 1, 40, 40)
    pixels = pixels.expand(-1, -1, spec.frames, -1, -1)
    assert not encoder.training
    small, large = encoder(pixels[..., :32, :32]), encoder(pixels)
    assert small.shape == large.shape and small.ndim == 3 and torch.isfinite(large).all()
    if spec.frames == 1:
        assert torch.equal(encoder(pixels[:, :, 0]), large)


def test_an_encoder_s_preprocessing_is_that_of_training(place):
    folder, _ = place
    encoder = ab.encoder(run=1, db=database(folder), results_dir=folder)
    grey = torch.full((1, encoder.spec.channels, encoder.spec.frames, 32, 32), 128, dtype=torch.uint8)
    ready = encoder.preprocess(grey)
    mean, std = (torch.tensor(values) for values in (encoder.spec.mean, encoder.spec.std))
    assert ready.dtype == torch.float32
    torch.testing.assert_close(ready[0, :, 0, 0, 0], (128 / 255 - mean) / std, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pixels", [torch.zeros(2, 1, 1, 32, 32), torch.zeros(2, 7, 1, 32, 32, dtype=torch.uint8)])
def test_pixels_of_another_type_or_shape_are_refused(place, pixels):
    folder, _ = place
    encoder = ab.encoder(run=1, db=database(folder), results_dir=folder)
    with pytest.raises(ab.AblationError, match=r"pixels must be uint8 \[B, .*, got "):
        encoder(pixels)


def test_an_encoder_of_a_run_that_is_not_there_or_has_lost_its_checkpoint_is_refused(place, tmp_path):
    folder, _ = place
    with pytest.raises(ab.AblationError, match="99"):
        ab.encoder(run=99, db=database(folder), results_dir=folder)
    with pytest.raises(ab.AblationError, match=r"checkpoint|folder|results_dir"):
        ab.encoder(run=1, db=database(folder), results_dir=tmp_path)


def test_training_gives_the_results_and_does_not_train_again(tmp_path):
    options = {
        "method": "mae", "scale": "smoke", "optim.steps": 2, "evals": ["ridge"], "runtime.threads": 1,
        "runtime.tensorboard": False, "runtime.dir": tmp_path / "run", "runtime.cache": tmp_path / "cache",
    }  # fmt: skip
    results = ab.train(options)
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert results == stored["results"] and "ridge/digit_top1" in results
    written = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert ab.train(options) == results
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("method=mae", "overrides must be a list such as"),
        (["seed=1", "seed=2"], "seed"),
        (["mask.ratoi=0.5"], "did you mean"),
        ({"method": "mae", "mask.ratio": 1.5}, "mask.ratio"),
        (["scale=smoke", "runtime.tracker=trackioo"], "runtime.tracker must be an installed module"),
    ],
)
def test_training_raises_what_the_command_would_print(tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ab.AblationError, match=message):
        ab.train(overrides)
    assert list(tmp_path.iterdir()) == [], "nothing was trained"


def test_a_run_that_diverges_is_an_error_that_says_so(tmp_path):
    words = ["method=mae", "scale=smoke", "optim.steps=20", "optim.lr_peak=1e30", "optim.warmup_share=0", *TINY[1:]]
    with pytest.raises(ab.AblationError, match="the run ended as diverged"):
        ab.train([*words, "optim.clip=0", f"runtime.dir={tmp_path / 'run'}", f"runtime.cache={tmp_path / 'cache'}"])
    facts = json.loads((tmp_path / "run" / "result.json").read_text())["facts"]
    assert "the loss or its gradient is out of bounds at step" in facts["why"]
