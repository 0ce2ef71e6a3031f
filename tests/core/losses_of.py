"""Train a tiny run and write its losses as JSON: ``torchrun ... losses_of.py FOLDER OUT key=value ...``."""

import json
import os
import sys
from pathlib import Path

from tests.core.running.test_trainer import run_it

if __name__ == "__main__":
    folder, out, *overrides = sys.argv[1:]
    record = run_it(Path(folder) / "cache", Path(folder) / "run", *overrides)
    if int(os.environ.get("RANK", "0")) == 0:
        losses = [point["loss"] for _, point in sorted(record.points.items()) if "loss" in point]
        told = {"outcome": record.outcome, "losses": losses, "results": record.results, "points": record.points}
        Path(out).write_text(json.dumps(told))
