"""MLflow beside the report: read where it is installed, and said to be missing where it is not."""

import importlib.util

import pytest

from benchmarks import report

HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None


@pytest.mark.skipif(HAS_MLFLOW, reason="MLflow is installed")
def test_without_mlflow_the_benchmark_says_how_to_add_it(tmp_path):
    (line,) = report.beside_mlflow(tmp_path, 10)
    assert line.startswith("MLflow is not installed") and "uv pip install 'mlflow>=3'" in line


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MLFLOW, reason="MLflow is in no lock: the dependency group bench")
def test_mlflows_own_read_finds_the_runs_that_were_put_into_its_tables(tmp_path):
    (line,) = report.beside_mlflow(tmp_path, 25)
    assert "search_runs() of 25 runs" in line
