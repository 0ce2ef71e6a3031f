"""Kill everything at random while a table is trained, and count what is lost, trained twice or left running.

    python -m benchmarks.storm [--storms 5] [--cells 60] [--seeds 3] [--kills 40] [--systems ours optuna]
                               [--databases sqlite postgresql] [--folder PATH] [--write]

A storm trains cells x seeds runs (12 steps of 50 ms with a checkpoint after each) with four workers. In it, at random:
workers and their launcher are killed with SIGKILL (every other launcher together with all its workers, as when the
machine dies), one worker is stopped with SIGSTOP past its lease and woken, and a PostgreSQL server is stopped in
"immediate" mode and started again. A dead launcher is started again, as a person or a service would.

Beside ours, in the same storms: Optuna with GridSampler, RDBStorage's heartbeat and the callback that retries stale
trials (`benchmarks.storm_optuna`). Both train the same function with the same checkpoints, and have equal leases.

    lost     cells x seeds without a result at the end
    twice    results recorded more than once for the same cell and seed
    zombies  still RUNNING in the database, or a process still alive, after everything has ended
    wasted   seconds of steps that were run more than once
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Float, func, select

from benchmarks import storm_stack_run
from benchmarks.lines import RESULTS, ROOT, arguments_of, show
from benchmarks.storm_run import LEASE_S, NUM_STEPS, STEP_S, WORKERS, Counting, save, steps, value_of
from sweeps.database import registering, series
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import Attempt, Config, Result, RunRow
from sweeps.engine.executors import Job, local
from tests.sweeps.postgres import PostgresServer, find_programs

if TYPE_CHECKING:  # core.types imports torch, 3 s that a launcher goes without
    from core.types import Recorder

OUTPUT = RESULTS / "storm.txt"
TARGETS = {
    "ours, sqlite": "at most 0 lost; at most 0 twice; at most 0 zombies",
    "ours, postgresql": "at most 0 lost; at most 0 twice; at most 0 zombies",
}
LIMIT_S = 3600.0  # a storm that is not over by then is stuck


# ---- ours ------------------------------------------------------------------------------------------------------------


def build(config: Mapping[str, Any], *, seed: int, runtime: Mapping[str, Any]) -> Counting:
    return Counting(config["cell"], seed, Path(runtime["dir"]), Path())


def train(run: Any, record: Recorder) -> None:
    run = replace(run, checkpoints=record.folder)
    for step in steps(run):
        record.log(step, {"count": float(step)})
        record.checkpointed(step, save(run, step))
        if record.should_stop() and step < NUM_STEPS:
            record.finish("preempted", {}, {})
            return
    record.finish("done", {"value": value_of(run.cell, run.seed)}, {})


def launch_ours(url: str, folder: Path) -> int:
    return launch(Job(url, folder, lease_s=LEASE_S, functions={"build": build, "train": train}))


def launch_stacked(url: str, folder: Path) -> int:
    functions = {name: getattr(storm_stack_run, name) for name in ("build", "train", "train_together")}
    return launch(Job(url, folder, lease_s=LEASE_S, functions=functions, stack=storm_stack_run.STACK))


def launch(job: Job) -> int:
    ended = local(replace(job, preload=["sweeps.engine.working"]), workers=WORKERS)
    return 3 if ended.gave_up or ended.was_interrupted else 0


def prepare_ours(url: str, cells: int, seeds: int) -> None:
    prepare(url, [{"cell": cell} for cell in range(cells)], seeds)


def prepare_stacked(url: str, cells: int, seeds: int) -> None:
    prepare(url, storm_stack_run.configs(cells), seeds)


def prepare(url: str, configs: Sequence[Mapping[str, Any]], seeds: int) -> None:
    engine = open_database(url)
    upgrade(engine)
    with engine.begin() as connection:
        registering.register(connection, [(dict(config), seed) for seed in range(seeds) for config in configs])
    engine.dispose()


def count_ours(url: str, cells: int, seeds: int) -> dict[str, int]:
    return count(url, cells, seeds, "cell", int)


def count_stacked(url: str, cells: int, seeds: int) -> dict[str, int]:
    return count(url, cells, seeds, storm_stack_run.CELL, storm_stack_run.cell_of)


def count(url: str, cells: int, seeds: int, key: str, cell_of: Callable[[float], int]) -> dict[str, int]:
    engine = open_database(url, read_only=True)
    with engine.connect() as connection:
        found = connection.execute(
            select(Config.json[key].as_float().cast(Float), RunRow.seed, RunRow.id, Result.value)
            .join(Config, Config.id == RunRow.config_id)
            .join(Result, Result.run_id == RunRow.id)
            .where(RunRow.state == "done")
        ).all()
        correct = {(cell_of(said), seed) for said, seed, _, value in found if value == value_of(cell_of(said), seed)}
        twice = connection.scalar(
            select(func.count()).select_from(
                select(Attempt.run_id).where(Attempt.outcome == "done").group_by(Attempt.run_id)
                .having(func.count() > 1).subquery()
            )
        )  # fmt: skip
        zombies = connection.scalar(select(func.count()).where(RunRow.state.in_(("running", "queued"))))
        unclosed = connection.scalar(select(func.count()).where(Attempt.outcome.is_(None)))
        stacked = connection.scalar(select(func.count()).where(Attempt.facts["stack"].as_integer() > 1))
        wanted = list(range(1, NUM_STEPS + 1))
        torn = sum(series.read(connection, run, "count").steps.tolist() != wanted for _, _, run, _ in found)
    engine.dispose()
    return {
        "lost": cells * seeds - len(correct),
        "twice": int(twice or 0),
        "zombies": int(zombies or 0) + int(unclosed or 0),
        "torn_curves": torn,
        "stacked_attempts": int(stacked or 0),
    }


# ---- the storm -------------------------------------------------------------------------------------------------------


@dataclass
class Storm:
    """What happened in one storm."""

    system: str
    database: str
    seed: int
    kills: int = 0
    launchers_killed: int = 0
    stops: int = 0
    server_restarts: int = 0
    lost: int = 0
    twice: int = 0
    zombies: int = 0
    torn_curves: int = 0
    stacked_attempts: int = 0
    wasted_s: float = 0.0
    wall_s: float = 0.0


def children(pid: int) -> list[int]:
    """Living child processes."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def workers_of(launcher: int) -> list[int]:
    """The launcher's child is the fork server (and a resource tracker); the workers are the server's."""
    return [worker for child in children(launcher) for worker in children(child)]


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Weather:
    """Does harm as the training goes on: the k-th kill falls somewhere in the k-th part of the steps."""

    def __init__(self, storm: Storm, *, num_steps: int, kills: int, server: PostgresServer | None) -> None:
        self.storm, self.server, self.random = storm, server, random.Random(storm.seed)
        part = num_steps / kills
        self.kills = [int((k + self.random.random()) * part) for k in range(kills)]
        self.stop_at, self.restart_at = num_steps // 4, num_steps // 2 if server is not None else None
        self.stopped: tuple[int, float] | None = None
        self.seen: set[int] = set()

    def strike(self, launcher: int, progress: int) -> None:
        """Whatever is due at `progress` steps."""
        workers = workers_of(launcher)
        self.seen.update(workers)
        if self.stopped is not None and time.monotonic() > self.stopped[1]:
            kill(self.stopped[0], signal.SIGCONT)
            self.stopped = None
        if self.storm.stops == 0 and progress >= self.stop_at and workers:
            worker = self.random.choice(workers)
            if kill(worker, signal.SIGSTOP):
                self.storm.stops += 1
                self.stopped = worker, time.monotonic() + LEASE_S + 2
        if self.restart_at is not None and progress >= self.restart_at:
            assert self.server is not None
            self.server.stop("immediate")
            time.sleep(2)
            self.server.start()
            self.storm.server_restarts, self.restart_at = 1, None
        if self.kills and progress >= self.kills[0]:
            self.kill_one(launcher, [w for w in workers if self.stopped is None or w != self.stopped[0]])

    def kill_one(self, launcher: int, workers: list[int]) -> None:
        time.sleep(self.random.uniform(0, 0.2))  # so that it falls anywhere: in a step, a claim, an ending
        # Not while a worker is stopped: who would take its run?
        if self.storm.kills >= 12 * self.storm.launchers_killed and self.stopped is None:
            victims = [launcher]
            if self.storm.launchers_killed % 2:
                victims += [*children(launcher), *workers]
            self.storm.launchers_killed += 1
        elif workers:
            victims = [self.random.choice(workers)]
        else:
            return
        killed = sum([kill(victim) for victim in victims])
        self.storm.kills += killed
        if killed:
            self.kills.pop(0)


def run_storm(storm: Storm, url: str, folder: Path, *, cells: int, seeds: int, kills: int, server: Any) -> Storm:
    system = SYSTEMS[storm.system]
    system.prepare(url, cells, seeds)
    weather = Weather(storm, num_steps=cells * seeds * NUM_STEPS, kills=kills, server=server)
    progress = folder / "runs" / "progress"
    progress.parent.mkdir(parents=True)
    start = time.monotonic()
    with (folder / "output.txt").open("w") as output:
        launcher = start_launcher(storm.system, url, folder, output)
        while True:
            code = launcher.poll()
            if code == 0:
                break
            assert time.monotonic() < start + LIMIT_S, f"{storm}: stuck; see {folder}"
            if code is not None:
                launcher = start_launcher(storm.system, url, folder, output)
            weather.strike(launcher.pid, progress.stat().st_size if progress.exists() else 0)
            time.sleep(0.02)
    storm.wall_s = time.monotonic() - start
    if weather.stopped is not None:
        kill(weather.stopped[0], signal.SIGCONT)
    alive = outlived(weather.seen)
    for name, count in system.count(url, cells, seeds).items():
        setattr(storm, name, count)
    storm.zombies += len(alive)
    executed = [len(log.read_text().split()) for log in folder.glob("runs/*/steps.log")]
    storm.wasted_s = sum(count - NUM_STEPS for count in executed if count > NUM_STEPS) * STEP_S
    return storm


def start_launcher(system: str, url: str, folder: Path, output: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.storm", "--launch", system, url, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def outlived(processes: set[int], within_s: float = 20.0) -> list[int]:
    """Those still alive after `within_s`."""
    deadline = time.monotonic() + within_s
    while alive := [pid for pid in processes if is_alive(pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return alive


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(frozen=True)
class System:
    prepare: Callable[[str, int, int], None]
    launch: Callable[[str, Path], int]
    count: Callable[[str, int, int], dict[str, int]]


def _optuna(name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        # Optuna's import is no part of what our launcher starts.
        from benchmarks import storm_optuna

        return getattr(storm_optuna, name)(*arguments)

    return call


SYSTEMS = {
    "ours": System(prepare_ours, launch_ours, count_ours),
    "stacked": System(prepare_stacked, launch_stacked, count_stacked),
    "optuna": System(_optuna("prepare"), _optuna("launch"), _optuna("count")),
}


# ---- reporting -------------------------------------------------------------------------------------------------------


def lines(storms: list[Storm], cells: int, seeds: int) -> Iterator[str]:
    """What happened to each system on each database over all storms, then every storm as it was counted."""
    yield (
        f"{cells} cells x {seeds} seeds, {NUM_STEPS} steps of {STEP_S} s a run, {WORKERS} workers, lease {LEASE_S} s; "
        "totals over all storms"
    )
    for system, database in dict.fromkeys((storm.system, storm.database) for storm in storms):
        group = [storm for storm in storms if (storm.system, storm.database) == (system, database)]
        lost, twice, zombies, kills = (
            sum(getattr(storm, field) for storm in group) for field in ("lost", "twice", "zombies", "kills")
        )
        yield (
            f"{system}, {database}: {lost} lost, {twice} twice, {zombies} zombies, "
            f"{statistics.mean(s.wasted_s for s in group):.1f} s wasted and "
            f"{statistics.mean(s.wall_s for s in group):.1f} s of wall clock in the mean of {len(group)} storms, "
            f"{kills} kills"
        )
    yield ""
    for storm in storms:
        yield json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in asdict(storm).items()})


def main() -> None:
    if sys.argv[1:2] == ["--launch"]:
        sys.exit(SYSTEMS[sys.argv[2]].launch(sys.argv[3], Path(sys.argv[4])))
    found, output = measure(__doc__, OUTPUT, ["ours", "optuna"])
    show(found, output, benchmark=__file__, software=("optuna", "sqlalchemy", "psycopg"), targets=TARGETS)


def measure(doc: str | None, output: Path, systems: Sequence[str]) -> tuple[list[str], Path | None]:
    """Storms over `systems` as the command line asks for; their lines, and where they go if anywhere."""
    parser = arguments_of(doc, output)
    for name, default in (("storms", 5), ("cells", 60), ("seeds", 3), ("kills", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--systems", nargs="+", choices=systems, default=systems)
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, help="kept for inspection (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="storm-"))
    server = start_server() if "postgresql" in options.databases else None
    storms = []
    for seed in range(options.storms):
        for database in options.databases:
            for system in options.systems:
                place = folder / f"{system}-{database}-{seed}"
                place.mkdir(parents=True)
                storm = run_storm(
                    Storm(system, database, seed), server.new_database() if database == "postgresql" and server else
                    f"sqlite:///{place / 'storm.sqlite'}", place, cells=options.cells, seeds=options.seeds,
                    kills=options.kills, server=server if database == "postgresql" else None,
                )  # fmt: skip
                storms.append(storm)
                print(storm, flush=True)
    if server is not None:
        server.stop()
        shutil.rmtree(server.folder)
    if options.folder is None:
        shutil.rmtree(folder)
    return list(lines(storms, options.cells, options.seeds)), output if options.write else None


def start_server() -> PostgresServer:
    programs = find_programs()
    if programs is None:
        sys.exit("PostgreSQL's initdb is not installed (Debian: apt-get install postgresql); or --databases sqlite")
    # A socket's path has at most 107 letters.
    return PostgresServer(programs, Path(tempfile.mkdtemp(prefix="pg-")))


if __name__ == "__main__":
    main()
