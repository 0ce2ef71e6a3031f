"""Runs that one worker trains together: those of the shape of one that it has claimed.

Each is claimed by the queue's own statement, with a lease and an attempt of its own, so that whatever befalls the
worker or one of the runs, the others are no worse off than alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, literal_column, select, update

from core.configuring.config import ConfigError, Run
from core.running.stacking import auto_size, shape_of, why_alone
from sweeps.console.limits import AUTO_STACK
from sweeps.database import registering
from sweeps.database.tables import Attempt, Config, RunRow, database_now
from sweeps.engine import queue
from sweeps.engine.provenance import Meter
from sweeps.engine.queue import Claim, Usage
from sweeps.engine.statements import in_scope
from sweeps.study.identity import digest

log = logging.getLogger(__name__)


class Stacks:
    """Which configs are of one shape, and how many runs of it go together; remembers what it has found."""

    def __init__(self) -> None:
        self._shapes: dict[int, str] = {}  # of a config, by its id
        self._sizes: dict[str, int] = {}  # by the shape

    def size(self, claim: Claim, asked: int, build: Callable[..., Run], runtime: Mapping[str, Any]) -> int:
        """How many runs like this one a worker trains together: 1 where they cannot be, which is said once a shape."""
        shape = digest(shape_of(claim.config))
        if shape not in self._sizes:
            self._sizes[shape] = self._found(claim, asked, build, runtime)
        return self._sizes[shape]

    def _found(self, claim: Claim, asked: int, build: Callable[..., Run], runtime: Mapping[str, Any]) -> int:
        try:
            run = build(claim.config, seed=claim.seed, runtime=dict(runtime))
            reason = why_alone(run)
        except (ConfigError, ValueError, OSError) as error:
            reason = str(error)  # trained alone, it will be recorded as the run's
        if reason is not None:
            log.info("run %d and others of its shape are trained alone: %s", claim.run_id, reason)
            return 1
        return auto_size(run) if asked == AUTO_STACK else asked

    def more(
        self,
        connection: Connection,
        first: Claim,
        size: int,
        *,
        study: int | None = None,
        seeds: Sequence[int] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> list[Claim]:
        """`first` and up to `size` - 1 more queued runs of its shape, claimed for its worker.

        One that has failed before is left alone: what it fails of may be the others. Each attempt's facts say the size
        of its stack, because its numbers are those of a run alone to rounding only.
        """
        claims = [first]
        shape = digest(shape_of(first.config))
        ready = select(RunRow.id, RunRow.config_id).where(
            RunRow.state == literal_column("'queued'"), RunRow.not_before <= database_now(), RunRow.n_fail == 0,
            *in_scope(RunRow, study, seeds),
        )  # fmt: skip
        rows = connection.execute(ready.order_by(RunRow.priority.desc(), RunRow.id)).all()
        self._learn(connection, {row.config_id for row in rows})
        for row in rows:
            if len(claims) == size:
                break
            if self._shapes[row.config_id] != shape:
                continue
            claim = queue.claim(
                connection, first.worker, lease_s=first.lease_s, study=study, seeds=seeds, provenance=provenance,
                run=row.id,
            )  # fmt: skip
            if claim is not None:  # else another worker's meanwhile
                claims.append(claim)
        if len(claims) > 1:
            for claim in claims:
                mine = (Attempt.run_id == claim.run_id, Attempt.n == claim.attempt)
                connection.execute(update(Attempt).where(*mine).values(facts={"stack": len(claims)}))
        return claims

    def _learn(self, connection: Connection, configs: set[int]) -> None:
        new = sorted(configs - self._shapes.keys())
        for start in range(0, len(new), registering.NUM_PER_STATEMENT):
            part = new[start : start + registering.NUM_PER_STATEMENT]
            for row in connection.execute(select(Config.id, Config.json).where(Config.id.in_(part))):
                self._shapes[row.id] = digest(shape_of(row.json))


class HasTime(Protocol):
    """Whether there is time for the run that would be claimed next, or for `stack` runs like `run`."""

    def __call__(self, connection: Connection, *, run: int | None = None, stack: int = 1) -> bool: ...


def in_time(connection: Connection, has_time: HasTime, first: Claim, size: int) -> int:
    """How many runs like `first` there is time for together: `size`, or what halving it gives.

    All where there is none even for one: a run that is longer than a job goes on by a job's worth, and so do they.
    """
    sizes = (size >> halved for halved in range(size.bit_length()))
    return next((each for each in sizes if has_time(connection, run=first.run_id, stack=each)), size)


class SharedMeter:
    """What each of several runs of one process has used: an equal share of what the process used while it was one."""

    def __init__(self, meter: Meter, num_live: Callable[[], int]) -> None:
        self._meter, self._num_live = meter, num_live
        self._seen = self._share = Usage()
        self._lock = threading.Lock()  # each run's recorder asks from a thread of its own

    def usage(self, step: int | None = None) -> Usage:
        with self._lock:
            now, live = self._meter.usage(), max(1, self._num_live())
            self._share = now._replace(
                cpu_seconds=self._share.cpu_seconds + (now.cpu_seconds - self._seen.cpu_seconds) / live,
                gpu_seconds=self._share.gpu_seconds + (now.gpu_seconds - self._seen.gpu_seconds) / live,
            )
            self._seen = now
            return self._share._replace(step=step)
