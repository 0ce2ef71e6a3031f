"""What `--help` of the benchmarks and of other measuring commands says can be typed."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from benchmarks.lines import ROOT

WITH_OPTIONS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "(__doc__, OUTPUT" in (text := path.read_text(encoding="utf-8")) or "parser_of(__doc__" in text
)


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_the_usage_of_a_benchmark_is_the_command_that_runs_it(name, monkeypatch, capsys):
    if name == "report_mlflow" and importlib.util.find_spec("mlflow") is None:
        pytest.skip("MLflow is in no lock")
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    run = getattr(module, "main", None) or (lambda: module.measure(module.__doc__, module.OUTPUT, ["stacked"]))
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks.{name} ")
