"""Optuna's side of `benchmarks.storm`: a grid with everything its documentation recommends for workers that die.

GridSampler over cell and seed, `study.optimize` in every worker (heartbeats exist only there), RDBStorage with
heartbeat_interval, a grace period as long as our lease, RetryHeartbeatStaleTrialCallback (the present name of
RetryFailedTrialCallback) without a bound on retries, checkpoints found again by cell and seed. A worker that dies or
fails is started again; when all have ended, stale and waiting trials get three more rounds.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.storm_run import LEASE_S, WORKERS, Counting, save, steps, value_of

NAME = "storm"


def open_study(url: str, space: dict[str, list[int]] | None = None) -> optuna.Study:
    """`space` is stored with the study when it is made, and read from there after."""
    connect = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    storage = RDBStorage(
        url,
        engine_kwargs=connect,
        heartbeat_interval=1,
        grace_period=LEASE_S,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    if space is not None:
        study = optuna.create_study(storage=storage, study_name=NAME)
        study.set_user_attr("space", space)
    else:
        study = optuna.load_study(storage=storage, study_name=NAME)
    study.sampler = optuna.samplers.GridSampler(study.user_attrs["space"])
    return study


def prepare(url: str, cells: int, seeds: int) -> None:
    open_study(url, {"cell": list(range(cells)), "seed": list(range(seeds))})


def count(url: str, cells: int, seeds: int) -> dict[str, int]:
    trials = open_study(url).get_trials(deepcopy=False)
    results: Counter[tuple[int, int]] = Counter()
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            cell, seed = trial.params["cell"], trial.params["seed"]
            assert trial.value == value_of(cell, seed)
            results[cell, seed] += 1
    return {
        "lost": cells * seeds - len(results),
        "twice": sum(number > 1 for number in results.values()),
        "zombies": sum(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials),
    }


def work(url: str, folder: Path, num_trials: int | None = None) -> None:
    logging.getLogger("optuna").setLevel(logging.WARNING)
    study = open_study(url)

    def objective(trial: optuna.Trial) -> float:
        space = study.user_attrs["space"]
        cell = trial.suggest_categorical("cell", space["cell"])
        seed = trial.suggest_categorical("seed", space["seed"])
        place = folder / "runs" / f"{cell}-{seed}"
        run = Counting(cell, seed, place, place)
        for step in steps(run):
            save(run, step)
        return value_of(cell, seed)

    launcher = multiprocessing.parent_process()
    assert launcher is not None
    is_orphan = threading.Event()

    def follow() -> None:
        wait([launcher.sentinel])
        is_orphan.set()

    threading.Thread(target=follow, daemon=True).start()
    # As our workers do: without a launcher they end the run at hand and leave.
    study.optimize(
        objective, n_trials=num_trials, callbacks=[lambda s, trial: s.stop() if is_orphan.is_set() else None]
    )


def launch(url: str, folder: Path) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.storm_optuna"])
    run_all(context, url, folder, WORKERS, None)
    for _ in range(3):
        time.sleep(LEASE_S + 2)
        left = patiently(url)
        if not left:
            break
        run_all(context, url, folder, 1, left)
    return 0


def patiently(url: str) -> int:
    """How many trials wait once stale ones are failed and queued again; the server may be restarting."""
    for _ in range(60):
        try:
            study = open_study(url)
            fail_stale_trials(study)
            return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        except SQLAlchemyError:
            time.sleep(1)
    raise TimeoutError("the database did not come back")


def run_all(context: Any, url: str, folder: Path, num_workers: int, num_trials: int | None) -> None:
    """Until `num_workers` processes have ended well; one that does not is started again."""
    processes = [context.Process(target=work, args=(url, folder, num_trials)) for _ in range(num_workers)]
    for process in processes:
        process.start()
    while processes:
        wait([process.sentinel for process in processes], 0.3)
        for process in list(processes):
            if process.is_alive():
                continue
            processes.remove(process)
            if process.exitcode:
                processes.append(context.Process(target=work, args=(url, folder, num_trials)))
                processes[-1].start()
