"""Time the report on a large generated database, beside Optuna's own read of as many trials (and MLflow's of runs).

    python -m benchmarks.report [--runs 100000] [--points 100000000] [--studies 25] [--write]

Every run has a config as wide as a real one, four results, an attempt and two series of equal length. The report runs
in a process of its own, from a cold start of Python, so its memory is its own too. MLflow is in no lock: where it is
not installed here, `benchmarks.report_mlflow` measures it from an environment of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages._rdb import models
from sqlalchemy import Engine, create_engine, insert, text, update

from analysis.numbers.frame import load
from analysis.one_study import pictures, table_of
from analysis.site.pages import Content, Site, study_files
from analysis.tables import render
from benchmarks.lines import RESULTS, ROOT, arguments_of, show
from sweeps.database import series
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import Attempt, CellRow, Chunk, Config, Result, RunRow, StudyRow
from sweeps.study.reading import parse

OUTPUT = RESULTS / "report.txt"
TARGETS = {
    "the whole report": "at most 20 s; at most 1 GB",
    "one study's table as Markdown": "at most 1 s",
    "one study's page, its figure drawn": "at most 1 s",
    "the same of a study whose runs are not all done": "at most 1 s",
}
NUM_SEEDS, NUM_COLUMNS, NUM_CURVES, NUM_OPTIONS = 10, 2, 64, 90
METRICS = ("ridge/digit_top1", "knn/digit_top1", "collapse/rankme", "low_shot/digit_top1")
SERIES = ("loss", "grad_norm")
BATCH = 5_000


# ---- a large database ------------------------------------------------------------------------------------------------


def document(num_rows: int) -> dict[str, Any]:
    """A study of `num_rows` by two; ten of its rows are printed, as in a paper's table."""
    ratios = [round(0.001 * (row + 1), 3) for row in range(num_rows)]
    lengths = [
        {"key": f"l{i}", "label": f"length {i}", "set": {"optim.steps": 100 * (i + 1)}} for i in range(NUM_COLUMNS)
    ]
    return {
        "title": "A large study",
        "question": "How long does it take?",
        "source": {"paper": "none", "place": "nowhere"},
        "grid": {"mask.ratio": ratios, "length": lengths},
        "baseline": str(ratios[0]),
        "random_init": False,
        "seeds": list(range(NUM_SEEDS)),
        "metrics": list(METRICS[:2]),
        "figures": [{"name": "top1", "kind": "line", "x": "mask.ratio", "hue": "length"}],
        "printed": {
            "metric": "top-1",
            "source": "nowhere",
            "values": {str(r): {"l0": 50.0 + i} for i, r in enumerate(ratios[:10])},
        },
    }


def generate(engine: Engine, *, num_runs: int, num_points: int, num_studies: int) -> None:
    upgrade(engine)
    num_rows = num_runs // (num_studies * NUM_COLUMNS * NUM_SEEDS)
    rng = np.random.default_rng(0)
    curves = encoded_curves(rng, num_points // (num_runs * len(SERIES)))
    run_id = config_id = 0
    for study_id in range(1, num_studies + 1):
        study = parse(document(num_rows), Path(f"large{study_id}.yaml"))
        rows: dict[Any, list[dict[str, Any]]] = {
            table: [] for table in (Config, CellRow, RunRow, Attempt, Result, Chunk)
        }
        for cell in study.cells():
            config_id += 1
            config = {f"options.number{i}": i / 7 for i in range(NUM_OPTIONS)} | cell.overrides | {"study": study_id}
            rows[Config].append(
                {"id": config_id, "hash": sha256(b"%d" % config_id).hexdigest(), "hash_version": 1, "json": config}
            )
            display = {
                key: getattr(cell, key)
                for key in ("row_label", "col_label", "row_order", "col_order", "is_random_init")
            }
            key = {"study_id": study_id, "revision": 1, "row_key": cell.row_key, "col_key": cell.col_key}
            rows[CellRow].append({**key, "config_id": config_id, "display": display})
            for seed in range(NUM_SEEDS):
                run_id += 1
                run = {
                    "id": run_id,
                    "config_id": config_id,
                    "seed": seed,
                    "code_epoch": 1,
                    "state": "done",
                    "attempt": 1,
                }
                rows[RunRow].append({**run, "cpu_seconds": 60.0, "created": 0.0})
                ended = {"started": 0.0, "ended": 60.0, "outcome": "done", "git_sha": "a" * 40, "dirty": False}
                rows[Attempt].append({"run_id": run_id, "n": 1, "resume_step": 1, "facts": {"device": "cpu"}, **ended})
                values = rng.normal(60, 2, len(METRICS))
                rows[Result] += [
                    {"run_id": run_id, "metric": metric, "agg": "final", "value": float(value), "attempt": 1}
                    for metric, value in zip(METRICS, values, strict=True)
                ]
                rows[Chunk] += [
                    {"run_id": run_id, "metric": m, **curves[(run_id + i) % NUM_CURVES]} for i, m in enumerate(SERIES)
                ]
        with engine.begin() as connection:
            connection.execute(
                insert(StudyRow),
                [
                    {
                        "id": study_id,
                        "name": study.name,
                        "spec": {**study.spec, "scale": "cpu"},
                        "spec_hash": "0" * 64,
                        "revision": 1,
                    }
                ],
            )
            for table, found in rows.items():
                for first in range(0, len(found), BATCH):
                    connection.execute(insert(table), found[first : first + BATCH])


def encoded_curves(rng: np.random.Generator, length: int) -> list[dict[str, Any]]:
    """Losses as a trainer logs them, packed once: runs share them, which changes nothing for who reads them."""
    steps = np.arange(1, length + 1)
    found = []
    for _ in range(NUM_CURVES):
        loss = (0.5 + 2 * np.exp(-steps / length) + 0.02 * rng.normal(size=length)).astype(np.float32)
        row = series.chunk_row(0, 1, 0, "", steps.tolist(), loss.astype(float).tolist())
        found.append({key: value for key, value in row.items() if key not in ("run_id", "metric")})
    return found


# ---- ours ------------------------------------------------------------------------------------------------------------


def report(url: str, folder: Path) -> Iterator[str]:
    """The command for everything, in its own process, where nothing is remembered and then where all is.

    Then one study's table, and all the files of its page, in this one; last when one of its runs waits, so that its
    page says what is left and what that costs.
    """
    yield f"the whole report   {whole(url, folder)}"
    yield f"the same again, its figures remembered   {whole(url, folder)}"
    engine = open_database(url)

    def table() -> None:
        render.markdown(table_of(load(engine, "large1")))

    def page() -> None:
        frame = load(engine, "large1")
        images = {str(figure["name"]): pictures(frame, figure) for figure in frame.study.figures}
        study_files(Site(engine), Content(frame, table_of(frame), images))

    yield f"one study's table as Markdown   {best(table)}"
    yield f"one study's page, its figure drawn   {best(page)}"
    with engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == 1).values(state="queued"))
    yield f"the same of a study whose runs are not all done   {best(page)}"
    engine.dispose()


def whole(url: str, folder: Path) -> str:
    """A folder of its own to start in: what is remembered of other reports is not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "analysis.report", f"db={url}", f"results_dir={folder}"],
        cwd=folder.parent, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    peaks: dict[int, int] = {}
    while process.poll() is None:
        peaks |= dict(_peaks(process.pid))
        time.sleep(0.1)
    wall = time.perf_counter() - start
    said = process.communicate()[0]
    assert process.returncode == 0, said
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return (
        f"{wall:.1f} s ({cpu:.1f} s of CPU); {sum(peaks.values()) / 1e9:.2f} GB at most in all its processes; "
        f"{said.split(' under ')[0]}, {size / 1e6:.0f} MB"
    )


def _peaks(pid: int) -> Iterator[tuple[int, int]]:
    """The most bytes that a process had in memory so far, and all that it has started."""
    with contextlib.suppress(OSError):  # it has ended meanwhile
        told = Path(f"/proc/{pid}/status").read_text()
        if peak := re.search(r"VmHWM:\s+(\d+) kB", told):
            yield pid, 1024 * int(peak[1])
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _peaks(int(child))


def best(action: Callable[[], Any], rounds: int = 3) -> str:
    times = []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.process_time()
        action()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    return f"{min(wall for wall, _ in times):.2f} s ({min(cpu for _, cpu in times):.2f} s of CPU)"


# ---- beside others ---------------------------------------------------------------------------------------------------


def beside_optuna(folder: Path, num_runs: int) -> Iterator[str]:
    """As many finished trials with one value, two parameters and no series; its tables are filled directly."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{folder / 'optuna.sqlite'}"
    study = optuna.create_study(storage=url, study_name="large")
    template = optuna.trial.create_trial(
        params={"a": 0.5, "b": 1.0},
        distributions={name: optuna.distributions.FloatDistribution(0, 1) for name in "ab"},
        value=1.0,
    )
    study.add_trial(template)
    engine = create_engine(url)
    now = datetime(2026, 1, 1)
    with engine.begin() as connection:
        kept = connection.execute(
            text("select param_name, distribution_json from trial_params order by param_name")
        ).all()
        for first in range(1, num_runs, BATCH):
            ids = range(first + 1, min(first + BATCH, num_runs) + 1)
            trials = {
                "study_id": 1,
                "state": optuna.trial.TrialState.COMPLETE,
                "datetime_start": now,
                "datetime_complete": now,
            }
            connection.execute(insert(models.TrialModel), [{"trial_id": i, "number": i - 1, **trials} for i in ids])
            value = {"objective": 0, "value": 1.0, "value_type": models.TrialValueModel.TrialValueType.FINITE}
            connection.execute(insert(models.TrialValueModel), [{"trial_id": i, **value} for i in ids])
            connection.execute(
                insert(models.TrialParamModel),
                [
                    {"trial_id": i, "param_name": name, "param_value": 0.5, "distribution_json": spec}
                    for i in ids
                    for name, spec in kept
                ],
            )
    engine.dispose()

    def read() -> None:
        assert len(optuna.load_study(storage=url, study_name="large").trials_dataframe()) == num_runs

    yield f"Optuna's load_study().trials_dataframe() of {num_runs:,} trials without series   {best(read, rounds=1)}"


def beside_mlflow(folder: Path, num_runs: int) -> Iterator[str]:
    """As many finished runs with one metric, two parameters and no series."""
    if importlib.util.find_spec("mlflow") is None:
        yield "MLflow is not installed: left out (uv pip install 'mlflow>=3', the dependency group bench)"
        return
    from benchmarks import report_mlflow  # optional: it imports MLflow

    yield from report_mlflow.measure(folder, num_runs)


# ---- all of it -------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=100_000_000)
    parser.add_argument("--studies", type=int, default=25)
    options = parser.parse_args()

    def parts(folder: Path) -> Iterator[str]:
        engine = open_database(url := f"sqlite:///{folder / 'large.sqlite'}")
        start = time.perf_counter()
        generate(engine, num_runs=options.runs, num_points=options.points, num_studies=options.studies)
        engine.dispose()
        size = (folder / "large.sqlite").stat().st_size
        yield (
            f"database: {options.runs:,} runs in {options.studies} studies, {options.points:,} points of series, "
            f"{size / 1e9:.2f} GB, generated in {time.perf_counter() - start:.0f} s"
        )
        yield from report(url, folder / "results")
        yield from beside_optuna(folder, options.runs)
        yield from beside_mlflow(folder, options.runs)

    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        output = OUTPUT if options.write else None
        show(parts(folder), output, benchmark=__file__, software=("optuna",), targets=TARGETS)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
