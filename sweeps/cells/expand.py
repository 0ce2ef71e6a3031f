"""A study at a scale, every cell resolved to its config: where a bad study dies, before anything is written.

Imports core (and so torch, 3 s): commands that only read the database do without.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.cells import untrained
from sweeps.cells.mistakes import Mistakes
from sweeps.cells.request import Request
from sweeps.console.errors import UserError, close_matches
from sweeps.study import fair_rows, leave_out
from sweeps.study.identity import CODE_EPOCH, digest
from sweeps.study.model import DEFAULT_SCALE, Cell, Study
from sweeps.study.overrides import format_override
from sweeps.study.search_space import SearchSpec
from sweeps.study.shown import wrong_comparisons, wrong_figures

LABEL = "{label}"  # in a metric: the data set's first label name
_LISTED = 12  # metrics of one kind that a message lists
LABELS = "{labels}"  # in a study's metrics: one metric for each label name


@dataclass(frozen=True)
class Expansion:
    """A request, resolved: one identity config a cell, in the table's order."""

    request: Request
    spec: dict[str, Any]
    metrics: list[str]
    cells: list[tuple[Cell, dict[str, Any]]]
    runs: Sequence[Any] = ()  # `core.configuring.config.Run` of each cell, with this machine's `runtime`

    def data(self) -> list[dict[str, str]]:
        """What each cell's run would see: fingerprints by group. Raises UserError when files cannot be found."""
        # As below: core imports torch.
        from core.configuring.config import ConfigError, fingerprints

        known: dict[str, str | None] = {}
        try:
            return [fingerprints(run, known) for run in self.runs]
        except ConfigError as error:
            raise UserError(f"{self.request.study.path}: {error}") from None


def fingerprint() -> str:
    """Of everything that decides how a study resolves besides its file: core's code and presets, the code epoch."""
    spec = importlib.util.find_spec("core")
    assert spec is not None and spec.submodule_search_locations
    digest = hashlib.sha256(str(CODE_EPOCH).encode())
    for folder in map(Path, spec.submodule_search_locations):
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".yaml")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def expand(request: Request) -> Expansion:
    """Every cell through `core.configuring.config.load`, and every metric checked against what its runs will record.

    Raises UserError naming the study's file, the cell and what core says is wrong with it.
    """
    # core.configuring.config imports torch, 3 s that a finished study's relaunch and every reading command go without.
    from core.configuring.config import (  # fmt: skip
        ConfigError,
        flatten,
        identity,
        is_left_to_others,
        is_recorded_later,
        judged,
        load,
        metric_names,
        spec_of,
    )

    study, where = request.study, request.study.path
    asked = study.cells(request.scale)
    typed = [word.partition("=")[0] for word in (*request.overrides, *request.runtime)]
    wrong = Mistakes(where, asked, [*typed, "seeds="])
    for message in wrong_overrides(request):
        wrong.add(message)
    cells: list[tuple[Cell, dict[str, Any]]] = []
    runs = []
    search = study.search(request.scale)
    labels: list[str] | None = None
    whole: dict[str, dict[str, Any]] = {}  # of a study that leaves out: the row of everything, by column
    for cell in asked:
        try:
            run = load(words(cell.overrides, request))
            names = metric_names(run)
            if labels is None:
                labels = list(spec_of(judged(run)).classes)
                shown = wanted_metrics(study, request.scale, labels)
        except ConfigError as error:
            wrong.add(error, cell)
            continue
        flat = flatten(run)
        if search is not None:
            wrong.add("\n".join(wrong_space(search, flat)))
        # A figure may show what only other scales are judged by; here its panel is empty.
        drawn = [name for name in figure_metrics(study, first(labels)) if not is_left_to_others(name, run.evals)]
        unknown = [m for m in dict.fromkeys([*shown, *drawn]) if m not in names and not is_recorded_later(m)]
        if unknown:
            listed = ", ".join(f"{metric!r}{close_matches(metric, names)}" for metric in unknown)
            ways = sorted({f"; {way_to_get(m, request.instance)}" for m in unknown if is_left_to_others(m, run.evals)})
            wrong.add(
                f"unknown metric{'s' if len(unknown) > 1 else ''} {listed}; "
                f"evals [{', '.join(sorted(run.evals))}] give: {', '.join(by_kind(names, unknown))}" + "".join(ways),
                cell,
            )
        if cell.row_key == leave_out.ALL:
            whole[cell.col_key] = flat
        if "leave_out" in study.spec and not cell.is_random_init and cell.col_key in whole:
            wrong.add(idle_row(request, cell, flat, whole[cell.col_key]))
        cells.append((cell, identity(flat)))
        runs.append(run)
    configs = [config for _, config in cells] if len(cells) == len(asked) else []
    figures = fill(study.spec.get("figures", []), first(labels or []))
    wrong.add("\n".join(wrong_figures(study, figures, configs, request.scale)))
    if labels is not None:
        # Other scales may well have other data, with other labels.
        is_other = any(word.startswith(("data", "eval_data")) for word in request.overrides)
        is_own_data = request.scale == DEFAULT_SCALE and not is_other
        wrong.add("\n".join(wrong_comparisons(study, labels, is_own_data=is_own_data)))
    if configs and search is None:
        wrong.add("\n".join(fair_rows.wrong(study, request.scale, cells)))
    wrong.settle()
    assert labels is not None
    looked_at = [*shown, *figure_metrics(study, first(labels))]
    cells, runs = with_shared_inits(cells, runs, looked_at)
    spec = spec_with(request, labels)
    return Expansion(request, spec, spec["metrics"], cells, runs)


def spec_with(request: Request, labels: Sequence[str]) -> dict[str, Any]:
    """`request.spec()` with the data's labels filled in: what the database keeps."""
    study, label = request.study, first(labels)
    spec = request.spec() | {"metrics": resolve(study.metrics(request.scale), labels, study.path)}
    spec["scales"].get(request.scale, {}).pop("metrics", None)
    spec["figures"] = fill(study.spec.get("figures", []), label)
    if "compare" in spec.get("printed", {}):
        spec["printed"]["compare"] = fill(spec["printed"]["compare"], label)
    if (search := study.search(request.scale)) is not None:
        metric = search.metric.replace(LABEL, label) or spec["metrics"][0]
        spec["search"] = fill(spec["search"], label) | {"metric": metric}
    return spec


def expand_checked(request: Request, *, needs_files: bool = True) -> Expansion:
    """`expand`, and what the cells' evaluations need of the labels of data that is here, said once for all cells.

    With `needs_files` also that it is here: for some sets `expand` does without.

    Only of data whose files' names or arrays tell its labels: nothing is decoded. Raises UserError.
    """
    from core.configuring.config import ConfigError, check_here, check_known_labels  # as above: core imports torch

    expansion = expand(request)
    wrong, known = Mistakes(request.study.path, [cell for cell, _ in expansion.cells]), dict[str, Any]()
    for (cell, _), run in zip(expansion.cells, expansion.runs, strict=True):
        try:
            if needs_files:
                check_here(run)
            check_known_labels(run, known)
        except ConfigError as error:
            wrong.add(error, cell)
    wrong.settle()
    return expansion


def by_kind(names: Iterable[str], asked: Iterable[str] = ()) -> list[str]:
    """The names in order; of a kind that has many, and that none of `asked` is of, their number."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kinds.setdefault(name.partition("/")[0], []).append(name)
    wanted = {name.partition("/")[0] for name in asked}
    return [
        shown
        for kind, listed in kinds.items()
        for shown in (listed if len(listed) <= _LISTED or kind in wanted else [f"{kind}/... ({len(listed)} metrics)"])
    ]


def way_to_get(metric: str, study: str) -> str:
    """How `study` comes to `metric` of an evaluation that its runs are not judged by."""
    kind, _, rest = metric.partition("/")
    return (
        f"add {kind} to evals (runs whose checkpoints are here are judged anew, not trained), or keep the runs as they "
        f"are, name it {kind}@later/{rest} and make it: "
        f"python -m core.evaluate study={shlex.quote(study)} evals=[{kind}] as=later"
    )


def with_shared_inits(
    cells: Sequence[tuple[Cell, dict[str, Any]]], runs: Sequence[Any], metrics: Sequence[str]
) -> tuple[list[tuple[Cell, dict[str, Any]]], list[Any]]:
    """The cells and their runs with each random initialisation as any baseline would have it.

    Where the study has a row of no steps that is the same experiment, that row's. `metrics` are what is looked at.
    """
    from core.configuring.config import from_flat  # as above: core imports torch

    own = {
        name: (config, run)
        for (cell, config), run in zip(cells, runs, strict=True)
        if untrained.is_judged(config) and not cell.is_random_init
        for name in untrained.forms(config)
    }
    found, found_runs = [], []
    for (cell, config), run in zip(cells, runs, strict=True):
        if cell.is_random_init and untrained.is_judged(config):
            config = untrained.form(config, metrics)
            if (row := own.get(digest(config))) is not None:
                config, run = row
            else:
                made = from_flat(config, seed=run.seed, runtime=vars(run.runtime))
                run = dataclasses.replace(made, method=run.method, scale=run.scale)
        found.append((cell, config))
        found_runs.append(run)
    return found, found_runs


def wanted_metrics(study: Study, scale: str, labels: Sequence[str]) -> list[str]:
    """What the table shows and a search looks at."""
    search = study.search(scale)
    return resolve([*study.metrics(scale), *([search.metric] if search and search.metric else [])], labels, study.path)


def wrong_overrides(request: Request) -> Iterator[str]:
    """What is said of an override of what the study's own rows or columns vary, and of what is not a cell's."""
    levels = (*request.study.rows, *request.study.columns)
    varied = {key for level in levels for key in level.overrides(request.scale)}
    search = request.study.search(request.scale)
    if search is not None and len(request.seeds) > 1:
        yield (
            f"seeds={list(request.seeds)}: a search counts its seeds from one, search.seeds of them a trial; "
            "give seeds=[0]"
        )
    for word in request.overrides:
        key = word.partition("=")[0]
        if key == "seed":
            yield f"{word}: a study runs several seeds; give seeds=[0,1,2]"
        if key in varied:
            yield f"{word}: {request.study.path} varies {key} from row to row; edit the file to change it"
        if search is not None and key in search.space:
            yield f"{word}: {request.study.path} searches {key}; edit its search.space to fix it"


def idle_row(request: Request, cell: Cell, config: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """What is wrong with a row that leaves out what is not there; `whole` is the config of the row of everything."""
    own = next(row for row in request.study.rows if row.key == cell.row_key).overrides(request.scale)
    if not (same := leave_out.idle(own, config, whole)):
        return ""
    name = cell.row_key.removeprefix(leave_out.PREFIX)
    values = ", ".join(format_override(key, config.get(key, own[key])) for key in same)
    at = f"at scale {request.scale}"
    return f"leave_out.{name}: {values} is what the row of everything has {at}: this leaves nothing out"


def wrong_space(search: SearchSpec, flat: Mapping[str, Any]) -> Iterator[str]:
    """Searched options that do not exist beside the others' choices, or are of another type."""
    for key, distribution in search.space.items():
        if key not in flat:
            yield f"search.space.{key}: the study's runs have no such option{close_matches(key, flat)}"
        elif type(flat[key]) is int and distribution.kind == "float":
            yield f"search.space.{key}: the option is a whole number: use int: instead of float:"


def words(overrides: Mapping[str, Any], request: Request) -> list[str]:
    """The overrides of a cell under those of the command line, as `core.configuring.config.load` takes them."""
    texts = {key: format_override(key, value).partition("=")[2] for key, value in overrides.items()}
    given = {key: value for key, _, value in (word.partition("=") for word in request.overrides)}
    if texts.get("optim.steps") == "0":  # the free row stays untrained, however long the others train
        given.pop("optim.steps", None)
    # data=image_folder on the command line leaves behind what the file says of its own data set.
    other = [group for group, choice in given.items() if "." not in group and texts.get(group) != choice]
    texts = {key: value for key, value in texts.items() if key.split(".")[0] not in other or key.startswith("evals.")}
    merged = [f"{key}={value}" for key, value in (texts | given).items()]
    plugins = [f"plugins=[{','.join(request.plugins)}]"] if request.plugins else []
    return [f"scale={request.scale}", *merged, *request.runtime, *plugins]


def resolve(metrics: Sequence[str], labels: Sequence[str], where: Path) -> list[str]:
    """The metrics with the data's label names: `{label}` its first, `{labels}` one metric for each of them."""
    if not labels and any(LABEL in metric or LABELS in metric for metric in metrics):
        raise UserError(f"{where}: metrics {', '.join(metrics)} need labels, and the data has none")
    named = [metric.replace(LABELS, label) for metric in metrics for label in (labels if LABELS in metric else [""])]
    return [metric.replace(LABEL, first(labels)) for metric in named]


def first(labels: Sequence[str]) -> str:
    return labels[0] if labels else ""


def fill(value: Any, label: str) -> Any:
    """`value` with the label's name in every text of it."""
    if isinstance(value, str):
        return value.replace(LABEL, label)
    if isinstance(value, list):
        return [fill(item, label) for item in value]
    return {key: fill(item, label) for key, item in value.items()} if isinstance(value, dict) else value


def figure_metrics(study: Study, label: str) -> list[str]:
    """Metrics that the figures show; a name with "/" is one, any other is an axis or an option."""
    parts = [part for figure in study.figures for part in (figure, *figure.get("panels", []))]
    named = [str(part[key]) for part in parts for key in ("metric", "x", "y") if key in part]
    return [name.replace(LABEL, label) for name in named if "/" in name]
