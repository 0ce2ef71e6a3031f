"""Who may import whom (architecture), read from the source without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from core.handing_over import FUNCTIONS

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "sweeps", "analysis")
FRONT_DOOR = "ssl_ablations"  # the packages from Python: imports what it likes of them, and none of them imports it
BESIDE = ("benchmarks", FRONT_DOOR)  # import what they like of the packages; held to have no circle
# Folders of components: each knows core.types and itself, never another kind and never the config.
COMPONENTS = ("masks", "targets", "losses", "models", "data", "evals", "objectives", "optim")
MAX_LINES = 400
# Longer files. Each says why in its first lines, as "Longer than 400 lines: ..."; at most a handful.
LONGER: tuple[str, ...] = ()


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files_of(packages: Sequence[str]) -> dict[str, Path]:
    return {name_of(path): path for package in packages for path in sorted((ROOT / package).rglob("*.py"))}


FILES = files_of(PACKAGES)
EVERY_FILE = FILES | files_of(BESIDE)
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in EVERY_FILE.items()}


def targets(name: str, node: ast.stmt) -> Iterator[str]:
    """The modules an import statement loads; `from core import types` loads core.types."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        if node.level:
            package = name.split(".") if EVERY_FILE[name].stem == "__init__" else name.split(".")[:-1]
            base = package[: len(package) - node.level + 1]
            source = ".".join([*base, *([node.module] if node.module else [])])
        submodules = [f"{source}.{alias.name}" for alias in node.names if f"{source}.{alias.name}" in EVERY_FILE]
        yield from submodules or [source]


def imports(name: str, *, whole_file: bool) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; only those that run when the module is imported unless `whole_file`."""
    pending: list[ast.AST] = [TREES[name]]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, target) for target in targets(name, node))
        is_typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        is_deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_typing_only
        if whole_file or not is_deferred:
            pending += ast.iter_child_nodes(node)


def own(module: str) -> bool:
    return module.split(".")[0] in (*PACKAGES, *BESIDE, "tests", "studies")


# The rooms of each package, the lowest first. A module imports from its own room and from those above it in this list;
# files at the top of a package are commands (and what these share) and import from every room of it.
ROOMS = {
    "core": (
        ("terminal", "process_list", "handing_over", "file_lock", "plugin_source"),
        "types",
        COMPONENTS,
        "weights",
        "measuring",
        "configuring",
        "pictures",
        "running",
        "forecast",
    ),
    "sweeps": ("console", "study", "database", "cells", "answers", "engine", "search", "progress"),
    "analysis": ("numbers", "tables", "figures", "pictures", "site"),
}
# Of another package: what only who must may import. Everything else of `core` is closed to `sweeps` and `analysis`, and
# `sweeps` to `core`.
OPEN = {
    "core.terminal": ("sweeps", "analysis"),
    "core.handing_over": ("sweeps.launch",),
    "core.file_lock": ("sweeps",),
    "core.plugin_source": ("sweeps",),
    "core.configuring.config": ("sweeps",),
    # The worker runs the trainer and gives it the recorder that core.types declares.
    "core.types": ("sweeps.engine.working",),
    "core.running.trainer": ("sweeps.engine.working",),
    "core.running.ranks.processes": ("sweeps.engine.working", "sweeps.engine.together", "sweeps.worker"),
    "core.running.stacked": ("sweeps.engine.working",),
    "core.running.stacking": ("sweeps.engine.stacks",),
    # What a config computes and holds is counted by building it.
    "core.forecast.operations": ("sweeps.cells.work",),
    "core.forecast.memory": ("sweeps.cells.gpu_memory",),
    # Whatever judges, decodes or writes a trained run opens its checkpoint.
    "core.running.asking": ("sweeps.evaluate",),
    "core.running.stored": ("sweeps.evaluate", "sweeps.decode", "sweeps.export_encoder"),
    "core.running.checkpoint": ("sweeps.engine.working", "sweeps.evaluate", "sweeps.decode", "sweeps.export_encoder"),
    "core.running.decoder": ("sweeps.decode",),
    "core.weights.writing": ("sweeps.export_encoder",),
    # What is stored and asked; a study's words; what a row says beside its baseline, a search and a run's curve, worked
    # out once for the terminal and the tables.
    "sweeps.cli": ("analysis",),
    "sweeps.console": ("analysis",),
    "sweeps.study": ("analysis",),
    "sweeps.database": ("analysis",),
    "sweeps.cells.edited": ("analysis",),
    "sweeps.answers": ("analysis",),
    "sweeps.progress": ("analysis",),
}
# The two commands that end in a function of a package above, which they call by name through `core.handing_over`.
HAND_OVERS = {"core.evaluate": "sweeps.evaluate", "sweeps.launch": "analysis.after_launch"}


def is_below(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def floor(module: str) -> tuple[int, str]:
    """On which floor of its package a module stands, and the name of its room; commands stand above all rooms."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    for number, rooms in enumerate(ROOMS[package]):
        if room in ((rooms,) if isinstance(rooms, str) else rooms):
            return number, room
    return len(ROOMS[package]), ""


def is_allowed(name: str, target: str) -> bool:
    """Whether module `name` may import our module `target`."""
    if name.partition(".")[0] != target.partition(".")[0]:
        return any(
            is_below(target, place) and any(is_below(name, asker) for asker in who) for place, who in OPEN.items()
        )
    (own_floor, own_room), (floor_below, room) = floor(name), floor(target)
    return floor_below < own_floor or room == own_room


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_what_the_architecture_allows(name: str) -> None:
    wrong = [
        f"{FILES[name].relative_to(ROOT)}:{line} imports {target}"
        for line, target in imports(name, whole_file=True)
        if own(target) and not is_allowed(name, target)
    ]
    assert not wrong


def test_the_allowed_imports_are_those_of_the_architecture() -> None:
    assert is_allowed("core.masks.random", "core.types") and is_allowed("core.running.trainer", "core.masks")
    assert not is_allowed("core.masks.random", "core.losses")
    assert not is_allowed("core.masks.random", "core.configuring.config")
    assert not is_allowed("core.running.trainer", "sweeps.database.tables")
    assert is_allowed("sweeps.engine.working", "core.running.trainer")
    assert not is_allowed("sweeps.launch", "core.running.trainer")
    assert is_allowed("sweeps.evaluate", "core.running.stored")
    assert not is_allowed("sweeps.answers.evaluations", "core.running.stored")
    assert not is_allowed("core.running.stored", "sweeps.evaluate")
    assert not is_allowed("sweeps.cells.expand", "core.masks")
    assert not is_allowed("sweeps.study.model", "sweeps.database.tables")
    assert is_allowed("sweeps.search.seeds", "sweeps.engine.queue")
    assert not is_allowed("sweeps.engine.queue", "sweeps.search.seeds")
    assert not is_allowed("sweeps.progress.live", "sweeps.status")
    assert is_allowed("analysis.report", "sweeps.cli")
    assert is_allowed("analysis.site.curves", "sweeps.database.series")
    assert not is_allowed("analysis.numbers.frame", "sweeps.engine.queue")
    assert is_allowed("analysis.report", "core.terminal")
    assert not is_allowed("analysis.numbers.frame", "core.types")


def test_only_two_commands_hand_over_to_a_package_above() -> None:
    assert {command: module for command, (module, _) in FUNCTIONS.items()} == HAND_OVERS
    users = {name for name in FILES if "core.handing_over" in (target for _, target in imports(name, whole_file=True))}
    assert users == set(HAND_OVERS)
    for user in users:
        assert [first for function, first in called(user) if function == "hand_over"] == [user]


def test_a_module_imported_by_name_is_of_the_same_package() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in FILES
        for function, target in called(name)
        if function == "import_module" and own(target) and target.partition(".")[0] != name.partition(".")[0]
    ]
    assert not wrong


def called(name: str) -> Iterator[tuple[str, str]]:
    """(function, first argument) of every call in a module whose first argument is a text written there."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            yield ast.unparse(node.func).rpartition(".")[2], str(node.args[0].value)


def test_every_folder_of_a_package_is_a_room() -> None:
    rooms = {
        package: {r for one in rooms for r in ([one] if isinstance(one, str) else one)}
        for package, rooms in ROOMS.items()
    }
    folders = {name.split(".")[1] for name in FILES if name.startswith("core.") and FILES[name].stem == "__init__"}
    assert folders - rooms["core"] == set()


@pytest.mark.parametrize("name", FILES)
def test_an_import_inside_a_function_gives_its_reason(name: str) -> None:
    """A comment on the line or the line above; without one, imports stand at the top."""
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    at_top = {line for line, _ in imports(name, whole_file=False)}
    bare = [
        f"{FILES[name].relative_to(ROOT)}:{line}"
        for line, _ in imports(name, whole_file=True)
        if line not in at_top and not _has_reason(lines, line)
    ]
    assert not bare


def _has_reason(lines: list[str], line: int) -> bool:
    """Whether this import, or the unbroken block of imports it ends, has a comment on or above it."""
    while line > 0:
        text = lines[line - 1].strip()
        if "#" in text:
            return True
        if not text.startswith(("import ", "from ")):
            return False
        line -= 1
    return False


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        name: {target for _, target in imports(name, whole_file=False) if target in FILES and target != name}
        for name in FILES
    }
    assert _cycle(graph) == []


def test_nothing_imports_the_front_door() -> None:
    users = {
        name
        for name in EVERY_FILE
        if not is_below(name, FRONT_DOOR)
        and any(is_below(target, FRONT_DOOR) for _, target in imports(name, whole_file=True))
    }
    assert users == set()


def test_no_benchmark_imports_itself_through_others_not_even_inside_a_function() -> None:
    found = files_of(BESIDE)
    graph = {
        name: {target for _, target in imports(name, whole_file=True) if target in found and target != name}
        for name in found
    }
    assert _cycle(graph) == []


def test_a_cycle_is_found() -> None:
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


# What `analysis` loads of `core`, by itself or through `sweeps`: what imports nothing that takes seconds.
LIGHT = {"core", "core.terminal", "core.process_list", "core.plugin_source"}


def test_analysis_loads_no_torch_through_what_it_imports() -> None:
    reached, pending = set(), [name for name in FILES if name.split(".")[0] == "analysis"]
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        # A module is loaded after the packages that hold it.
        found = [target for _, target in imports(name, whole_file=False)]
        found += [name.rpartition(".")[0]] if "." in name else []
        assert not {"torch", "timm", "hydra"} & {target.split(".")[0] for target in found}, name
        pending += [target for target in found if target in FILES]
    assert {name for name in reached if name.split(".")[0] == "core"} == LIGHT


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short_and_named_for_what_it_does(name: str) -> None:
    path = FILES[name]
    assert path.stem not in ("utils", "helpers", "common", "misc")
    lines = path.read_text(encoding="utf-8").splitlines()
    if name in LONGER:
        assert f"Longer than {MAX_LINES} lines: " in "\n".join(lines[:20]), f"{path.relative_to(ROOT)} does not say why"
        return
    assert len(lines) <= MAX_LINES, f"{path.relative_to(ROOT)} has {len(lines)} lines"


def test_few_files_are_longer() -> None:
    assert len(LONGER) <= 5
