import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, update

from sweeps.database import artifacts, registering
from sweeps.database.artifacts import Kept
from sweeps.database.tables import Artifact, Blob, RunRow
from sweeps.engine import queue
from sweeps.engine.queue import Claim
from sweeps.engine.recorder import DatabaseRecorder
from tests.sweeps.conftest import BOTH

Make = Callable[[Claim], DatabaseRecorder]


@pytest.fixture
def claim(engine: Engine) -> Claim:
    with engine.begin() as connection:
        registering.register(connection, [({"mask": "random"}, 0)])
        claim = queue.claim(connection, "w")
    assert claim is not None
    return claim


@pytest.fixture
def make(engine: Engine, tmp_path: Path) -> Make:
    def recorder(claim: Claim) -> DatabaseRecorder:
        folder = tmp_path / "runs" / str(claim.run_id)
        return DatabaseRecorder(engine, claim, folder, results_dir=tmp_path, stop=threading.Event())

    return recorder


@BOTH
def test_what_a_done_run_kept_is_in_the_results_folder_and_in_the_database(engine, claim, make, tmp_path):
    with make(claim) as record:
        record.keep("masks.npz", "picture", b"masks")
        record.finish("done", {}, {})
    with engine.begin() as connection:
        file = connection.execute(select(Artifact)).one()
        assert (file.run_id, file.attempt, file.kind, file.bytes) == (claim.run_id, 1, "picture", 5)
        assert not Path(file.uri).is_absolute()
        assert (tmp_path / file.uri).read_bytes() == b"masks"
        assert connection.scalar(select(Blob.content).where(Blob.sha256 == file.sha256)) == b"masks"


def test_a_large_file_is_recorded_without_its_content(engine, claim, make):
    with make(claim) as record:
        record.keep("clips.npz", "picture", bytes(artifacts.INLINE_BYTES + 1))
        record.finish("done", {}, {})
    with engine.begin() as connection:
        assert connection.scalar(select(Artifact.bytes)) == artifacts.INLINE_BYTES + 1
        assert connection.scalar(select(func.count()).select_from(Blob)) == 0


def test_a_fenced_attempt_records_nothing_and_the_next_one_s_file_counts(engine, claim, make):
    with make(claim) as record:
        record.keep("masks.npz", "picture", b"old")
        with engine.begin() as connection:
            connection.execute(update(RunRow).values(lease_until=0.0))
            other = queue.claim(connection, "another")
        record.finish("done", {}, {})
    assert other is not None
    with make(other) as record:
        record.keep("masks.npz", "picture", b"new")
        record.finish("done", {}, {})
    with engine.begin() as connection:
        assert connection.scalars(select(Blob.content)).all() == [b"new"]
        assert connection.execute(select(Artifact.attempt, Artifact.name)).all() == [(2, "masks.npz")]


@BOTH
def test_a_later_attempt_s_file_replaces_an_earlier_one_of_its_name(engine, claim):
    old, new = (Kept("masks.npz", "picture", "runs/1/masks.npz", content) for content in (b"old", b"new"))
    with engine.begin() as connection:
        artifacts.store(connection, claim.run_id, 1, [old])
        artifacts.store(connection, claim.run_id, 2, [new])
        assert connection.execute(select(Artifact.attempt, Artifact.sha256)).all() == [(2, new.sha256)]


def test_a_file_that_cannot_be_written_leaves_the_one_before_it(tmp_path):
    artifacts.write_file(tmp_path / "masks.npz", "picture", b"old", results_dir=tmp_path)
    (tmp_path / "clips.npz").mkdir()
    with pytest.raises(OSError):
        artifacts.write_file(tmp_path / "clips.npz", "picture", b"new", results_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.npz", "masks.npz"]
    assert (tmp_path / "masks.npz").read_bytes() == b"old"
