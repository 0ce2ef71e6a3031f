"""MLflow's side of `benchmarks.report`: its own read of as many finished runs.

    python -m benchmarks.report_mlflow [--runs 100000] [--write]

It needs MLflow alone (the dependency group bench), so that it can be run from an environment of its own where the
project's has none: `uv venv other && uv pip install --python other 'mlflow>=3'`, then `other/bin/python -m ...` with
`MLFLOW_DISABLE_TELEMETRY=true`: on its own MLflow tells its makers that it is used.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

try:
    import mlflow
except ModuleNotFoundError:
    raise SystemExit("MLflow is not installed: uv pip install 'mlflow>=3', or see the top of this file") from None
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, RunStatus, SourceType
from mlflow.store.tracking.dbmodels import models
from sqlalchemy import create_engine, insert

from benchmarks.lines import RESULTS, arguments_of, show

OUTPUT = RESULTS / "report_mlflow.txt"
BATCH = 5_000
NOW_MS = 1_767_225_600_000


def measure(folder: Path, num_runs: int) -> Iterator[str]:
    """On a SQLite file, MLflow's own default. Its tables are filled directly: its client would take hours.

    A run has what Optuna's trials have in `benchmarks.report`: two parameters and one value, no series.
    """
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    url = f"sqlite:///{folder / 'mlflow.sqlite'}"
    experiment = MlflowClient(tracking_uri=url).create_experiment("large", artifact_location=str(folder / "artifacts"))
    fill(url, int(experiment), num_runs)
    mlflow.set_tracking_uri(url)
    start, cpu = time.perf_counter(), time.process_time()
    found = mlflow.search_runs([experiment], max_results=num_runs)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert len(found) == num_runs
    assert found["metrics.top1"].tolist() == [1.0] * num_runs and found["params.b"].notna().all()
    yield (
        f"MLflow {metadata.version('mlflow')}'s search_runs() of {num_runs:,} runs without series   "
        f"{wall:.2f} s ({cpu:.2f} s of CPU)"
    )


def fill(url: str, experiment: int, num_runs: int) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for first in range(0, num_runs, BATCH):
            ids = [f"{number:032x}" for number in range(first, min(first + BATCH, num_runs))]
            shared = {
                "experiment_id": experiment,
                "name": "run",
                "user_id": "benchmark",
                "source_type": SourceType.to_string(SourceType.LOCAL),
                "status": RunStatus.to_string(RunStatus.FINISHED),
                "lifecycle_stage": LifecycleStage.ACTIVE,
                "start_time": NOW_MS,
                "end_time": NOW_MS,
            }
            connection.execute(insert(models.SqlRun), [{"run_uuid": i, "artifact_uri": i, **shared} for i in ids])
            params = [{"run_uuid": i, "key": key, "value": "0.5"} for i in ids for key in "ab"]
            connection.execute(insert(models.SqlParam), params)
            value = {"key": "top1", "value": 1.0, "timestamp": NOW_MS, "step": 1, "is_nan": False}
            connection.execute(insert(models.SqlMetric), [{"run_uuid": i, **value} for i in ids])
            connection.execute(insert(models.SqlLatestMetric), [{"run_uuid": i, **value} for i in ids])
    engine.dispose()


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--runs", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        found, output = measure(Path(folder), options.runs), OUTPUT if options.write else None
        show(found, output, benchmark=__file__, software=("mlflow",))


if __name__ == "__main__":
    main()
