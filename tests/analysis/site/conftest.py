"""A database whose runs have curves, attempts, provenance and a name that tries to be markup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from analysis.report import write
from sweeps.database import series
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import Attempt, CellRow, Config, Environment, RunRow, StudyRow
from tests.analysis.conftest import MAIN, ROWS, Laboratory, fill_grid, fill_rows

EVIL = "<script>document.title = 'owned'</script>\" onmouseover=\"alert(1)"


def add_curves(laboratory: Laboratory) -> None:
    """A falling loss for every run. The first run was killed at step 120 and went on from step 101."""
    with Session(laboratory.engine) as session, session.begin():
        session.add(Environment(hash="e" * 64, packages={"python": "3.11", "torch": "2.11.0", "left-pad": "1"}))
        runs = session.scalars(select(RunRow).order_by(RunRow.id)).all()
        for run in runs:
            steps = np.arange(1, 121)
            loss = 1 / steps + 0.1 * run.seed
            rows = [series.chunk_row(run.id, 1, 0, "loss", steps.tolist(), loss.tolist())]
            if run is runs[0]:
                again = np.arange(101, 301)
                rows.append(series.chunk_row(run.id, 2, 0, "loss", again.tolist(), (1 / again).tolist()))
                session.execute(
                    update(Attempt).where(Attempt.run_id == run.id).values(outcome="lost", resume_step=1, step=120)
                )
                session.add(
                    Attempt(
                        run_id=run.id, n=2, started=60.0, ended=90.0, outcome="done", resume_step=101, step=300,
                        git_sha="c" * 40, dirty=True, env_hash="e" * 64, host="node7", facts={"device": "cpu"},
                    )
                )  # fmt: skip
                run.attempt = 2
            series.write(session.connection(), rows)


def fill(path: Path) -> Laboratory:
    engine = open_database(f"sqlite:///{path}")
    upgrade(engine)
    laboratory = Laboratory(engine)
    fill_grid(laboratory)
    fill_rows(laboratory)
    rows = [dict(row) for row in ROWS["rows"]]
    rows[1] = {"key": "evil", "label": EVIL, "set": {"mask": "block", "data.path": EVIL}}
    document = {**ROWS, "rows": rows, "title": EVIL, "question": EVIL, "notes": EVIL, "printed": {}}
    laboratory.study("evil", document)
    laboratory.run("evil", "evil", 0, {MAIN: 60.0, "knn/digit_top1": 1.0, EVIL: 2.0})
    add_curves(laboratory)
    with Session(engine) as session, session.begin():
        of_ratios = select(CellRow.config_id).join(StudyRow, StudyRow.id == CellRow.study_id)
        of_ratios = of_ratios.where(StudyRow.name == "masking_ratio")
        session.execute(update(Config).values(method="ijepa"))
        session.execute(update(Config).where(Config.id.in_(of_ratios)).values(method="mae"))
        free = Config(hash="f" * 64, hash_version=1, json={"mask": "block"}, method="vjepa")
        session.add(free)  # of no study
        session.flush()
        session.add(RunRow(config_id=free.id, seed=0, code_epoch=1, state="queued", created=0.0))
        session.execute(update(Attempt).where(Attempt.n == 1).values(host=EVIL, error=EVIL, facts={EVIL: EVIL}))
    return laboratory


@pytest.fixture(scope="session")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database file; do not write to it."""
    path = tmp_path_factory.mktemp("lively") / "ablations.sqlite"
    fill(path).engine.dispose()
    return path


@pytest.fixture(scope="session")
def report(lively: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the static site; do not edit it."""
    folder = tmp_path_factory.mktemp("site")
    engine = open_database(f"sqlite:///{lively}", read_only=True)
    write(engine, ["evil", "ijepa_masking", "masking_ratio"], folder)
    engine.dispose()
    return folder / "report"
