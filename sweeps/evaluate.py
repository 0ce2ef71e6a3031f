"""Evaluate runs of a database again, with other protocols or on other data. Nothing is trained anew.

    python -m core.evaluate run=12 evals=[linear] evals.linear.num_layers=4

`core.evaluate` passes its words on to here when they name runs by id or study. Each evaluation is recorded as soon as
it is made, so the same command after a kill goes on with what is missing.
"""

from __future__ import annotations

import re
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, select

from core import terminal
from core.configuring.config import ConfigError, fingerprints
from core.running.asking import LATER, Asked, Presets, asked_of
from core.running.checkpoint import JUDGE_ON_THEM, CheckpointError
from core.running.stored import Judge, groups_read, open_stored, spec_in, told_where_data_was
from sweeps import cli
from sweeps.answers.evaluations import Made, Trained, checkpoint_folder, record, recorded, trained_runs
from sweeps.console.errors import UserError
from sweeps.console.tables import counted
from sweeps.database import aliases, seen_data
from sweeps.database.lock import DatabaseLock
from sweeps.database.opening import upgrade
from sweeps.database.tables import Environment, RunRow, insert_new
from sweeps.engine.owner import worker_name
from sweeps.engine.provenance import attempt_columns, environment

OPTIONS = ("db", "results_dir", "run", "study", "as", "plugins")
POLL_S = 0.2
NAMED = 5  # more runs of one error
USAGE = """usage: python -m core.evaluate run=12|run=1,2,3|study=NAME evals=[linear,...] [as=NAME] [key=value ...]

See `python -m core.evaluate help`."""


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


def command(words: Sequence[str]) -> int:
    """0 when every evaluation of every run is answered, 1 when one could not be made, 2 when none of any run could."""
    wrong = cli.Wrong()
    arguments = cli.parse(words, OPTIONS, overrides=LATER, wrong=wrong)
    ids, study = None, arguments.values.get("study")
    with wrong.collected():
        arguments.load_plugins()
    with wrong.collected():
        ids = run_ids(arguments.values.get("run"))
    if ids is None and study is None:  # the words that name them are misspelt or given twice
        wrong.settle()
        raise UserError("say which runs: run=12, run=1,2,3 or study=NAME")
    # Nothing is written, and no schema upgraded, for a command that is wrong.
    stored: list[Trained] = []
    with wrong.collected():
        reader = cli.open_for_reading(arguments)
        with reader.connect() as connection:
            stored = list(trained_runs(connection, ids=ids, study=study))
        reader.dispose()
    if not stored:
        wrong.settle()
    runs = [run._replace(config=aliases.migrated(run.config)) for run in stored]
    results_dir = arguments.path("results_dir", "results")
    errors: dict[int, str] = {}
    questions = {}
    for run in runs:
        try:
            questions[run.id] = asked_about(run, arguments.overrides, arguments.values.get("as"), results_dir)
        except (ConfigError, UserError) as error:
            errors[run.id] = str(error)
    if not questions or wrong.found:
        wrong.add("\n".join(told(errors) if len(runs) > 1 else errors.values()))
        wrong.settle()
    engine = cli.connect(arguments.text("db", cli.DEFAULT_DATABASE), read_only=False)
    try:
        upgrade(engine)
        aliases.apply_to(engine)
    except ValueError as error:
        raise UserError(str(error)) from None
    for run in runs:
        try:
            evaluate(engine, run, questions.get(run.id, []), results_dir, arguments.overrides)
        except (UserError, ConfigError, CheckpointError, FloatingPointError) as error:
            errors[run.id] = str(error)
    engine.dispose()
    if errors and len(runs) == 1:
        raise UserError(errors[runs[0].id])
    if not errors:
        return cli.OK
    for text in told(errors):
        print(f"error: {terminal.without_passwords(text)}", file=sys.stderr)
    print(f"{len(runs) - len(errors)} of {counted(len(runs), 'run')} evaluated; not: {', '.join(map(str, errors))}")
    return cli.USER_ERROR if len(errors) == len(runs) else cli.INCOMPLETE


def told(errors: Mapping[int, str]) -> list[str]:
    """What is wrong with runs, each thing once: by the first run that has it, and how many more do."""
    alike: dict[str, list[int]] = {}
    for run_id, text in errors.items():
        alike.setdefault(re.sub(rf"\b(run[ =]|runs/){run_id}\b", r"\1ID", text), []).append(run_id)
    lines = []
    for first, *others in alike.values():
        named = ", ".join([*map(str, others[:NAMED]), *(["..."] if len(others) > NAMED else [])])
        more = f" (so it is with {len(others)} more of these runs: {named})" if others else ""
        text = errors[first]
        lines.append(f"{text if text.startswith(f'run={first}:') else f'run={first}: {text}'}{more}")
    return lines


def run_ids(text: str | None) -> list[int] | None:
    if text is None:
        return None
    found = [cli.as_whole(part.strip()) for part in text.strip("[]").split(",")]
    if any(number is None or not 0 <= number <= cli.LARGEST for number in found):
        raise UserError(f"run must be an id or several with commas, such as run=12 or run=1,2,3, got {text!r}")
    return [number for number in found if number is not None]


def asked_about(run: Trained, overrides: Sequence[str], name: str | None, results_dir: Path) -> list[Asked]:
    """Raises ConfigError for what cannot be asked of the run."""
    presets = None if run.presets is None else Presets(*run.presets)
    with told_where_data_was(run.config, folder_of(run, results_dir), root_of(overrides)):
        return asked_of(
            run.config, run.seed, overrides, name, presets, lambda: spec_in(checkpoint_folder(run, results_dir))
        )


def root_of(overrides: Sequence[str]) -> str:
    return dict(word.partition("=")[::2] for word in overrides).get("runtime.data_root", ".")


def folder_of(run: Trained, results_dir: Path) -> Path:
    """Of its checkpoints, whether they are there or not: what is recorded is answered without them."""
    return (results_dir / run.checkpoint).parent if run.checkpoint else results_dir


def evaluate(
    engine: Engine, run: Trained, questions: Sequence[Asked], results_dir: Path, overrides: Sequence[str] = ()
) -> None:
    """Answer what is asked of one run: from the database, or by opening its checkpoint."""
    judge: Judge | None = None

    def known(asked: Asked) -> dict[str, float | None] | None:
        is_own = asked.name == asked.kind and asked.kind in run.config.get("evals", [])
        with engine.connect() as connection:
            return recorded(connection, run.id, asked.name, asked.is_answered_by, is_own=is_own)

    for asked in questions:
        with told_where_data_was(run.config, folder_of(run, results_dir), root_of(overrides)):
            data = check_data(engine, run, asked)
        found, how = known(asked), "recorded"
        if found is None:
            with alone(engine, run, asked):
                found = known(asked)  # by whoever was waited for
                if found is None:
                    judge = judge or Judge(open_stored(asked.run, checkpoint_folder(run, results_dir)), questions)
                    print(f"{asked.said} (run {run.id})", flush=True)
                    found, how = make(engine, run, judge, asked, data), "made"
        for metric, value in sorted(found.items()):
            shown = "not finite" if value is None else f"{value:.3f}"
            print(f"run {run.id:<6d} {metric:48s} {shown:>12s}  {how}", flush=True)


def check_data(engine: Engine, run: Trained, asked: Asked) -> dict[str, str]:
    """The fingerprints of what an evaluation reads. Raises UserError where the run, or others judged so, saw other."""
    data = fingerprints(asked.run, groups=groups_read(asked.run))
    with engine.connect() as connection:
        config_id = connection.scalar(select(RunRow.config_id).where(RunRow.id == run.id))
        assert config_id is not None
        before = seen_data.recorded(connection, seen_data.beside(connection, config_id))
        for name, values in seen_data.judged_before(connection, asked.settings).items():
            before[name] |= values
    own = seen_data.of_config(run.config, {"data": data["data"]} if "data" in data else {})
    seen_data.refuse_other(before, [own], instead=JUDGE_ON_THEM)
    instead = "" if asked.run.eval_data is not None else JUDGE_ON_THEM
    seen_data.refuse_other(before, [seen_data.of_config(asked.settings, data)], group="eval_data", instead=instead)
    return data


@contextmanager
def alone(engine: Engine, run: Trained, asked: Asked) -> Iterator[None]:
    """While no other process makes this evaluation of this run. Who is killed at it is not waited for."""
    lock = DatabaseLock(engine, "evaluation", zlib.crc32(f"{run.id} {asked.name}".encode()) & 0x7FFFFFFF)
    try:
        if not lock.take():
            print(f"{asked.name} (run {run.id}): another process is making it; waiting", flush=True)
            while not lock.take():
                time.sleep(POLL_S)
        yield
    finally:
        lock.close(tidy=True)  # two at once would only do the work twice: the first result stays


def make(engine: Engine, run: Trained, judge: Judge, asked: Asked, data: Mapping[str, str]) -> dict[str, float | None]:
    """Make one evaluation and record it."""
    try:
        answer = judge.answer(asked)
    except ValueError as error:
        raise UserError(f"run={run.id}: {asked.name}: {error}") from error
    columns = attempt_columns(asked.run.runtime.device)
    del columns["slurm_job"]
    seen = environment()
    made = Made(answer.results, answer.step, answer.costs._asdict(), {**columns, "worker": worker_name()}, data)
    with engine.begin() as connection:
        insert_new(connection, Environment, [{"hash": seen.hash, "packages": seen.packages}])
        record(connection, run.id, asked.name, asked.settings, made)
    return dict(answer.results)


if __name__ == "__main__":
    sys.exit(main())
