"""Every command that README shows is run here, at scale smoke and in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
TREE = README.split("## What is where")[1].split("```")[1]
PYTHON = [command for command in COMMANDS if command.startswith(".venv/bin/python")]


def test_readme_starts_with_the_two_commands_that_make_offers():
    assert [command.split(" #")[0].strip() for command in COMMANDS[:2]] == ["make study", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "study", "test", "check", "bench"} <= set(targets)


def test_every_file_in_the_tree_of_readme_exists():
    folder = ROOT
    for line in TREE.strip().splitlines():
        names = [name for name in re.split(r" {2,}", line.strip())[0].split() if re.search(r"[./]|^Makefile$", name)]
        assert names, line
        if not line.startswith(" "):
            folder = ROOT / names[0] if names[0].endswith("/") else ROOT
        for name in names:
            path = ROOT / name if not line.startswith(" ") else folder / name
            assert path.exists(), f"README names {path.relative_to(ROOT)}"


def test_every_module_is_in_the_tree_of_readme():
    modules = [path.name for folder in ("core", "sweeps", "analysis") for path in (ROOT / folder).glob("*.py")]
    assert [name for name in modules if name != "__init__.py" and name not in TREE] == []


@pytest.mark.slow
def test_the_commands_of_readme_run(tmp_path):
    pictures = tmp_path / "photos"
    assert len(PYTHON) >= 8
    small = ["scale=smoke", "seeds=[0]", "workers=2"]
    for command in sorted(PYTHON, key=lambda text: "sweeps.launch" not in text):  # the others read what it wrote
        words = shlex.split(command)[1:]
        if "analysis.serve" in words:
            continue  # it ends with Ctrl-C only, too; tests/analysis/test_serve.py serves
        if "watch=true" in words:
            words.remove("watch=true")  # it ends with Ctrl-C only; tests/sweeps/test_status.py watches
        if "sweeps.launch" in words:
            words = [word for word in words if not word.startswith("seeds=")] + small
        if "sweeps.plan" in words:
            words.append("scale=smoke")
        if "data=image_folder" in words:
            draw(pictures)
            words = [f"data.path={pictures}" if word.startswith("data.path=") else word for word in words]
            words[words.index("data.size=64")] = "data.size=32"
        done = subprocess.run(
            [sys.executable, *as_in(tmp_path, words)], cwd=tmp_path, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def as_in(folder, words):
    """Study names of README's tables are those of the default scale; a smoke launch's are called study@smoke."""
    reads = any(word.startswith(("sweeps.status", "sweeps.query")) for word in words)
    return [f"{word}@smoke" if reads and word == "study=masking_ratio" else word for word in words]


def draw(folder, num_images=60):
    for number in range(num_images):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
