"""What is asked of Slurm, and what is said when that cannot be: with commands that only pretend to be Slurm's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, func, select

from sweeps import launch
from sweeps.console.errors import USER_ERROR, UserError
from sweeps.database import registering
from sweeps.database.opening import open_database
from sweeps.database.tables import StudyRow
from sweeps.engine import queue, slurm
from sweeps.engine.executors import Ended, Job
from sweeps.engine.slurm import options as slurm_options
from sweeps.engine.slurm import pilot as slurm_pilot
from sweeps.engine.slurm.options import Options
from tests.sweeps import installed
from tests.sweeps.test_launch import TINY

Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The only folder on the PATH: Slurm's four commands, doing nothing unless told to (lines of shell)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(**commands: str) -> Path:
        for name in slurm_options.COMMANDS:
            (folder / name).write_text(f"#!/bin/sh\n{commands.get(name, '')}\n")
            (folder / name).chmod(0o755)
        return folder

    return make


@pytest.fixture
def queued(engine: Engine, url: str, tmp_path: Path) -> Job:
    """Work of five runs."""
    with engine.begin() as connection:
        registering.register(connection, [({}, seed) for seed in range(5)])
    return Job(url, tmp_path / "results")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slurm.partion=a"], r"slurm.partion: unknown option \(did you mean partition\?\); options: slurm.partition,"),
        (["slurm.partition="], "slurm.partition needs a value"),
        (["slurm.gpus=1", "slurm.gpus=2"], "slurm.gpus is given twice: 1 and 2"),
        (["slurm.gpus=two"], "slurm.gpus must be a whole number of at least 0, got 'two'"),
        (["slurm.time_min=0"], "slurm.time_min must be a whole number of at least 1, got '0'"),
        (["slurm.time_min=2", "slurm.warn_s=120"], r"slurm.warn_s must be below slurm.time_min \(2 min\), got 120 s"),
        (["slurm.gpus=2", "slurm.gpus_per_run=2"], "slurm.gpus=2 gives each GPU a run of its own"),
        (["slurm.gpus_per_run=3", "slurm.nodes=2"], "slurm.gpus_per_run=3 cannot be spread evenly over slurm.nodes=2"),
        (["slurm.nodes=2"], "slurm.gpus_per_run=1 cannot be spread evenly over slurm.nodes=2"),
        (["slurm.extra={nodes: 2}"], "slurm.extra: nodes is slurm.nodes"),
        (["slurm.extra=mem"], "slurm.extra must be a mapping such as .*, got 'mem'"),
        (["slurm.extra={time: 5}"], "slurm.extra: time is slurm.time_min"),
        (["slurm.extra={job_name: x}"], "slurm.extra: job-name is set by the launcher"),
        (["slurm.extra={--mem: 1G}"], "slurm.extra: '--mem' is no long option of sbatch"),
        (["slurm.extra={mem: [1]}"], r"slurm.extra: mem must be text, a number or true, got \[1\]"),
    ],
)
def test_a_wrong_option_is_refused_by_name(fake: Fake, words: list[str], message: str) -> None:
    fake()
    with pytest.raises(UserError, match=message):
        slurm_options.parse(words)


def test_options_reach_sbatch_under_its_own_names(fake: Fake, queued: Job, tmp_path: Path) -> None:
    fake(sbatch=f'/bin/cat "$1" > {tmp_path}/script; echo Submitted batch job 7')
    words = ["slurm.partition=long", "slurm.time_min=90", "slurm.gpus=2", "slurm.cpus=8", "slurm.warn_s=60"]
    options, pilots = slurm_options.parse([*words, "slurm.array=3", "slurm.extra={account: vision, mem_per_cpu: 4G}"])
    assert pilots == 3
    assert slurm.submit(slurm_pilot.Pilot(queued, options), "name", pilots) == "7"
    script = (tmp_path / "script").read_text().splitlines()
    wanted = ["partition=long", "time=90", "gpus-per-node=2", "ntasks-per-node=2", "cpus-per-task=8", "signal=USR2@60"]
    wanted += ["array=0-2%3", "account=vision", "mem-per-cpu=4G", "job-name=name", "open-mode=append"]
    assert {f"#SBATCH --{option}" for option in [*wanted, "requeue"]} <= set(script)
    assert any("srun" in line and "--cpus-per-task=8" in line for line in script)


def test_the_gpus_of_a_run_are_spread_over_nodes_and_the_worker_is_one_task(
    fake: Fake, queued: Job, tmp_path: Path
) -> None:
    fake(sbatch=f'/bin/cat "$1" > {tmp_path}/script; echo Submitted batch job 7')
    options, _ = slurm_options.parse(["slurm.gpus_per_run=8", "slurm.nodes=2"])
    slurm.submit(slurm_pilot.Pilot(queued, options), "name", 1)
    script = (tmp_path / "script").read_text().splitlines()
    assert {f"#SBATCH --{option}" for option in ("nodes=2", "gpus-per-node=4", "ntasks-per-node=4")} <= set(script)
    assert any("srun" in line and "--nodes=1 --ntasks=1" in line for line in script)
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4"} <= set(options.starter())


def test_only_the_owner_may_read_what_holds_the_databases_password(fake: Fake, queued: Job) -> None:
    fake(sbatch="echo Submitted batch job 7")
    slurm.submit(slurm_pilot.Pilot(queued, Options()), "name", 1)
    assert (queued.results_dir / "slurm").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("alive", "workers", "gpus", "submitted"),
    [
        ("", 4, 0, "0-3%4"),
        ("'PENDING (Priority)' 'RUNNING (None)'", 4, 0, "0-1%2"),
        ("", 9, 0, "0-4%5"),
        ("", 9, 2, "0-2%3"),
    ],
)
def test_as_many_pilots_are_submitted_as_the_work_keeps_busy_less_those_there_are(
    fake: Fake, queued: Job, engine: Engine, tmp_path: Path, alive: str, workers: int, gpus: int, submitted: str
) -> None:
    fake(
        squeue=f'for pilot in {alive}; do echo "$pilot"; done',
        sbatch=f'/bin/cat "$1" > {tmp_path}/script; echo Submitted batch job 7',
    )
    watch = slurm._Watch(engine, queued, Options(gpus=gpus), workers)
    with engine.begin() as connection:
        left = queue.pending(connection)
    assert watch.keep_enough(left, 0)
    assert f"#SBATCH --array={submitted}" in (tmp_path / "script").read_text().splitlines()


def test_none_are_submitted_while_enough_are_there(fake: Fake, queued: Job, engine: Engine, tmp_path: Path) -> None:
    fake(squeue="echo PENDING; echo RUNNING", sbatch=f"touch {tmp_path}/submitted")
    watch = slurm._Watch(engine, queued, Options(), 2)
    with engine.begin() as connection:
        assert watch.keep_enough(queue.pending(connection), 0)
    assert not (tmp_path / "submitted").exists()


def test_the_same_work_has_the_same_name_and_other_work_another(queued: Job) -> None:
    name = slurm.job_name(queued, "ratio@scale,optim.steps=1")
    assert name.startswith("ratio-scale-optim.steps-1-")  # squeue takes a comma for the end of a name
    assert slurm.job_name(queued, "ratio@scale,optim.steps=1") == name
    assert slurm.job_name(replace(queued, seeds=[7]), "ratio@scale,optim.steps=1") != name


def test_where_work_lies_does_not_depend_on_the_folder_a_job_starts_in(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    job = slurm.absolute(Job("sqlite:///results/a.sqlite", Path("results")))
    assert job.url == f"sqlite:///{tmp_path}/results/a.sqlite"
    assert job.results_dir == tmp_path / "results"
    assert slurm.absolute(Job("postgresql://me:secret@host/x", Path("r"))).url == "postgresql://me:secret@host/x"


def test_slurm_is_not_asked_where_nothing_is_left(fake: Fake, engine: Engine, url: str, tmp_path: Path) -> None:
    fake(squeue="exit 1", sbatch="exit 1")
    assert slurm.slurm(Job(url, tmp_path / "results"), workers=1) == Ended()


@pytest.mark.parametrize(
    ("commands", "words", "message"),
    [
        ({}, ["workers=2", "executor=slurm"], "workers: with executor=slurm say slurm.array=N"),
        ({}, ["slurm.gpus=1"], "slurm.gpus=1 is for executor=slurm, this is executor=local"),
        (None, ["executor=slurm"], "executor=slurm: sbatch is not on the PATH of "),
        (
            {"sbatch": "echo 'sbatch: error: invalid partition specified: a' >&2; exit 1"},
            ["executor=slurm", "slurm.partition=a"],
            "Slurm does not take the job: sbatch: error: invalid partition specified: a",
        ),
        ({"sbatch": "echo hello"}, ["executor=slurm"], "Slurm does not take the job: Could not make sense of sbatch"),
        ({"squeue": "exit 1"}, ["executor=slurm"], "executor=slurm: squeue fails on this machine"),
    ],
)
def test_a_launch_that_slurm_cannot_serve_is_an_error_of_the_user(
    fake: Fake, tmp_path: Path, monkeypatch: Any, capsys: Any,
    commands: dict[str, str] | None, words: list[str], message: str,
) -> None:  # fmt: skip
    if commands is not None:
        fake(**commands)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(tmp_path)
    assert launch.main(["study=tiny.yaml", "scale=smoke", *words]) == USER_ERROR
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_launch_that_no_controller_answers_registers_nothing(fake: Fake, tmp_path: Path, monkeypatch: Any) -> None:
    fake(squeue="exit 1")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(tmp_path)
    assert launch.main(["study=tiny.yaml", "scale=smoke", "executor=slurm"]) == USER_ERROR
    opened = open_database("sqlite:///results/ablations.sqlite", read_only=True)
    with opened.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(StudyRow)) == 0
    opened.dispose()


def test_a_missing_program_skips_a_test_here_and_fails_it_on_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no sbatch"):
        installed.missing("no sbatch")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no sbatch; on CI nothing is skipped"):
        installed.missing("no sbatch")
