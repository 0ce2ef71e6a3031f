"""A fresh database in a temporary file, its schema at head."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from sweeps.db import open_database, upgrade


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sweep.sqlite'}"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_database(url)
    upgrade(engine)
    yield engine
    engine.dispose()
