from pathlib import Path

import pytest

from benchmarks.storm import Storm, run_storm
from tests.sweeps.postgres import PostgresServer


def survives(url: str, folder: Path, server: PostgresServer | None, system: str = "ours") -> Storm:
    storm = Storm(system, "sqlite" if server is None else "postgresql", seed=1)
    return run_storm(storm, url, folder, cells=12, seeds=2, kills=9, server=server)


@pytest.mark.slow
def test_a_storm_of_kills_loses_nothing_and_trains_nothing_twice(tmp_path: Path) -> None:
    storm = survives(f"sqlite:///{tmp_path / 'storm.sqlite'}", tmp_path, None)
    assert (storm.lost, storm.twice, storm.zombies, storm.torn_curves) == (0, 0, 0, 0)
    assert (storm.kills >= 9, storm.launchers_killed, storm.stops) == (True, 1, 1)


@pytest.mark.slow
def test_a_storm_in_which_the_database_server_restarts_loses_nothing_either(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    storm = survives(postgres.new_database(), tmp_path, postgres)
    assert (storm.lost, storm.twice, storm.zombies, storm.torn_curves) == (0, 0, 0, 0)
    assert (storm.kills >= 9, storm.server_restarts) == (True, 1)


@pytest.mark.slow
def test_a_storm_over_stacked_runs_loses_nothing_and_trains_nothing_twice(tmp_path: Path) -> None:
    storm = survives(f"sqlite:///{tmp_path / 'storm.sqlite'}", tmp_path, None, "stacked")
    assert (storm.lost, storm.twice, storm.zombies, storm.torn_curves) == (0, 0, 0, 0)
    assert (storm.kills >= 9, storm.stacked_attempts >= 24) == (True, True)


@pytest.mark.slow
def test_a_storm_over_stacked_runs_in_which_the_database_server_restarts_loses_nothing_either(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    storm = survives(postgres.new_database(), tmp_path, postgres, "stacked")
    assert (storm.lost, storm.twice, storm.zombies, storm.torn_curves) == (0, 0, 0, 0)
    assert (storm.kills >= 9, storm.server_restarts) == (True, 1)
