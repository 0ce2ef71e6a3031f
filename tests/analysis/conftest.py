"""A small real database whose numbers are known: two studies, every state a run can end in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from analysis.numbers import remembered
from sweeps.database.opening import open_database
from sweeps.database.tables import Attempt, CellRow, Config, Result, RunRow, StudyRow
from sweeps.study.reading import parse
from tests.empty_database import opened

MAIN = "ridge/digit_top1"

GRID = {
    "title": "Masking ratio",
    "question": "How much to hide?",
    "source": {"paper": "MAE-ST", "place": "Figure 6"},
    "grid": {
        "mask.ratio": [0.5, 0.75, 0.9],
        "length": [
            {"key": "short", "label": "half length", "set": {"optim.steps": 300}},
            {"key": "long", "label": "full length", "set": {"optim.steps": 600}},
        ],
    },
    "baseline": "0.9",
    "seeds": [0, 1, 2],
    "metrics": [MAIN, "collapse/rankme"],
    "table": {"digits": 1},
    "figures": [
        {
            "name": "curve",
            "kind": "line",
            "hue": "mask.ratio",
            "ylabel": "digit top-1 (%)",
            "panels": [
                {"x": "optim.steps", "xlabel": "pretraining steps"},
                {"x": "encoded_tokens", "xlabel": "encoded tokens", "logx": True},
            ],
        },
        {"name": "hours", "kind": "scatter", "x": "cpu_hours", "xlabel": "CPU-hours"},
    ],
    "printed": {"metric": "K400 top-1", "source": "Table 2a", "values": {"0.9": {"long": 84.4, "short": 83.1}}},
}

ROWS = {
    "title": "Masking strategy",
    "question": "Which mask?",
    "source": {"paper": "I-JEPA", "place": "Table 6"},
    "rows": [
        {"key": "multiblock", "label": "multi-block", "set": {"mask": "multiblock"}},
        {"key": "block", "label": "block (0.6)", "set": {"mask": "block"}},
        {"key": "random", "label": "random (0.6)", "set": {"mask": "random"}},
    ],
    "seeds": [0, 1, 2],
    "metrics": [MAIN, "knn/digit_top1"],
    "table": {"caption": "How the image is divided.", "digits": 2},
    "figures": [{"name": "bars", "kind": "bar", "ylabel": "top-1 (%)"}, {"name": "dots", "kind": "point"}],
    "printed": {
        "metric": "1 % linear top-1",
        "source": "Table 6",
        "values": {"multiblock": 54.2, "block": 20.2, "random": 17.6, "dino": 70.0},
        "rows": [{"key": "dino", "label": "DINO"}],
    },
}


@dataclass
class Laboratory:
    """Puts studies and runs into a database the way a launch and its workers would."""

    engine: Engine

    def study(self, name: str, document: Mapping[str, Any], scale: str = "cpu", overrides: Sequence[str] = ()) -> None:
        study = parse(document, Path(f"{name.partition('@')[0]}.yaml"))
        with Session(self.engine) as session, session.begin():
            spec = {**study.spec, "scale": scale, "overrides": list(overrides)}
            row = StudyRow(name=name, spec=spec, spec_hash="0" * 64, revision=1, source=None)
            session.add(row)
            session.flush()
            for cell in study.cells(scale):
                config = self._config(session, {"optim.batch_size": 64, "optim.steps": 300, **cell.overrides})
                display = {
                    "row_label": cell.row_label,
                    "col_label": cell.col_label,
                    "row_order": cell.row_order,
                    "col_order": cell.col_order,
                    "is_random_init": cell.is_random_init,
                }
                session.add(
                    CellRow(
                        study_id=row.id, revision=1, row_key=cell.row_key, col_key=cell.col_key, config_id=config,
                        display=display,
                    )
                )  # fmt: skip

    @staticmethod
    def _config(session: Session, flat: dict[str, Any]) -> int:
        digest = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
        found = [c for c in session.query(Config) if c.json == flat]
        if found:
            return found[0].id
        config = Config(hash=digest, hash_version=1, json=flat)
        session.add(config)
        session.flush()
        return config.id

    def run(
        self,
        study: str,
        row_key: str,
        seed: int,
        values: Mapping[str, float],
        *,
        col_key: str = "",
        state: str = "done",
        git_sha: str = "a" * 40,
        code_epoch: int = 1,
        cpu_seconds: float = 60.0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        with Session(self.engine) as session, session.begin():
            cells = session.query(CellRow).join(StudyRow, StudyRow.id == CellRow.study_id)
            cell = cells.filter(StudyRow.name == study, CellRow.row_key == row_key, CellRow.col_key == col_key).one()
            run = RunRow(
                config_id=cell.config_id, seed=seed, code_epoch=code_epoch, state=state, attempt=1,
                cpu_seconds=cpu_seconds, created=0.0,
            )  # fmt: skip
            session.add(run)
            session.flush()
            outcome = state if state in ("done", "failed", "diverged", "collapsed") else None
            told = {"git_sha": git_sha, "dirty": False, "facts": dict(facts) if facts else None}
            session.add(Attempt(run_id=run.id, n=1, started=0.0, outcome=outcome, **told))
            session.add_all(Result(run_id=run.id, metric=m, value=v, attempt=1) for m, v in values.items())


def grid_value(ratio: float, steps: int, seed: int) -> float:
    """A number for every run of GRID: seeds shift all rows alike, so that pairing matters."""
    return 60 + 20 * ratio + steps / 100 + 3 * seed + ((seed * 7 + round(ratio * 100) * 3) % 5) / 10


def fill_grid(laboratory: Laboratory) -> None:
    laboratory.study("masking_ratio", GRID)
    for ratio in (0.5, 0.75, 0.9):
        for col_key, steps in (("short", 300), ("long", 600)):
            for seed in (0, 1, 2):
                value = grid_value(ratio, steps, seed)
                results = {MAIN: value, "collapse/rankme": value / 4}
                laboratory.run("masking_ratio", str(ratio), seed, results, col_key=col_key, cpu_seconds=steps * 0.1)
    for seed in (0, 1, 2):  # one config for both columns
        laboratory.run(
            "masking_ratio", "random_init", seed, {MAIN: 48.0 + seed, "collapse/rankme": 9.0}, col_key="long"
        )


def fill_rows(laboratory: Laboratory) -> None:
    """multiblock complete; block has one run diverged (with a number on its way) and one missing; random failed."""
    laboratory.study("ijepa_masking", ROWS)
    for seed, value in enumerate((70.0, 71.0, 73.0)):
        laboratory.run("ijepa_masking", "multiblock", seed, {MAIN: value, "knn/digit_top1": value - 10})
    laboratory.run("ijepa_masking", "block", 0, {MAIN: 60.0, "knn/digit_top1": 50.0}, git_sha="b" * 40)
    laboratory.run("ijepa_masking", "block", 1, {MAIN: 11.0}, state="diverged")
    for seed in (0, 1, 2):
        laboratory.run("ijepa_masking", "random", seed, {}, state="failed")
        laboratory.run("ijepa_masking", "random_init", seed, {MAIN: 48.0 + seed, "knn/digit_top1": 40.0})


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test draws what it shows: what an older test, or an older day, has drawn is not here."""
    monkeypatch.setattr(remembered, "FOLDER", tmp_path_factory.mktemp("remembered"))


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database file with both studies; do not write to it."""
    path = tmp_path_factory.mktemp("database") / "ablations.sqlite"
    laboratory = _laboratory(path)
    fill_grid(laboratory)
    fill_rows(laboratory)
    laboratory.engine.dispose()
    return path


@pytest.fixture
def engine(filled: Path) -> Engine:
    return open_database(f"sqlite:///{filled}", read_only=True)


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    """An empty database of the test's own."""
    return _laboratory(tmp_path / "own.sqlite")


def _laboratory(path: Path) -> Laboratory:
    return Laboratory(opened(path))
