"""The package as somebody gets it who has no checkout: an sdist, the wheel made from it, an empty environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("core", "sweeps", "analysis", "studies", "ssl_ablations")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def shell(folder: Path, *words: str) -> str:
    """What the command prints, run without what this process imports from."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(words, cwd=folder, env=clean, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, folder: Path) -> Path:
    """An sdist or a wheel, as a front end has the backend build it, without asking any index."""
    return folder / shell(source, sys.executable, "-c", BUILD, f"build_{kind}", str(folder)).splitlines()[-1]


def own_files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for name in PACKAGES for path in (folder / name).rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if "__pycache__" not in path.parts)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("built")
    source = here / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    with tarfile.open(build("sdist", source, here)) as archive:
        archive.extractall(here, filter="data")
    return build("wheel", here / f"ssl_ablations-{PROJECT['version']}", here)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment with the wheel in it, which sees the dependencies of this one."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    shell(folder.parent, sys.executable, "-m", "venv", "--without-pip", str(folder))
    found = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(found)]
    shell(folder, *pip, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", str(wheel))
    # A path file's folders are searched but their path files are not read: the checkout installed there stays unseen.
    places = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    site = Path(shell(folder, str(found), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text("\n".join(places), encoding="utf-8")
    return found


@pytest.mark.slow
def test_the_wheel_made_from_the_sdist_holds_every_file_of_the_packages(wheel: Path) -> None:
    """Presets, study files, migrations, templates, sample data: all but the list of studies, which is for readers."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert sorted(inside) == [name for name in own_files(ROOT) if name != "studies/README.md"]


@pytest.mark.slow
def test_a_study_is_trained_and_read_from_the_wheel_in_an_empty_folder(python: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        return shell(tmp_path, str(python), "-m", *words)

    place = shell(tmp_path, str(python), "-c", "import sweeps; print(sweeps.__file__)")
    assert Path(place).is_relative_to(python.parents[1])
    assert "(baseline)" in run("sweeps.launch", "study=masking_ratio", "scale=smoke", "seeds=[0]")
    assert (tmp_path / "results/tables/masking_ratio@smoke.md").is_file()
    run("analysis.report", "check=true")
    assert "mask=multiblock:" in run("core.train", "help=mask")


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_a_page_names_the_package_and_its_version(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(rf"`{PROJECT['name']}` (\d[\d.]*\d)", text)) == {PROJECT["version"]}


def test_the_citation_is_of_this_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
