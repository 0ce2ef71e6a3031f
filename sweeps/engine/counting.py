"""What the runs that wait compute is counted while they train, so that the first of them starts at once.

The counts tell what is left of a study, and nothing that any run does or records.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from sweeps.cells import work
from sweeps.database.tables import Config, RunRow
from sweeps.engine.executors import Job
from sweeps.engine.statements import in_scope


def count_waiting(engine: Engine, job: Job, is_over: Callable[[], bool] = bool) -> None:
    """Record what the configs of the job's runs compute, where nobody has measured or counted it, until `is_over`."""
    scope = in_scope(RunRow, job.study, job.seeds)
    with engine.connect() as connection:
        waiting = select(Config.json).join(RunRow, RunRow.config_id == Config.id).where(RunRow.state != "done", *scope)
        configs = connection.scalars(waiting.group_by(Config.id).order_by(Config.id)).all()
        uncounted = work.uncounted(connection, configs)
    for config, flat in uncounted.items():
        if is_over():
            return
        if found := work.to_record({config: flat}, str(job.runtime.get("data_root", "."))):
            with engine.begin() as connection:
                work.record(connection, found)


@contextlib.contextmanager
def beside(engine: Engine, job: Job, executor: str = "local") -> Iterator[None]:
    """`count_waiting` in a thread, which ends with the block; before the block where this very process trains in it."""
    if executor == "inline":  # what it counted meanwhile would be charged to a run
        count_waiting(engine, job)
        yield
        return
    over = threading.Event()

    def count() -> None:
        # Without counts an estimate is lacking, which must stop nobody.
        with contextlib.suppress(SQLAlchemyError):
            count_waiting(engine, job, over.is_set)

    thread = threading.Thread(target=count, name="counting")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
