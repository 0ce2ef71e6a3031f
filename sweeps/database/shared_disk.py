"""Whether a SQLite file may be used from here: several machines must not write to one on a network filesystem.

SQLite's write-ahead log is shared memory of one machine, and the locks of network filesystems fail silently.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

from sqlalchemy import Connection, inspect, literal_column, select

from sweeps.console.errors import UserError
from sweeps.database.tables import Attempt, RunRow, database_now

MOUNTS = Path("/proc/self/mounts")
NETWORK = re.compile(
    r"(nfs|cifs|smb|lustre|gpfs|beegfs|ceph|fuse\.(sshfs|gluster|ceph|s3|gcs)|gluster|afs|9p|pvfs|orangefs|panfs|wekafs)"
)


def network_filesystem(path: Path) -> str:
    """The type of the network filesystem that `path` lies on, or will: nfs4, lustre, ...; empty for a local disk."""
    if not MOUNTS.exists():
        return ""
    kinds: dict[Path, str] = {}
    for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        _, folder, kind = line.split()[:3]
        # The table writes a space as \\040; of two mounts on one folder the later hides the earlier.
        kinds[Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), folder))] = kind
    resolved = path.resolve()
    kind = next((kinds[folder] for folder in (resolved, *resolved.parents) if folder in kinds), "")
    return kind if NETWORK.match(kind) else ""


def other_hosts(connection: Connection) -> list[str]:
    """Hosts besides this one whose workers hold a lease that has not ended."""
    if not inspect(connection).has_table(RunRow.__tablename__):
        return []
    hosts = connection.scalars(
        select(Attempt.host)
        .join(RunRow, (RunRow.id == Attempt.run_id) & (RunRow.attempt == Attempt.n))
        .where(RunRow.state == literal_column("'running'"), RunRow.lease_until > database_now())
        .distinct()
    )
    return sorted(host for host in hosts if host not in (None, socket.gethostname()))


def check(connection: Connection) -> None:
    """Raises UserError where the database is a SQLite file on a network filesystem that another machine works with."""
    if connection.dialect.name != "sqlite":
        return
    path = Path(str(connection.engine.url.database))
    kind = network_filesystem(path)
    if kind and (hosts := other_hosts(connection)):
        raise UserError(
            f"db={connection.engine.url}: a SQLite file on a network filesystem ({kind}) is for one machine, and "
            f"{', '.join(hosts)} trains with it now; use a server for both: "
            "db=postgresql://user@host/name (bring what is there with: python -m sweeps.export)"
        )
