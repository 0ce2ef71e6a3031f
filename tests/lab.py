"""The package my_lab of docs/plugins.md, written into a folder: a plugin of each kind, out of the tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.configuring import plugins
from core.configuring.config import components, composed

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "plugins.md"


def examples() -> dict[str, str]:
    """The content of every file of the page, by its path."""
    found = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return dict(found)


def write_lab(folder: Path) -> Path:
    (folder / "my_lab").mkdir(parents=True)
    (folder / "my_lab" / "__init__.py").write_text("", encoding="utf-8")
    for name, content in examples().items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


@contextmanager
def forgotten() -> Iterator[None]:
    """Registries, and what was imported of my_lab, are afterwards as they were."""
    before = {kind: dict(registry) for kind, registry in plugins.REGISTRIES.values()}
    owners = dict(plugins._OWNERS)
    try:
        yield
    finally:
        for kind, registry in plugins.REGISTRIES.values():
            registry.clear()
            registry.update(before[kind])
        plugins._OWNERS.clear()
        plugins._OWNERS.update(owners)
        for cache in (composed, components, plugins._hash, plugins.load_installed):
            cache.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
            del sys.modules[name]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that holds my_lab, on Python's path of this process and of those that it starts."""
    folder = write_lab(tmp_path / "lab")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    with forgotten():
        yield folder


def python(*words: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which finds modules in `path` beside ours."""
    places = [*([str(path)] if path else []), str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False)
