"""Which plugins are asked for or installed, and what is in their files. Imports nothing of core, and so no torch.

A plugin is a module out of this tree that registers components (`core.plugins.register`). What it holds is the text of
its file and of the files of its own package that it imports: a change there may change numbers, one elsewhere not.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

GROUP = "ssl_ablations.plugins"  # of entry points: NAME = "MODULE"
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def names_in(value: Any, where: str = "plugins") -> list[str]:
    """The modules of ``plugins=[my_lab.masks]``, as text or a list. Raises ValueError for what is no module's name."""
    given = value.strip().removeprefix("[").removesuffix("]").split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError(f"{where} must be a list of modules such as [my_lab.masks], got {value!r}")
    names = [str(name).strip().strip("'\"") for name in given]
    if names == [""]:
        return []
    if wrong := [name for name in names if not _MODULE.fullmatch(name)]:
        hint = ": give the module that Python imports, not a file" if "/" in wrong[0] or "-" in wrong[0] else ""
        raise ValueError(f"{where} must be a list of modules such as [my_lab.masks], got {wrong[0]!r}{hint}")
    return list(dict.fromkeys(names))


@functools.cache
def installed() -> dict[str, str]:
    """Module by the name of its entry point, of every installed package that has plugins."""
    return {point.name: point.value for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: p.name)}


def version(module: str) -> str:
    """Of the distribution that installed it, else what its package calls `__version__`; "" where neither is known."""
    top = module.partition(".")[0]
    for distribution in metadata.packages_distributions().get(top, []):
        return metadata.version(distribution)
    for name in (module, top):
        if (told := getattr(sys.modules.get(name), "__version__", "")) != "":
            return str(told)
    return ""


def source_hash(module: str) -> str | None:
    """16 hex digits of the module's source; None where there is no such module, or none that has a file."""
    files = sources(module)
    if not files:
        return None
    found = hashlib.blake2b(digest_size=8)
    for name, path in sorted(files.items()):
        found.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def sources(module: str) -> dict[str, Path]:
    """The file of the module and those of its own top package that it imports, however indirectly, by their names."""
    top = module.partition(".")[0]
    found: dict[str, Path] = {}
    pending, seen = [module], set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name.partition(".")[0] != top:
            continue
        seen.add(name)
        pending.append(name.rpartition(".")[0] or name)  # a package's own file is run before those in it
        if (path := _file_of(name)) is not None:
            found[name] = path
            pending += imported(path, name)
    return found


def _file_of(name: str) -> Path | None:
    """None for a name that is no module, and for a package without a file."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # its package is none, or was made by hand and has no spec
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def imported(path: Path, name: str) -> Iterator[str]:
    """What the module `name` in this file may import: of `from a import b` both a and a.b, of which one is a module."""
    if path.suffix != ".py":
        return
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    try:
        nodes: Iterable[ast.AST] = ast.walk(ast.parse(path.read_bytes()))
    except SyntaxError:  # importing it says so
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
