"""What differs between runs: their options, seeds, data, code, packages and machines, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from sqlalchemy import Engine, and_, select

from sweeps.answers.run_frames import refuse_missing
from sweeps.console.errors import UserError
from sweeps.database.tables import Attempt, Config, Environment, RunRow

MISSING = None  # of an option that a run's config does not have


def differences(engine: Engine, run_ids: Sequence[int]) -> pd.DataFrame:
    """A row a thing in which the runs differ: `what`, and a column `run_ID` each; options of the config come first.

    Besides options: the seed, `fingerprint of DATA`, the code's `git_sha` and `dirty`, `code_epoch`, `device`, and
    `package NAME`, each by the last attempt. What a run has no value of is empty. No rows: they were made alike.
    Raises UserError for fewer than two runs, the same one twice, or one that the database does not have.
    """
    if len(run_ids) < 2 or len(set(run_ids)) != len(run_ids):
        raise UserError(f"differences must be of two or more different runs such as 3,4, got {list(run_ids)}")
    query = (
        select(
            RunRow.id, RunRow.seed, RunRow.code_epoch, Config.json, Attempt.data, Attempt.git_sha, Attempt.dirty,
            Attempt.device, Environment.packages,
        )
        .join(Config, Config.id == RunRow.config_id)
        .outerjoin(Attempt, and_(Attempt.run_id == RunRow.id, Attempt.n == RunRow.attempt))
        .outerjoin(Environment, Environment.hash == Attempt.env_hash)
        .where(RunRow.id.in_(run_ids))
    )  # fmt: skip
    with engine.connect() as connection:
        rows = {row.id: row for row in connection.execute(query)}
    refuse_missing("differences", run_ids, list(rows))
    parts = [_parts(rows[run_id]) for run_id in run_ids]
    found = [
        (name, *(part.get(name, MISSING) for part in ofs))
        for ofs in zip(*parts, strict=True)
        for name in sorted({name for part in ofs for name in part})
        if any(name not in part or part[name] != ofs[0].get(name) for part in ofs)
    ]
    columns = ["what", *(f"run_{run_id}" for run_id in run_ids)]
    # As objects: a column of whole numbers and nothing would become one of floats.
    return pd.DataFrame(found, columns=columns, dtype=object)


def _parts(row: Any) -> list[dict[str, Any]]:
    """What a run is made of: options, then the rest, in the order in which it is told."""
    made = {name: getattr(row, name) for name in ("code_epoch", "device", "dirty", "git_sha", "seed")}
    return [
        dict(row.json),
        {name: value for name, value in made.items() if value is not None},
        {f"fingerprint of {group}": value for group, value in (row.data or {}).items()},
        {f"package {name}": version for name, version in (row.packages or {}).items()},
    ]
