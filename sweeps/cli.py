"""What the commands of this package share: key=value arguments, and mistakes answered by one line and exit code 2."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from core import plugin_source, terminal
from sweeps.cells.expand import expand_checked
from sweeps.cells.request import Request, by_rule
from sweeps.console.errors import INCOMPLETE as INCOMPLETE
from sweeps.console.errors import INTERRUPTED as INTERRUPTED
from sweeps.console.errors import OK as OK
from sweeps.console.errors import USER_ERROR as USER_ERROR
from sweeps.console.errors import UserError as UserError
from sweeps.console.errors import close_matches as close_matches
from sweeps.console.limits import AUTO_STACK as AUTO_STACK
from sweeps.console.limits import LARGEST as LARGEST
from sweeps.console.limits import MOST_STACKED
from sweeps.console.limits import as_whole as as_whole
from sweeps.console.offered import DEFAULT_DATABASE as DEFAULT_DATABASE
from sweeps.console.offered import DEFAULT_RESULTS, Place
from sweeps.console.tables import console as console
from sweeps.console.tables import duration as duration
from sweeps.console.url import mask_url
from sweeps.database import views
from sweeps.database.opening import connect as connect
from sweeps.database.opening import is_absent as is_absent
from sweeps.database.opening import newest_revision, open_database, refuse_newer, revision, upgrade
from sweeps.study.files import StudyError
from sweeps.study.model import DEFAULT_SCALE, SCALES, Study, instance_name
from sweeps.study.overrides import ROOTS
from sweeps.study.reading import read
from sweeps.study.seed_rule import parse_rule

FOLDERS = ("results_dir", "to", "from", "folder", "runtime.cache", "check_paper", "multirun", "metrics")


@dataclass(frozen=True)
class Arguments:
    """The ``key=value`` words of a command line, and the words that are overrides of every cell."""

    values: dict[str, str]
    overrides: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()  # names of options that were given, and not so that they could be taken

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

    def plugins(self) -> tuple[str, ...]:
        """``plugins=[my_lab.masks]``: modules of components out of the tree."""
        try:
            return tuple(plugin_source.names_in(self.values.get("plugins", "")))
        except ValueError as error:
            raise UserError(str(error)) from None

    def load_plugins(self) -> None:
        """Import what ``plugins=`` names. Raises UserError for a module that is missing or fails."""
        if not (names := self.plugins()):
            return
        # It imports torch, which commands that only read do without.
        from core.configuring.config import ConfigError, load_plugins

        try:
            load_plugins(names)
        except ConfigError as error:
            raise UserError(str(error)) from None

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


class Wrong:
    """What is wrong with a command line and the study that it names, to be told at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, message: object) -> None:
        self.found += str(message).split("\n")  # of a study file, one mistake a line below its name

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """What is wrong here is told by `settle`, so that the rest is looked at too."""
        try:
            yield
        except (UserError, StudyError) as error:
            self.add(error)

    def settle(self) -> None:
        """Raises one UserError of all that was found."""
        if self.found:
            raise UserError("\n".join(dict.fromkeys(self.found)))


def parse(
    arguments: Sequence[str], allowed: Sequence[str], *, overrides: Sequence[str] = (), wrong: Wrong | None = None
) -> Arguments:
    """The arguments by name. Where `overrides` are what options of a run may begin with, such words are taken as well:
    also those that begin with what other runs' options do, which the command itself refuses and says why.

    Raises UserError for a word without "=", an option given twice or without a value, and an unknown one, all at once;
    where `wrong` is given they are added to it, and left out.
    """
    found = Wrong() if wrong is None else wrong
    if (repeated := terminal.given_twice(arguments)) is not None:
        found.add(repeated)
    values: dict[str, str] = {}
    taken, strange, shapeless, scale = list[str](), list[str](), list[str](), None
    others = f", and what begins with {', '.join(overrides)}" if overrides else ""
    for word in terminal.given_once(arguments):
        name, equals, value = word.partition("=")
        if not equals or not name:
            shapeless.append(word)
        elif name in allowed:
            if not value.strip():  # as a path it would be the folder that one stands in
                found.add(f"{name}= has no value; give one, or leave the word out")
            else:
                values[name] = value
        elif overrides and name.split(".")[0] in ROOTS:
            taken.append(word)
        elif name == "scale" and "study" in allowed and not overrides:
            scale = value
        else:
            strange.append(name)
    if shapeless:
        verb = "is" if len(shapeless) == 1 else "are"
        said = f"{', '.join(map(repr, shapeless))} {verb} not of the form key=value"
        dashed = next((word for word in shapeless if word.lstrip("-") in allowed and word.startswith("-")), None)
        meant = f" ({dashed.lstrip('-')}=VALUE, not {dashed} VALUE)" if dashed else ""
        found.add(f"{said}{meant}; options: {', '.join(allowed)}{others}")
    if strange:
        of_table = ""
        if "study" in allowed and not overrides and "name" in strange:
            of_table = "; a table is called by its scale and its name: study=NAME@SCALE,NAME"
        beside, is_open = f"{others}{of_table}", bool(overrides)
        found.add(terminal.unknown_options(strange, allowed, near=overrides, beside=beside, is_open=is_open))
    if scale is not None:
        at_scale(values, scale, found)
    if wrong is None:
        found.settle()
    return Arguments(values, tuple(taken), tuple(name for name in values_given(arguments) if name not in values))


def at_scale(values: dict[str, str], scale: str, wrong: Wrong) -> None:
    """Call a study by the name that its table has at `scale`; what is wrong with either is added to `wrong`."""
    name = values.get("study")
    if scale not in SCALES:
        wrong.add(f"scale must be one of {', '.join(SCALES)}, got {scale!r}{close_matches(scale, SCALES)}")
    elif name is None or name == "all" or "@" in name or "," in name:
        wrong.add(f"scale={scale}: goes with one study of a file, study=NAME; a table is called study=NAME@SCALE,NAME")
    else:
        values["study"] = instance_name(name, scale)


def values_given(words: Sequence[str]) -> list[str]:
    """The names of the options among `words`, each once."""
    return list(dict.fromkeys(name for name, equals, _ in (word.partition("=") for word in words) if equals))


def asked_at_once(name: str, arguments: Arguments, wrong: Wrong) -> Request | None:
    """`asked` of the study called `name`; what is wrong with either is added to `wrong`.

    Where the file has mistakes but rows that can be read, these are looked at too; None where nothing can be asked.
    """
    study: Study | None = None
    try:
        study = read(name)
    except StudyError as error:
        wrong.add(error)
        study = error.rest
    plain, num_wrong = Arguments({}), len(wrong.found)
    with wrong.collected():
        arguments.choice("scale", SCALES, DEFAULT_SCALE)
        plain = Arguments(
            {k: v for k, v in arguments.values.items() if k in ("scale", "name", "plugins")}, arguments.overrides
        )
    is_at_scale = len(wrong.found) == num_wrong and "scale" not in arguments.refused
    with wrong.collected():
        arguments.seeds() if arguments.seed_rule() is None else None
        plain = arguments
    if study is None or not is_at_scale:
        return None
    request: Request | None = None
    with wrong.collected():
        request = asked(study, plain)
    return request


def refuse_all(wrong: Wrong, requests: Sequence[Request | None]) -> None:
    """Raises UserError of all that was found `wrong`, if anything was, with what core says of the studies' cells."""
    for request in filter(None, requests if wrong.found else []):
        with wrong.collected():
            expand_checked(request)
    wrong.settle()


def asked(study: Study, arguments: Arguments) -> Request:
    """What the command line asks of a study: scale, seeds, name, and overrides."""
    scale, rule = arguments.choice("scale", SCALES, DEFAULT_SCALE), arguments.seed_rule()
    seeds = arguments.seeds() if rule is None else None
    in_file = study.seeds_spec(scale)
    study = study if rule is None else by_rule(study, scale, rule)
    return Request(
        study=study,
        scale=scale,
        overrides=tuple(word for word in arguments.overrides if not word.startswith("runtime.")),
        seeds=tuple(seeds or ()),
        name=arguments.text("name", ""),
        runtime=tuple(word for word in arguments.overrides if word.startswith("runtime.")),
        typed_plugins=arguments.plugins(),
        seeds_in_file=in_file,
    )


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
            stands = revision(connection)
            is_older = stands not in (None, *views.ALIKE, newest_revision())
    except ValueError as error:
        raise UserError(str(error)) from None
    except DBAPIError as error:  # a file that is no database opens, and fails at the first question
        reason = " ".join(str(error.orig).split())
        raise UserError(f"db={mask_url(engine.url)}: cannot be read: {reason}") from None
    if is_older and (engine.dialect.name != "sqlite" or is_live):
        engine.dispose()
        raise UserError(f"db={mask_url(engine.url)}: of an older schema; launch a study with it first")
    if stands == views.WITHOUT and engine.dialect.name == "sqlite":
        _lend_views(engine)
    return _upgraded_copy(engine) if is_older else engine


def _lend_views(engine: Engine) -> None:
    """Views on the connections of a read-only engine to an SQLite file that has none, which stays as it is."""

    @event.listens_for(engine, "engine_connect")
    def lend(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA query_only = OFF")  # it forbids temporary views too
        for name, query in views.VIEWS.items():
            driver.execute(f"CREATE TEMPORARY VIEW IF NOT EXISTS {name} AS {query}")
        driver.execute("PRAGMA query_only = ON")


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
