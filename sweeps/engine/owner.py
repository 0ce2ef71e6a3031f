"""Who a worker is, so that others on its machine can see that it died without waiting for its lease to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, literal_column, select

from sweeps.database.tables import RunRow
from sweeps.engine import queue

PROC = Path("/proc")


def worker_name(pid: int | None = None) -> str:
    """``host/boot-namespace/pid-start`` of a living process (this one): the same name is never another process's."""
    pid = os.getpid() if pid is None else pid
    return f"{_machine()}/{pid}-{_start(pid)}"


def is_dead(name: str) -> bool:
    """Whether the worker of that name has certainly ended; False for one whose machine we cannot look into."""
    machine, _, process = name.rpartition("/")
    pid, _, start = process.partition("-")
    if machine != _machine() or not pid.isdigit():
        return False
    return _start(int(pid)) != start


def reap(connection: Connection, *, but: Collection[str] = ()) -> list[int]:
    """Queue again the runs whose workers died on this machine, save those of the workers `but`; returns them."""
    running = select(RunRow.owner).where(RunRow.state == literal_column("'running'")).distinct()
    owners = [owner for owner in connection.scalars(running) if owner is not None and owner not in but]
    dead = [owner for owner in owners if is_dead(owner)]
    return queue.expire(connection, dead=dead)


def _machine() -> str:
    """Host, boot and process-id namespace: within one, a process id means one process."""
    boot = PROC / "sys/kernel/random/boot_id"
    if not boot.exists():
        return f"{socket.gethostname()}/-"
    namespace = (PROC / "self/ns/pid").readlink().name.strip("pid:[]")
    return f"{socket.gethostname()}/{boot.read_text(encoding='ascii')[:8]}-{namespace}"


def _start(pid: int) -> str:
    """When a process began, in its kernel's ticks; empty when there is no such process, or only its corpse."""
    if not PROC.exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            return "0"
        return "0"
    try:
        # The name in brackets may hold spaces and brackets itself.
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, start = fields[0], fields[19]
    return "" if state in "ZX" else start
