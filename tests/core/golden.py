"""Rewrite golden.json: ``python -m tests.core.golden``. Say in the commit why the losses moved."""

import json
import tempfile
from pathlib import Path

from tests.core.running.test_trainer import run_it

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        golden = {}
        for method in ("mae", "ijepa", "mae_st"):
            record = run_it(Path(folder) / "cache", Path(folder) / method, f"method={method}")
            golden[method] = [round(record.points[step]["loss"], 6) for step in range(1, 7)]
    (Path(__file__).parent / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
