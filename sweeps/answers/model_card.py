"""A model card made of what the database knows of a run: Markdown, every string escaped."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from scipy import stats
from sqlalchemy import Connection, select

from sweeps.answers.run_page import PACKAGES, Place, read_places, shown
from sweeps.database.tables import Attempt, Config, Environment, Result, RunRow


class Known(NamedTuple):
    """What a card says of a run."""

    run: Any  # the row of sw_run
    config: dict[str, Any]
    config_hash: str
    places: Sequence[Place]
    results: Mapping[str, float | None]
    over_seeds: Mapping[str, list[float]]  # of all done runs of this config, this one among them
    attempt: Any  # the last, or None
    packages: Mapping[str, str]


def read_known(connection: Connection, run_id: int) -> Known:
    run = connection.execute(select(RunRow).where(RunRow.id == run_id)).one()
    config = connection.execute(select(Config.json, Config.hash).where(Config.id == run.config_id)).one()
    same = select(RunRow.id).where(
        RunRow.config_id == run.config_id, RunRow.code_epoch == run.code_epoch, RunRow.state == "done"
    )
    results: dict[str, float | None] = {}
    over_seeds: dict[str, list[float]] = {}
    query = select(Result).where(Result.run_id.in_(same), Result.agg == "final").order_by(Result.metric, Result.run_id)
    for row in connection.execute(query):
        if row.run_id == run_id:
            results[row.metric] = row.value
        if row.value is not None:
            over_seeds.setdefault(row.metric, []).append(row.value)
    attempts = select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.n.desc()).limit(1)
    attempt = connection.execute(attempts).one_or_none()
    wanted = None if attempt is None else attempt.env_hash
    packages = connection.scalar(select(Environment.packages).where(Environment.hash == wanted)) or {}
    places = read_places(connection, run.config_id)
    return Known(run, dict(config.json), config.hash, places, results, over_seeds, attempt, packages)


def model_card(known: Known, *, num_parameters: int, step: int, is_timms: bool) -> str:
    """The card of an exported encoder. `step` is of the checkpoint that it was read from."""
    parts = [
        front_matter(known.config),
        f"# An encoder trained with {text(method_of(known.config))}",
        f"A vision transformer of {num_parameters:,} parameters after {step:,} training steps, seed {known.run.seed}, "
        "written by `python -m sweeps.export_encoder`.",
        f"## Use\n\n{usage(is_timms)}",
        f"## Results\n\n{results(known)}",
        f"## Data\n\n{data(known.config)}",
        f"## Where it comes from\n\n{origin(known)}",
        f"## Licence\n\n{licence(known.config)}",
        "## All options\n\n" + table(("option", "value"), [(k, shown(v)) for k, v in sorted(known.config.items())]),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(config: Mapping[str, Any]) -> str:
    """The block that model hubs read. No licence: it follows from data that only the user knows."""
    tags = ["self-supervised", "vision-transformer", str(config.get("objective"))]
    return "---\n" + yaml.safe_dump({"library_name": "timm", "tags": tags}, sort_keys=True) + "---"


def method_of(config: Mapping[str, Any]) -> str:
    """`masked: mask=multiblock target=ema predictor=narrow loss=smooth_l1`."""
    parts = [f"{name}={config[name]}" for name in ("mask", "target", "predictor", "loss") if config.get(name)]
    return " ".join([f"objective={config.get('objective')}", *parts])


def usage(is_timms: bool) -> str:
    ours = (
        "Here: `weights=file weights.path=path/to/this/folder/model.safetensors` with the `encoder.*` options listed"
        " below."
    )
    if not is_timms:
        return f"{ours} timm has no encoder like this one (of clips, or without an embedding of positions)."
    return (
        "```python\nimport timm\n\n"
        'model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()\n'
        f"patches = model.forward_features(images)  # [B, N, D]\n```\n\n{ours}"
    )


def results(known: Known) -> str:
    """Each metric of this run, and its mean over the seeds of the same configuration with a 95 % t-interval."""
    rows = []
    for metric, value in sorted(known.results.items()):
        if not metric.startswith("cost/"):
            rows.append((metric, number(value), interval(known.over_seeds.get(metric, []))))
    return table(("metric", "this run", "all seeds, 95 % interval"), rows) if rows else "None is recorded."


def interval(values: Sequence[float]) -> str:
    n = len(values)
    if n < 2:
        return "one seed: none"
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return f"{number(mean)} ± {number(half)} ({n} seeds)"


def number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def data(config: Mapping[str, Any]) -> str:
    rows = [(key, shown(value)) for key, value in sorted(config.items()) if key.split(".")[0] in ("data", "eval_data")]
    return table(("option", "value"), rows)


def origin(known: Known) -> str:
    run, attempt = known.run, known.attempt
    rows = [("run", str(run.id)), ("config", known.config_hash)]
    rows += [("study", f"{place.study}: {place.label}") for place in known.places]
    rows.append(("cost", f"{run.cpu_seconds / 3600:.3g} CPU-hours, {run.gpu_seconds / 3600:.3g} GPU-hours"))
    if attempt is not None:
        changed = {True: " with local changes", False: "", None: ""}[attempt.dirty]
        rows.append(("code", f"git {attempt.git_sha or 'unknown'}{changed}"))
        rows.append(("device", attempt.device or "unknown"))
    rows += [(name, known.packages[name]) for name in PACKAGES if name in known.packages]
    return table(("", ""), rows)


def licence(config: Mapping[str, Any]) -> str:
    said = "Not stated here. It follows from the licence of the data, which is yours to look up and to state."
    if config.get("weights") is None:
        return said
    return (
        f"{said} This encoder started from other weights ({text(str(config.get('weights.path')))}, sha256 "
        f"{text(str(config.get('weights.sha256')))}): their licence goes with it. Released JEPA and MAE weights are "
        "for non-commercial use."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([text(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(value: str) -> str:
    """`value` as plain text on one line of Markdown: no markup, no HTML, no end of a table's cell."""
    escaped = html.escape(" ".join(value.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#|~!])", r"\\\1", escaped)
