"""Who may import whom (architecture), read from the source without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "sweeps", "analysis")
# Folders of components: each knows core.types and itself, never another kind and never the config.
COMPONENTS = ("masks", "targets", "losses", "models", "data", "evals", "objectives")
MAX_LINES = 500


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def targets(name: str, node: ast.stmt) -> Iterator[str]:
    """The modules an import statement loads; `from core import types` loads core.types."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        if node.level:
            package = name.split(".") if FILES[name].stem == "__init__" else name.split(".")[:-1]
            base = package[: len(package) - node.level + 1]
            source = ".".join([*base, *([node.module] if node.module else [])])
        submodules = [f"{source}.{alias.name}" for alias in node.names if f"{source}.{alias.name}" in FILES]
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
    return module.split(".")[0] in (*PACKAGES, "tests", "benchmarks", "studies")


def is_allowed(name: str, target: str) -> bool:
    """Whether module `name` may import our module `target`."""
    package, kind = name.split(".")[0], target.split(".")[0]
    if package == "core":
        folder = name.split(".")[1] if "." in name else ""
        if folder in COMPONENTS:
            return target == "core.types" or target == f"core.{folder}" or target.startswith(f"core.{folder}.")
        return kind == "core"
    if package == "sweeps":
        # The worker runs the trainer and gives it the recorder that core.types declares.
        is_worker = (name, target) in (
            *(("sweeps.worker", trained) for trained in ("core.trainer", "core.stacked", "core.types")),
            ("sweeps.stacks", "core.stacking"),
        )
        # What a config computes is counted by building it.
        is_worker |= (name, target) in (("sweeps.work", "core.operations"), ("sweeps.room", "core.room"))
        # So does whatever evaluates a trained run: it opens its checkpoint and asks core to judge it.
        is_judge = name == "sweeps.evaluate" and target in ("core.stored", "core.checkpoint")
        # And whatever decodes its representations.
        is_judge |= name == "sweeps.decode" and target in ("core.stored", "core.checkpoint", "core.decoder")
        # And whatever writes a trained run's encoder to a file.
        is_writer = name == "sweeps.export_encoder" and target in (
            "core.stored", "core.checkpoint", "core.weights.writing",
        )  # fmt: skip
        return kind == "sweeps" or target == "core.config" or is_worker or is_judge or is_writer
    return kind == "analysis" or target in (
        "sweeps.study", "sweeps.db", "sweeps.cli", "sweeps.series", "sweeps.seen_data",
        "sweeps.offered", "sweeps.collapse", "sweeps.edited", "sweeps.terminal", "sweeps.comparisons",
        "sweeps.fair_rows",
        "sweeps.verdicts",
        # What a search and a run's curve say is worked out once, for the terminal and the tables.
        "sweeps.search_space", "sweeps.search_rounds", "sweeps.plateau",
    )  # fmt: skip


# sweeps.launch writes the report when it is done: the one arrow from sweeps to analysis (issue 2).
REPORT_AFTER_LAUNCH = ("sweeps.launch", "analysis.report")
# python -m core.evaluate run=12 hands over to the package that knows what 12 is: the one arrow from core to sweeps,
# only taken when run= or study= is given (issue 5).
EVALUATE_BY_ID = ("core.evaluate", "sweeps.evaluate")
EXCEPTIONS = (REPORT_AFTER_LAUNCH, EVALUATE_BY_ID)


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_what_the_architecture_allows(name: str) -> None:
    wrong = [
        f"{FILES[name].relative_to(ROOT)}:{line} imports {target}"
        for line, target in imports(name, whole_file=True)
        if own(target) and not is_allowed(name, target) and (name, target) not in EXCEPTIONS
    ]
    assert not wrong


def test_the_allowed_imports_are_those_of_the_architecture() -> None:
    assert is_allowed("core.masks.random", "core.types") and is_allowed("core.trainer", "core.masks")
    assert not is_allowed("core.masks.random", "core.losses")
    assert not is_allowed("core.masks.random", "core.config")
    assert not is_allowed("core.trainer", "sweeps.db")
    assert is_allowed("sweeps.worker", "core.trainer") and not is_allowed("sweeps.launch", "core.trainer")
    assert is_allowed("sweeps.evaluate", "core.stored") and not is_allowed("sweeps.evaluations", "core.stored")
    assert not is_allowed("core.stored", "sweeps.evaluate")
    assert not is_allowed("sweeps.expand", "core.masks")
    assert is_allowed("analysis.report", "sweeps.cli")
    assert is_allowed("analysis.site.curves", "sweeps.series")
    assert is_allowed("analysis.frame", "sweeps.db") and not is_allowed("analysis.frame", "sweeps.queue")
    assert not is_allowed("analysis.frame", "core.types")


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


def test_analysis_loads_no_torch_through_what_it_imports() -> None:
    reached, pending = set(), [name for name in FILES if name.split(".")[0] == "analysis"]
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        found = [target for _, target in imports(name, whole_file=False)]
        assert not {"torch", "timm", "hydra"} & {target.split(".")[0] for target in found}, name
        pending += [target for target in found if target in FILES]
    assert not [name for name in reached if name.split(".")[0] == "core"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short_and_named_for_what_it_does(name: str) -> None:
    path = FILES[name]
    assert path.stem not in ("utils", "helpers", "common", "misc")
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {num_lines} lines"
