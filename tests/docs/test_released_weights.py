"""The commands of docs/released_weights.md, on tiny models under the names of the released files."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from core.configuring.config import load
from core.data.moving_digits import MovingDigits
from core.models.positions import sincos
from core.running.trainer import train
from core.types import Grid
from core.weights.__main__ import main
from tests.core.running.test_trainer import Notebook
from tests.core.weights.released import ours, vjepa2
from tests.core.weights.test_layouts import parts
from tests.docs.blocks import commands

COMMANDS = commands("released_weights.md")
SMALL = ["scale=smoke", "precision=fp32", "runtime.threads=1", "evals=[ridge]"]
TINY = {"encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2, "encoder.patch": 4, "data.size": 16}
CLIPS = {"data.frames": 4, "data.digit_min": 8, "data.num_train": 96, "data.num_test": 32}


def smaller(words: list[str], numbers: dict) -> list[str]:
    kept = [word for word in words if word.split("=")[0] not in numbers and not word.startswith("evals=")]
    return [*kept, *SMALL, *(f"{name}={value}" for name, value in numbers.items())]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny models as the documented files, and a folder of photographs."""
    vjepa2().save_pretrained(tmp_path / "vjepa2")
    _, encoder = ours()
    state = parts(encoder) | {"pos_embed": sincos(Grid(1, 4, 4), 24)[None]}
    torch.save({"target_encoder": state, "encoder": state}, tmp_path / "IN1K-vit.h.14-300e.pth.tar")
    pixels = MovingDigits(size=16, num_train=24, num_test=1, digit_min=8).load("train", tmp_path / "cache")
    for number, clip in enumerate(pixels.fetch(torch.arange(24)).clips):
        folder = tmp_path / "photos" / f"kind{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(clip[:, 0].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs() -> list[list[str]]:
    return [words for module, words in COMMANDS if module == "core.train"]


@pytest.mark.parametrize(("words", "numbers"), zip(runs(), [TINY, TINY | CLIPS], strict=True), ids=["ijepa", "vjepa2"])
def test_its_commands_evaluate_such_files(files: Path, words: list[str], numbers: dict) -> None:
    record = Notebook(files / "run")
    before = torch.get_num_threads()
    try:
        train(load([*smaller(words, numbers), f"runtime.cache={files / 'cache'}"]), record)
    finally:
        torch.set_num_threads(before)
    assert record.outcome == "done" and record.results and record.facts["step"] == 0


def test_it_shows_how_to_look_into_a_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [words] = [words for module, words in COMMANDS if module == "core.weights"]
    assert main(words) == 0
    assert "encoder.position=rope" in capsys.readouterr().out
