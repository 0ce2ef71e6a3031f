"""Evaluate a trained run again, with other protocols or on other data. Nothing is trained anew.

    python -m core.evaluate run=12 evals=[linear] evals.linear.num_layers=4
    python -m core.evaluate runtime.dir=runs/first evals=[attentive] eval_data=moving_digits

With `run=` (ids of a database's runs, see `sweeps.evaluate`) or `study=` results are recorded in the database. With
`runtime.dir=`, the folder of a run that `core.train` made, they go to ``evaluations.json`` in it. Either way an
evaluation that is recorded with the same settings is answered from there, so a command that was killed goes on where
it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core import terminal
from core.configuring.config import ConfigError, fingerprints
from core.configuring.layers import collected, refuse
from core.file_lock import locked
from core.handing_over import NotInstalled, hand_over
from core.running import checkpoint
from core.running.asking import Asked, Presets, asked_of, misspelt
from core.running.checkpoint import CheckpointError, other_data
from core.running.stored import Answer, Judge, groups_read, open_stored, refuse_replaced, told_where_data_was
from core.types import DataError, DataSpec

USAGE = """usage: python -m core.evaluate run=12|run=1,2,3|study=NAME evals=[linear,...] [key=value ...]
       python -m core.evaluate runtime.dir=runs/first evals=[linear,...] [key=value ...]

Evaluates trained runs from their newest checkpoints; what is recorded with the same settings is not repeated.

  run=ID[,ID...]      runs of the database; study=NAME: all done runs of a study
  runtime.dir=FOLDER  instead: a run of python -m core.train
  evals=[...]         which evaluations (default: the run's own); evals.linear.num_layers=4 and so on: their options
                      (default: the run's own, or for an evaluation it does not have, its method's and its scale's)
  eval_data=...       judge on another data set; eval_data.path=... and so on: its options
  as=NAME             call the metrics linear@NAME/... (default: linear@ and the options that are not the default)
  plugins=[my_lab.evals]    modules out of this tree that register evaluations or data sets (the run's own are known)
  db=... results_dir=results    where the runs are
  runtime.device=auto runtime.threads=0 runtime.cache=.cache    where and how to compute"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every evaluation is answered, 1 when one failed, 2 for a mistake in the command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return terminal.answered(lambda: command(words))


def command(words: Sequence[str]) -> int:
    if any(word in ("-h", "--help", "help") for word in words):
        print(USAGE)
        return 0
    try:
        by_id = [word for word in words if word.startswith(("run=", "study="))]
        folders = [word for word in words if word.startswith("runtime.dir=")]
        if by_id and folders:
            raise ConfigError(f"{by_id[0]} and {folders[0]} both say which run: give one of them")
        if by_id:
            return int(hand_over("core.evaluate", words))
        return in_folder(words)
    except (ConfigError, CheckpointError, DataError, NotInstalled) as error:
        print(f"error: {terminal.without_passwords(str(error))}", file=sys.stderr)
        return terminal.USER_ERROR
    except OSError as error:
        given = dict(word.partition("=")[::2] for word in words)
        places = {
            "runtime.cache": Path(given.get("runtime.cache", ".cache")),
            "runtime.dir": Path(given["runtime.dir"]),
        }
        if terminal.is_of_output(error) or (at_fault := terminal.blamed(error, places)) is None:
            raise
        print(f"error: {at_fault}", file=sys.stderr)
        return terminal.USER_ERROR


def in_folder(words: Sequence[str]) -> int:
    """Evaluate the run whose folder `runtime.dir` names; results into its ``evaluations.json``."""
    wrong = [repeated] if (repeated := terminal.given_twice(words)) is not None else []
    once = terminal.given_once(words)
    if not any(word.startswith("runtime.dir=") for word in words):
        wrong += misspelt(once)
        wrong.append("say which run: run=12 (of a database), study=NAME, or runtime.dir=FOLDER (of core.train)")
        refuse(wrong[:1] if repeated else wrong)
    given = dict(word.partition("=")[::2] for word in words)
    folder = Path(given["runtime.dir"]).expanduser()
    past = past_in(folder)
    overrides = [word for word in once if not word.startswith("as=")]
    record = folder / "evaluations.json"
    judge: Judge | None = None
    data_root = given.get("runtime.data_root", ".")
    with collected(wrong), told_where_data_was(past.config, folder, data_root):
        questions = asked_of(
            past.config, past.seed, overrides, given.get("as"), presets_in(folder), spec_then=lambda: past.spec
        )
    refuse(wrong)
    for asked in questions:
        with told_where_data_was(past.config, folder, data_root):
            data = fingerprints(asked.run, groups=groups_read(asked.run))
            refuse_replaced(folder, past.saw, data, is_own_set=is_of_one_set(past.config, asked.settings))
        found = recorded(record, asked, data)
        if found is None:
            print(asked.said)
            judge = judge or Judge(open_stored(asked.run, folder), questions)
            try:
                answer = judge.answer(asked)
            except (ValueError, FloatingPointError) as error:
                raise ConfigError(f"{asked.name}: {error}") from error
            found = append(record, asked, answer, data)
        show(found["results"])
    return 0


class Past(NamedTuple):
    """What a folder tells of its run."""

    config: dict[str, Any]  # flat
    seed: int
    saw: dict[str, str]  # fingerprints of its data, by group; empty: unknown
    spec: DataSpec | None  # of the data it was trained on; None: unknown


def past_in(folder: Path) -> Past:
    """The run whose checkpoint or result is in `folder`."""
    found = checkpoint.newest(folder)
    if found is not None:
        state = found[1]
        config, saw, spec = json.loads(state["config"]), state.get("data", {}), checkpoint.data_spec(state)
    elif (folder / "result.json").exists():  # a run of no steps has no checkpoint
        result = parsed(folder / "result.json")
        config, saw, spec = result["config"], result.get("data", {}), None
    else:
        raise CheckpointError(
            f"runtime.dir={folder}: no checkpoint and no result.json in it; train the run first: python -m core.train"
        )
    flat = {key: value for key, value in config.items() if key not in ("seed", "method", "scale")}
    return Past(flat, int(config["seed"]), saw, spec)


def presets_in(folder: Path) -> Presets | None:
    """What the run in `folder` was made from, where its ending has written it there."""
    path = folder / "result.json"
    config = parsed(path)["config"] if path.exists() else {}
    return Presets(config["method"], config["scale"]) if config.get("method") and config.get("scale") else None


def recorded(path: Path, asked: Asked, data: Mapping[str, str]) -> dict[str, Any] | None:
    """What `path` holds for these settings. Raises ConfigError when the name stands for others, or when what was judged
    there on the set of this name had another fingerprint than it has in `data`."""
    entries = read(path)
    for entry in entries:
        before = entry.get("data", {}).get("eval_data")
        if before != (now := data.get("eval_data", before)) and is_of_one_set(entry["settings"], asked.settings):
            instead = "name the new ones: eval_data.version=WORD"
            raise ConfigError(other_data(f"{path} has {entry['name']}", "eval_data", before, now, instead))
    for entry in entries:
        if asked.is_answered_by(entry["settings"]):
            return entry
        if entry["name"] == asked.name:
            raise ConfigError(taken(asked))
    return None


def is_of_one_set(settings: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether two evaluations name the same data, with the same options."""
    return all(settings.get(key) == others.get(key) for key in {*settings, *others} if key.startswith("eval_data"))


def taken(asked: Asked) -> str:
    return f"{asked.name} is recorded with other settings; give this evaluation a name of its own: as=NAME"


def append(path: Path, asked: Asked, answer: Answer, data: Mapping[str, str]) -> dict[str, Any]:
    entry = {
        "name": asked.name,
        "settings": asked.settings,
        "results": answer.results,
        "costs": answer.costs._asdict(),
        "step": answer.step,
        "data": dict(data),
    }
    with locked(path.parent):  # another command may have just ended, with other evaluations of this run
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps([*read(path), entry], indent=1), encoding="utf-8")
        temporary.replace(path)
    return entry


def read(path: Path) -> list[dict[str, Any]]:
    return list(parsed(path)) if path.exists() else []


def parsed(path: Path) -> Any:
    """Raises ConfigError for a file that is not JSON: nothing of ours writes half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be read ({reason}); restore it, or move it away") from error


def show(results: Mapping[str, float]) -> None:
    for name, value in sorted(results.items(), key=lambda one: (one[0].startswith("cost/"), one[0])):
        print(f"{name:44s} {value:12.3f}")


if __name__ == "__main__":
    sys.exit(main())
