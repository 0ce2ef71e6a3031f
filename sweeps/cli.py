"""What the commands of this package share: key=value arguments, and mistakes answered by one line and exit code 2."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from sweeps import terminal
from sweeps.db import mask_url, newest_revision, open_database, refuse_newer, revision, upgrade
from sweeps.offered import DEFAULT_DATABASE as DEFAULT_DATABASE
from sweeps.offered import DEFAULT_RESULTS, Place
from sweeps.seed_rule import parse_rule
from sweeps.study_files import StudyError, close_matches

OK, INCOMPLETE, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
LARGEST = 2**63 - 1  # that a database holds
AUTO_STACK, MOST_STACKED = 0, 64  # of stack=
FOLDERS = ("results_dir", "to", "from", "folder", "runtime.cache", "check_paper", "multirun", "metrics")


class UserError(ValueError):
    """Something that whoever typed the command can mend; the message says how."""


@dataclass(frozen=True)
class Arguments:
    """The ``key=value`` words of a command line, and the words that are overrides of every cell."""

    values: dict[str, str]
    overrides: tuple[str, ...] = ()

    def text(self, name: str, default: str) -> str:
        return self.values.get(name, default)

    def path(self, name: str, default: str = "") -> Path:
        """The file or folder; `~` is the home folder, which a shell puts in only where a word begins with it."""
        return Path(self.text(name, default)).expanduser()

    def whole(self, name: str, default: int, *, least: int, most: int = LARGEST) -> int:
        text = self.values.get(name)
        if text is None:
            return default
        value = as_whole(text)
        if value is None or value < least:
            raise UserError(f"{name} must be a whole number of at least {least}, got {text!r}")
        if value > most:
            raise UserError(f"{name} must be a whole number of at most {most}, got {text!r}")
        return value

    def number(self, name: str, default: float, *, above: float) -> float:
        text = self.values.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not above < value < float("inf"):
            raise UserError(f"{name} must be a number above {above:g}, got {text!r}")
        return value

    def flag(self, name: str) -> bool:
        return self.choice(name, ("true", "false"), "false") == "true"

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        text = self.values.get(name, default)
        if text not in allowed:
            raise UserError(f"{name} must be one of {', '.join(allowed)}, got {text!r}{close_matches(text, allowed)}")
        return text

    def seeds(self) -> list[int] | None:
        """``seeds=[0,1,2]``, or None where the study says which."""
        text = self.values.get("seeds")
        if text is None:
            return None
        try:
            seeds = yaml.safe_load(text)
        except yaml.YAMLError:
            seeds = text
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            seeds = [seeds]
        is_list = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
        if not is_list or not seeds or len(set(seeds)) != len(seeds):
            raise UserError(
                f"seeds must be a list of different whole numbers in [0, 2**63) such as [0,1,2], got {text!r}"
            )
        return list(seeds)

    def stack(self) -> int:
        """``stack=``: the most runs of one shape that a worker trains together, AUTO_STACK for as many as fit; or 1."""
        text = self.text("stack", "1")
        if text == "auto":
            return AUTO_STACK
        if not text.isdecimal() or not 1 <= int(text) <= MOST_STACKED:
            raise UserError(f"stack must be auto or a whole number in [1, {MOST_STACKED}], got {text!r}")
        return int(text)

    def seed_rule(self) -> dict[str, Any] | None:
        """``seeds={start: 3, until: decided, max: 12}``; None where seeds are a list, or the study says which."""
        text = self.values.get("seeds", "")
        if not text.lstrip().startswith("{"):
            return None
        try:
            rule = yaml.safe_load(text)
            if not isinstance(rule, dict):
                raise ValueError(f"seeds must be a rule such as {{start: 3, until: decided, max: 12}}, got {text!r}")
            parse_rule(rule, "seeds")
        except yaml.YAMLError:
            raise UserError(
                f"seeds must be a list such as [0,1,2] or a rule such as {{start: 3, until: decided, max: 12}}, "
                f"got {text!r}"
            ) from None
        except ValueError as error:
            raise UserError(str(error)) from None
        return rule


def as_whole(text: str) -> int | None:
    """The whole number that `text` is; None where it is none."""
    try:
        return int(text) if text.removeprefix("-").isdecimal() else None
    except ValueError:  # of thousands of digits
        return None


def parse(arguments: Sequence[str], allowed: Sequence[str], *, takes_overrides: bool = False) -> Arguments:
    """The arguments by name. With `takes_overrides`, words that are no option of the command override every cell.

    Raises UserError for a word without "=", an option given twice or without a value and, where overrides are not
    taken, an unknown one.
    """
    if (repeated := terminal.given_twice(arguments)) is not None:
        raise UserError(repeated)
    values: dict[str, str] = {}
    overrides = []
    for word in arguments:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UserError(f"{word!r} is not of the form key=value; options: {', '.join(allowed)}")
        if name in allowed:
            if not value.strip():  # as a path it would be the folder that one stands in
                raise UserError(f"{name}= has no value; give one, or leave the word out")
            values[name] = value
        elif takes_overrides:
            overrides.append(word)
        else:
            raise UserError(f"{name}: unknown option{close_matches(name, allowed)}; options: {', '.join(allowed)}")
    return Arguments(values, tuple(overrides))


def open_for_reading(arguments: Arguments, *, is_live: bool = False) -> Engine:
    """The database that `db=` names, which must exist, with this program's tables where it has any.

    An older program's SQLite file, an archived capsule say, is read through an upgraded copy and stays as it is; not
    where `is_live`, as a copy would show nothing new. Raises UserError, the URL without its password, where the tables
    are a newer program's (they would be misread) or an older one's that is not copied.
    """
    engine = connect(arguments.text("db", DEFAULT_DATABASE), read_only=True)
    try:
        with engine.connect() as connection:
            refuse_newer(connection)
            is_older = revision(connection) not in (None, newest_revision())
    except ValueError as error:
        raise UserError(str(error)) from None
    except DBAPIError as error:  # a file that is no database opens, and fails at the first question
        reason = " ".join(str(error.orig).split())
        raise UserError(f"db={mask_url(engine.url)}: cannot be read: {reason}") from None
    if is_older and (engine.dialect.name != "sqlite" or is_live):
        engine.dispose()
        raise UserError(f"db={mask_url(engine.url)}: of an older schema; launch a study with it first")
    return _upgraded_copy(engine) if is_older else engine


def _upgraded_copy(engine: Engine) -> Engine:
    """A read-only engine on a temporary copy of an SQLite database at this program's schema, which goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="ablations-")
    url = f"sqlite:///{folder.name}/copy.sqlite"
    writable = open_database(url)
    with engine.connect() as source, writable.connect() as copy:
        driver, target = source.connection.driver_connection, copy.connection.driver_connection
        assert driver is not None and target is not None
        driver.backup(target)
    engine.dispose()
    upgrade(writable)
    writable.dispose()
    opened = open_database(url, read_only=True)
    event.listen(opened, "engine_disposed", lambda _: folder.cleanup())
    return opened


def connect(url: str, *, read_only: bool) -> Engine:
    try:
        return open_database(url, read_only=read_only)
    except ValueError as error:
        raise UserError(str(error)) from None


def is_absent(url: str) -> bool:
    """Whether the database is a file that is not there yet."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return False  # opening it will say what is wrong
    return parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists()


def writable_folder(path: str, name: str) -> Path:
    """The folder, once it is sure that it can be made and written to; leaves nothing behind when it cannot."""
    folder = Path(path).expanduser()
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(f"{name}={path}: {existing} is a file; give a folder")
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".write_test-"):  # a name of its own: others probe too
            pass
    except OSError as error:
        raise UserError(f"{name}={path}: {existing} cannot be written to: {error.strerror}; give another") from None
    return folder


class _Table(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # `run` knows what it means; the original ends the program with code 1


def console() -> Console:
    """For tables: as wide as the terminal, or wide enough to cut nothing where the output goes to a file or a pipe."""
    found = _Table()
    return found if found.is_terminal else _Table(width=240)


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`; a dash for None."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def run(command: Callable[[Sequence[str]], int], arguments: Sequence[str] | None, usage: str) -> int:
    """`command`'s exit code; a mistake of the user becomes one line on stderr and exit code 2, never a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return terminal.answered(lambda: _answer(command, words, usage))


def _answer(command: Callable[[Sequence[str]], int], words: list[str], usage: str) -> int:
    if any(word in ("-h", "--help", "help") for word in words):
        print(usage)
        return OK
    place = Place.typed(words)
    try:
        return command(words)
    except (UserError, StudyError) as error:
        # A message from deep inside does not know which database was asked; the words here do.
        reason = place.complete(str(error))
    except DBAPIError as error:
        reason = f"db={mask_url(place.db)}: the database refused: {' '.join(str(error.orig).split())}"
    except OSError as error:
        given = {"results_dir": DEFAULT_RESULTS} | dict(word.partition("=")[::2] for word in words)
        folders = {name: Path(given[name]) for name in FOLDERS if given.get(name)}
        if terminal.is_of_output(error) or (at_fault := terminal.blamed(error, folders)) is None:
            raise
        reason = at_fault
    print(f"error: {terminal.without_passwords(reason)}", file=sys.stderr)
    return USER_ERROR
