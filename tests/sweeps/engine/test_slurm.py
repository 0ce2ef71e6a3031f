"""`executor=slurm` on a real Slurm of one node, and what is said where there is none."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, func, select, update

from core.configuring.config import flatten, identity, load
from sweeps import launch, query, status
from sweeps.console.errors import INTERRUPTED, OK
from sweeps.database import registering
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import Attempt, Result, RunRow
from sweeps.engine import queue, slurm
from sweeps.engine.executors import Ended, Job
from sweeps.engine.queue import Usage
from sweeps.engine.slurm.options import Options
from sweeps.engine.slurm.pilot import Pilot
from tests.lab import lab as lab
from tests.sweeps.conftest import emptied
from tests.sweeps.counting import FUNCTIONS, NUM_STEPS, outcomes, states
from tests.sweeps.installed import missing
from tests.sweeps.postgres import PostgresServer
from tests.sweeps.slurm_cluster import SlurmCluster, missing_programs

pytestmark = pytest.mark.timeout(900)  # a pilot's imports take seconds, or minutes where the cores are taken
ROOT = Path(__file__).parents[3]
TINY = {
    "title": "Hidden share",
    "question": "How much should be hidden?",
    "base": {"method": "mae", "evals": ["ridge"], "data.num_train": 48, "data.num_test": 32, "optim.steps": 150},
    "rows": [{"key": "half", "set": {"mask.ratio": 0.5}}, {"key": "most", "set": {"mask.ratio": 0.75}}],
    "seeds": [0, 1],
    "metrics": ["ridge/{label}_top1"],
}


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[SlurmCluster]:
    if absent := missing_programs():
        missing(f"Slurm is not installed, no {absent[0]} (Debian: apt-get install slurm-wlm munge)")
    # Not below pytest's temporary folder: munge wants a socket that everybody could reach.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def cluster(shared_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, empty before and after, with this process's commands (and its jobs') going to it."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, shared_cluster.environment[name])
    monkeypatch.chdir(ROOT)  # jobs start where they were submitted, and import tests.sweeps.counting
    shared_cluster.resume_node()
    yield shared_cluster
    shared_cluster.run("scancel", "--user", str(os.getuid()))
    shared_cluster.wait_until(lambda: not jobs(shared_cluster), "an empty queue")


@pytest.fixture
def job(url: str, tmp_path: Path) -> Job:
    return Job(url, tmp_path / "results", functions=FUNCTIONS)


def add(engine: Engine, *seeds: int, **config: Any) -> list[int]:
    with engine.begin() as connection:
        return registering.register(connection, [(config, seed) for seed in seeds or (0,)])


def jobs(cluster: SlurmCluster) -> list[str]:
    """The states of Slurm's jobs, an array's tasks one by one."""
    return cluster.run("squeue", "--noheader", "--array", "--format=%T").stdout.split()


def trained(job: Job, run_id: int) -> list[int]:
    return [int(word) for word in (job.results_dir / "runs" / str(run_id) / "trained").read_text().split()]


def documented(start: str, *instead: str) -> list[str]:
    """A command of docs/run_on_slurm.md, some of its options replaced; without `python -m ...` if it starts so."""
    text = (ROOT / "docs" / "run_on_slurm.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    words = shlex.split(next(line for line in lines if line.startswith(start)))
    given = {word.partition("=")[0]: word for word in instead}
    assert given.keys() <= {word.partition("=")[0] for word in words}
    words = [given.get(word.partition("=")[0], word) for word in words]
    return words[3:] if words[0] == "python" else words


def submit(job: Job, number: int = 1, **options: Any) -> str:
    return slurm.submit(Pilot(slurm.absolute(job), Options(warn_s=5, **options)), "test", number)


def logs(job: Job) -> str:
    return "\n".join(path.read_text() for path in sorted((job.results_dir / "slurm").glob("*.out")))


def wait_for(cluster: SlurmCluster, engine: Engine, job: Job, **wanted: int) -> None:
    """Until so many runs are in these states."""
    try:
        cluster.wait_until(lambda: all(states(engine)[state] == number for state, number in wanted.items()), "runs")
    except AssertionError:
        print(states(engine), outcomes(engine), jobs(cluster), logs(job), sep="\n")
        raise


# ---- on a real Slurm -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pilots_drain_the_queue_and_every_attempt_says_in_which_job(
    cluster: SlurmCluster, engine: Engine, job: Job
) -> None:
    add(engine, *range(6), step_s=0.02)
    assert slurm.slurm(job, workers=2, options=Options(warn_s=5, cpus=1)) == Ended()
    assert states(engine) == {"done": 6}
    assert outcomes(engine) == {"done": 6}
    with engine.begin() as connection:
        in_jobs = set(connection.scalars(select(Attempt.slurm_job)))
    assert in_jobs <= {f"{next(iter(in_jobs)).partition('_')[0]}_{task}" for task in range(2)}


@pytest.mark.slow
def test_a_password_is_in_no_log_script_or_command_line_of_a_job(
    cluster: SlurmCluster, postgres: PostgresServer, tmp_path: Path
) -> None:
    """submitit's pickles hold it, in a folder that only its owner may enter."""
    job = Job(f"{emptied(postgres)}&password=topsecret", tmp_path / "results", functions=FUNCTIONS)
    (job.results_dir / "slurm").mkdir(parents=True, mode=0o755)  # as somebody's umask leaves it
    engine = open_database(job.url)
    upgrade(engine)
    add(engine, *range(2), step_s=0.02)
    submit(job)
    while set(states(engine)) != {"done"}:
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # ended meanwhile
                assert b"topsecret" not in line.read_bytes()
    cluster.wait_until(lambda: not jobs(cluster), "an empty queue")
    engine.dispose()
    holding = {file for file in tmp_path.rglob("*") if file.is_file() and b"topsecret" in file.read_bytes()}
    assert {file.suffix for file in holding} <= {".pkl"}
    assert {file.parent for file in holding} <= {job.results_dir / "slurm"}
    assert (job.results_dir / "slurm").stat().st_mode & 0o077 == 0
    assert not [file for file in cluster.folder.rglob("*") if file.is_file() and b"topsecret" in file.read_bytes()]


@pytest.mark.slow
def test_a_requeued_job_gives_its_run_back_within_a_step_and_goes_on_from_there(
    cluster: SlurmCluster, engine: Engine, job: Job
) -> None:
    add(engine, step_s=0.5)
    number = submit(job)
    wait_for(cluster, engine, job, running=1)
    time.sleep(1.0)
    cluster.run("scontrol", "requeue", number)
    wait_for(cluster, engine, job, queued=1)
    wait_for(cluster, engine, job, done=1)
    assert outcomes(engine) == {"preempted": 1, "done": 1}
    assert trained(job, 1) == list(range(1, NUM_STEPS + 1))  # no step twice


@pytest.mark.slow
def test_a_job_that_is_warned_of_its_end_puts_itself_back(cluster: SlurmCluster, engine: Engine, job: Job) -> None:
    add(engine, step_s=0.5)
    number = submit(job)
    wait_for(cluster, engine, job, running=1)
    cluster.run("scancel", "--signal=USR2", number)
    wait_for(cluster, engine, job, done=1)
    assert outcomes(engine) == {"preempted": 1, "done": 1}
    assert trained(job, 1) == list(range(1, NUM_STEPS + 1))
    assert "requeued: work is left" in logs(job)


@pytest.mark.slow
def test_a_cancelled_job_gives_its_run_back_and_stays_away(cluster: SlurmCluster, engine: Engine, job: Job) -> None:
    add(engine, step_s=0.5)
    number = submit(job)
    wait_for(cluster, engine, job, running=1)
    cluster.run("scancel", number)
    cluster.wait_until(lambda: not jobs(cluster), "the end of the job")
    assert states(engine) == {"queued": 1}
    assert outcomes(engine) == {"preempted": 1}


@pytest.mark.slow
def test_a_lost_node_loses_no_run(cluster: SlurmCluster, engine: Engine, job: Job) -> None:
    add(engine, 0, 1, 2, step_s=0.5)
    submit(job, 2)
    cluster.wait_until(lambda: states(engine)["running"] > 0, "a run")
    time.sleep(1.0)
    cluster.lose_node()
    num_lost = states(engine)["running"]
    cluster.start_node()
    wait_for(cluster, engine, job, done=3)
    assert num_lost > 0
    assert outcomes(engine) == {"lost": num_lost, "done": 3}
    for run_id in (1, 2, 3):
        steps = trained(job, run_id)
        assert sorted(set(steps)) == list(range(1, NUM_STEPS + 1))
        assert len(steps) <= NUM_STEPS + 1  # at most the step it was killed in, again


@pytest.mark.slow
def test_a_node_daemon_that_restarts_leaves_its_jobs_alone(cluster: SlurmCluster, engine: Engine, job: Job) -> None:
    add(engine, step_s=0.5)
    submit(job)
    wait_for(cluster, engine, job, running=1)
    assert cluster.node is not None
    cluster.node.kill()
    cluster.node.wait()
    time.sleep(1.0)
    cluster.start_node()
    wait_for(cluster, engine, job, done=1)
    assert outcomes(engine) == {"done": 1}


@pytest.mark.slow
def test_a_pilot_leaves_the_run_that_does_not_fit_to_its_next_life(
    cluster: SlurmCluster, engine: Engine, job: Job
) -> None:
    add(engine, 0, 1, step_s=0.1)
    costly = add(engine, 2, step_s=0.1)[0]
    with engine.begin() as connection:  # another seed of it took an hour
        claim = queue.claim(connection, "earlier", seeds=[2])
        assert claim is not None and claim.run_id == costly
        queue.finish(connection, claim, "done", results={}, step=NUM_STEPS, usage=Usage(step=NUM_STEPS))
        connection.execute(
            update(Attempt).where(Attempt.run_id == costly).values(started=Attempt.heartbeat - 3600.0, slurm_job="0")
        )
    submit(job, time_min=2)
    wait_for(cluster, engine, job, done=3)
    with engine.begin() as connection:
        num_lives = connection.scalar(select(func.count(Attempt.worker.distinct())).where(Attempt.slurm_job != "0"))
    assert num_lives == 2
    assert re.search(r"the next run needs about 1\d{3} s and \d+ s are left", logs(job))  # the mean with the first
    assert outcomes(engine) == {"done": 3}


@pytest.mark.slow
def test_a_job_with_two_gpus_trains_two_runs_at_once(cluster: SlurmCluster, engine: Engine, job: Job) -> None:
    add(engine, 0, 1, step_s=1.0)
    submit(job, gpus=2)
    wait_for(cluster, engine, job, running=2)
    wait_for(cluster, engine, job, done=2)
    with engine.begin() as connection:
        assert len(set(connection.scalars(select(Attempt.slurm_job)))) == 1
        assert len(set(connection.scalars(select(Attempt.worker)))) == 2


@pytest.mark.slow
def test_two_processes_of_a_job_train_one_run_and_a_warning_gives_it_back(
    cluster: SlurmCluster, engine: Engine, url: str, tmp_path: Path
) -> None:
    words = ["method=mae", "scale=smoke", "evals=[ridge]", "precision=fp32", "optim.steps=3000"]
    with engine.begin() as connection:
        registering.register(connection, [(identity(flatten(load(words))), 0)])
    runtime = {"cache": str(tmp_path / "cache"), "device": "cpu", "checkpoint_every": 5, "log_every": 5}
    job = Job(url, tmp_path / "results", runtime=runtime, gpus_per_run=2)
    number = submit(job, gpus_per_run=2)

    def begun() -> bool:
        with engine.begin() as connection:
            return bool(connection.scalar(select(RunRow.checkpoint_step)))

    try:
        cluster.wait_until(begun, "a checkpoint")
    except AssertionError:
        print(states(engine), outcomes(engine), jobs(cluster), logs(job), sep="\n")
        raise
    cluster.run("scancel", "--signal=USR2", number)
    wait_for(cluster, engine, job, running=0)
    with engine.begin() as connection:
        attempt = connection.execute(select(Attempt.outcome, Attempt.step, Attempt.facts)).first()
        assert attempt is not None
        assert (attempt.outcome, attempt.facts["processes"]) == ("preempted", 2)
        assert connection.scalar(select(RunRow.checkpoint_step)) == attempt.step
    cluster.wait_until(lambda: states(engine)["running"] == 1, "the requeued job")
    cluster.run("scancel", number)
    cluster.wait_until(lambda: not jobs(cluster), "the end of the job")
    assert outcomes(engine)["failed"] == 0


@pytest.mark.slow
def test_a_study_goes_through_slurm_to_its_table_and_a_second_launch_adds_no_jobs(
    cluster: SlurmCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    database = f"sqlite:///{tmp_path}/sweep.sqlite"
    words = documented("python -m sweeps.launch", f"study={tmp_path}/tiny.yaml", f"db={database}", "slurm.array=2")
    words += ["scale=smoke", f"results_dir={tmp_path}/results", "slurm.extra={mem: 500M, comment: a test}"]
    command = [sys.executable, "-m", "sweeps.launch", *words]
    cluster.drain_node()  # the runs are short: jobs that had begun might be gone before they are looked for
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as first:
        cluster.wait_until(lambda: len(jobs(cluster)) == 2, "two pilots")
        first.send_signal(signal.SIGINT)
        said = first.communicate(timeout=60)[1]
    assert first.returncode == INTERRUPTED
    assert "the Slurm jobs go on without this terminal; see them: squeue --me --name=tiny-smoke-" in said
    assert "end them: scancel --me --name=tiny-smoke-" in said
    assert "runs are left, whose Slurm jobs go on; to wait for them again: python -m sweeps.launch" in said

    name = re.findall(r"--name=(\S+)", said)[-1]
    assert name[:20] in cluster.run(*documented("squeue"), "--format=%j").stdout
    cluster.resume_node()
    engine = open_database(database)
    cluster.wait_until(lambda: states(engine)["running"] > 0, "a run")
    with engine.connect() as connection:
        busy = str(connection.scalars(select(Attempt.slurm_job).where(Attempt.outcome.is_(None))).first())
    cluster.run("scontrol", "requeue", busy)
    # Slurm drains a node whose daemon finds a job's earlier life still there when it starts the next.
    cluster.wait_until(lambda: "COMPLETING" not in jobs(cluster), "the end of the requeued job's first life")
    assert cluster.node is not None
    cluster.node.kill()
    cluster.node.wait()
    cluster.start_node()
    assert launch.main(words) == OK
    output = capfd.readouterr()
    assert "| half (baseline) |" in output.out
    assert "submitted" not in output.err
    assert states(engine) == {"done": 6}
    assert outcomes(engine)["done"] == 6
    assert outcomes(engine).keys() <= {"done", "preempted", "lost"}  # lost: its node's daemon died before it was told
    with engine.begin() as connection:
        assert len(set(connection.scalars(select(Attempt.slurm_job)))) <= 2
        assert connection.scalar(select(func.count()).where(Result.metric == "ridge/digit_top1")) == 6
    assert status.main(documented("python -m sweeps.status", "study=tiny@smoke", f"db={database}")) == OK
    assert query.main(documented("python -m sweeps.query", f"db={database}")) == OK
    assert "_0" in capfd.readouterr().out
    assert list((tmp_path / "results/slurm").glob("*_*_0_log.out"))
    assert cluster.run(*documented("scancel", f"--name={name}")).returncode == 0


@pytest.mark.slow
def test_a_component_out_of_the_tree_reaches_the_jobs(
    cluster: SlurmCluster, url: str, tmp_path: Path, lab: Path
) -> None:
    rows = [{"key": "checker", "label": "chess board", "set": {"mask": "checker"}}]
    base = TINY["base"] | {"optim.steps": 2}
    study = TINY | {"plugins": ["my_lab.masks"], "base": base, "rows": rows, "seeds": [0], "random_init": False}
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(study))
    words = [f"study={tmp_path}/ours.yaml", "scale=smoke", "executor=slurm", "slurm.array=1", "slurm.cpus=1"]
    assert launch.main([*words, f"db={url}", f"results_dir={tmp_path}/results"]) == OK
    engine = open_database(url)
    assert states(engine) == {"done": 1}
    engine.dispose()


@pytest.mark.slow
def test_pilots_that_keep_dying_are_given_up_with_the_end_of_their_log(
    cluster: SlurmCluster, engine: Engine, job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "ASK_S", 0.5)
    add(engine)
    broken = replace(job, functions={"unknown": FUNCTIONS["train"]})
    assert slurm.slurm(broken, workers=1, options=Options(warn_s=5)) == Ended(gave_up=True)
    assert "3 submissions in a row ended without finishing a run" in caplog.text
    assert "unexpected keyword argument 'unknown'" in caplog.text
    assert states(engine) == {"queued": 1}


@pytest.mark.slow
def test_why_slurm_lets_a_job_wait_is_said(
    cluster: SlurmCluster, engine: Engine, job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "ASK_S", 0.5)
    caplog.set_level("INFO", logger="sweeps.engine.slurm")
    add(engine)
    watch = slurm._Watch(engine, slurm.absolute(job), Options(time_min=600), 1)  # the partition ends jobs after 60
    with engine.begin() as connection:
        left = queue.pending(connection)
    cluster.wait_until(
        lambda: watch.keep_enough(left, 0) and "1 pending (PartitionTimeLimit)" in caplog.text, "a reason"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(partition="nowhere"), "invalid partition specified: nowhere"),
        (Options(extra={"nodelist": "elsewhere"}), "Slurm does not take the job"),
    ],
)
def test_what_slurm_refuses_is_said_in_its_words(
    cluster: SlurmCluster, engine: Engine, job: Job, options: Options, message: str
) -> None:
    add(engine)
    with pytest.raises(slurm.UserError, match=message):
        slurm.slurm(job, options=options)
    assert states(engine) == {"queued": 1}
