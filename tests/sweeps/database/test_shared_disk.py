import socket
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from sweeps.console.errors import UserError
from sweeps.database import registering, shared_disk
from sweeps.database.shared_disk import check, network_filesystem
from sweeps.database.tables import RunRow
from sweeps.engine import queue


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of mounts on which tmp_path is NFS, and tmp_path/local disk a local disk below it."""
    shown = str(tmp_path).replace(" ", "\\040")
    table = tmp_path / "mounts"
    table.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nserver:/export {shown} nfs4 rw 0 0\n/dev/sdb {shown}/local\\040disk xfs rw 0 0\n"
    )
    monkeypatch.setattr(shared_disk, "MOUNTS", table)
    return tmp_path


def claim_from(engine: Engine, host: str) -> None:
    with engine.begin() as connection:
        registering.register(connection, [({"mask": "random"}, 0)])
        assert queue.claim(connection, "w", provenance={"host": host}) is not None


def test_a_path_lies_on_the_filesystem_mounted_closest_above_it(network: Path) -> None:
    assert network_filesystem(network / "results" / "a.sqlite") == "nfs4"
    assert network_filesystem(network / "local disk" / "a.sqlite") == ""
    assert network_filesystem(Path("/var/a.sqlite")) == ""


def test_two_machines_may_not_share_a_file_on_a_network_filesystem(engine: Engine, network: Path) -> None:
    claim_from(engine, "node7")
    with engine.connect() as connection, pytest.raises(UserError, match=r"\(nfs4\).*node7.*db=postgresql://"):
        check(connection)


def test_one_machine_may_keep_its_file_on_a_network_filesystem(engine: Engine, network: Path) -> None:
    claim_from(engine, socket.gethostname())
    with engine.connect() as connection:
        check(connection)


def test_a_machine_that_stopped_long_ago_is_no_longer_in_the_way(engine: Engine, network: Path) -> None:
    claim_from(engine, "node7")
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(lease_until=1.0))
        check(connection)


def test_a_local_disk_is_nobodys_concern(engine: Engine) -> None:
    claim_from(engine, "node7")
    with engine.connect() as connection:
        check(connection)
