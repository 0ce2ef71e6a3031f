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

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from sweeps import queue, series
from sweeps.db import Attempt, Config, Result, RunRow, open_database, upgrade
from sweeps.executors import Job, local
from tests.sweeps.postgres import PostgresServer, find_programs

if TYPE_CHECKING:  # core.types imports torch, 3 s that a launcher goes without
    from core.types import Recorder

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "benchmarks/results/storm.txt"
NUM_STEPS, STEP_S = 12, 0.05
WORKERS, LEASE_S = 4, 5
LIMIT_S = 3600.0  # a storm that is not over by then is stuck


# ---- what is trained -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting:
    cell: int
    seed: int
    folder: Path
    checkpoints: Path


def steps(run: Counting) -> Iterator[int]:
    """Run step after step from where its checkpoint is, and yield each; every step run is noted down."""
    run.folder.mkdir(parents=True, exist_ok=True)
    saved = run.checkpoints / "checkpoint"
    done = int(saved.read_text()) if saved.exists() else 0
    for step in range(done + 1, NUM_STEPS + 1):
        note(run.folder / "steps.log", f"{step}\n")
        note(run.folder.parent / "progress", ".")
        time.sleep(STEP_S)
        yield step


def save(run: Counting, step: int) -> Path:
    temporary, saved = run.checkpoints / f".checkpoint.{os.getpid()}", run.checkpoints / "checkpoint"
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    temporary.write_text(str(step))
    temporary.replace(saved)
    return saved


def note(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def value_of(cell: int, seed: int) -> float:
    """What a run must report."""
    return float(1000 * cell + seed)


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
    functions = {"build": build, "train": train}
    job = Job(url, folder, lease_s=LEASE_S, functions=functions, preload=["sweeps.worker"])
    ended = local(job, workers=WORKERS)
    return 3 if ended.gave_up or ended.was_interrupted else 0


def prepare_ours(url: str, cells: int, seeds: int) -> None:
    engine = open_database(url)
    upgrade(engine)
    with engine.begin() as connection:
        queue.register(connection, [({"cell": cell}, seed) for seed in range(seeds) for cell in range(cells)])
    engine.dispose()


def count_ours(url: str, cells: int, seeds: int) -> dict[str, int]:
    engine = open_database(url, read_only=True)
    with engine.connect() as connection:
        found = connection.execute(
            select(Config.json["cell"].as_integer(), RunRow.seed, RunRow.id, Result.value)
            .join(Config, Config.id == RunRow.config_id)
            .join(Result, Result.run_id == RunRow.id)
            .where(RunRow.state == "done")
        ).all()
        correct = {(cell, seed) for cell, seed, _, value in found if value == value_of(cell, seed)}
        twice = connection.scalar(
            select(func.count()).select_from(
                select(Attempt.run_id).where(Attempt.outcome == "done").group_by(Attempt.run_id)
                .having(func.count() > 1).subquery()
            )
        )  # fmt: skip
        zombies = connection.scalar(select(func.count()).where(RunRow.state.in_(("running", "queued"))))
        unclosed = connection.scalar(select(func.count()).where(Attempt.outcome.is_(None)))
        wanted = list(range(1, NUM_STEPS + 1))
        torn = sum(series.read(connection, run, "count").steps.tolist() != wanted for _, _, run, _ in found)
    engine.dispose()
    return {
        "lost": cells * seeds - len(correct),
        "twice": int(twice or 0),
        "zombies": int(zombies or 0) + int(unclosed or 0),
        "torn_curves": torn,
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
    "optuna": System(_optuna("prepare"), _optuna("launch"), _optuna("count")),
}


# ---- reporting -------------------------------------------------------------------------------------------------------


def table(storms: list[Storm]) -> str:
    lines = [f"{'system':8s} {'database':11s} storms  kills   lost  twice  zombies  wasted s (mean)  wall s (mean)"]
    for system, database in dict.fromkeys((storm.system, storm.database) for storm in storms):
        group = [storm for storm in storms if (storm.system, storm.database) == (system, database)]

        def total(field: str, group: list[Storm] = group) -> int:
            return sum(getattr(storm, field) for storm in group)

        lines.append(
            f"{system:8s} {database:11s} {len(group):6d} {total('kills'):6d} {total('lost'):6d} {total('twice'):6d} "
            f"{total('zombies'):8d} {statistics.mean(s.wasted_s for s in group):16.1f} "
            f"{statistics.mean(s.wall_s for s in group):14.1f}"
        )
    return "\n".join(lines)


def report(storms: list[Storm], cells: int, seeds: int) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("optuna", "sqlalchemy", "psycopg"))
    head = [
        f"{cells} cells x {seeds} seeds, {NUM_STEPS} steps of {STEP_S} s a run, {WORKERS} workers, lease {LEASE_S} s; "
        "totals over all storms",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}",
        "written by: python -m benchmarks.storm --write",
    ]
    rows = [json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in asdict(s).items()}) for s in storms]
    return "\n".join([*head, "", table(storms), "", *rows, ""])


def main() -> None:
    if sys.argv[1:2] == ["--launch"]:
        sys.exit(SYSTEMS[sys.argv[2]].launch(sys.argv[3], Path(sys.argv[4])))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("storms", 5), ("cells", 60), ("seeds", 3), ("kills", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, help="kept for inspection (default: a temporary folder)")
    parser.add_argument("--write", action="store_true", help=f"also write {OUTPUT.relative_to(ROOT)}")
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
    text = report(storms, options.cells, options.seeds)
    print(text)
    if options.write:
        OUTPUT.parent.mkdir(exist_ok=True)
        OUTPUT.write_text(text, encoding="utf-8")
    if server is not None:
        server.stop()
        shutil.rmtree(server.folder)
    if options.folder is None:
        shutil.rmtree(folder)


def start_server() -> PostgresServer:
    programs = find_programs()
    if programs is None:
        sys.exit("PostgreSQL's initdb is not installed (Debian: apt-get install postgresql); or --databases sqlite")
    # A socket's path has at most 107 letters.
    return PostgresServer(programs, Path(tempfile.mkdtemp(prefix="pg-")))


if __name__ == "__main__":
    main()
