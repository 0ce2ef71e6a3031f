"""The commands that messages and pages offer: to be typed as they stand, so they name the database that was read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeps.console.url import mask_url

DEFAULT_DATABASE = "sqlite:///results/ablations.sqlite"
DEFAULT_RESULTS = "results"
_OFFERED = re.compile(r"python -m ((?:sweeps|analysis|core)\.\w+)\b(?! --help)")
_WITH_RESULTS = (
    "sweeps.launch", "sweeps.worker", "sweeps.decode", "sweeps.export_encoder", "core.evaluate", "analysis.report",
    "analysis.gallery",
)  # fmt: skip
_SQLITE = "sqlite:///"
_WITHOUT_DATABASE = ("analysis.study_index", "core.train", "core.weights")


@dataclass(frozen=True)
class Place:
    """Where runs are recorded and results written, as somebody typed it."""

    db: str = DEFAULT_DATABASE
    results_dir: str = DEFAULT_RESULTS

    @classmethod
    def typed(cls, words: Sequence[str]) -> Place:
        """What `db=` and `results_dir=` among the words of a command line say."""
        given = {name: value for name, equals, value in (word.partition("=") for word in words) if equals}
        db, results_dir = given.get("db", DEFAULT_DATABASE), given.get("results_dir", DEFAULT_RESULTS)
        # However the default's file and folder are spelled: the same report has the same bytes.
        return cls(
            DEFAULT_DATABASE if _is_same(db.removeprefix(_SQLITE), DEFAULT_DATABASE.removeprefix(_SQLITE)) else db,
            DEFAULT_RESULTS if _is_same(results_dir, DEFAULT_RESULTS) else results_dir,
        )

    def words(self, module: str) -> list[str]:
        """What a command of `module` needs to be about this place, quoted for a shell; nothing at the defaults."""
        if module in _WITHOUT_DATABASE:
            return []
        found = [f"db={mask_url(self.db)}"] if self.db != DEFAULT_DATABASE else []
        if self.results_dir != DEFAULT_RESULTS and module in _WITH_RESULTS:
            found.append(f"results_dir={self.results_dir}")
        return [shlex.quote(word) for word in found]

    def command(self, module: str, *words: str) -> str:
        """`python -m module` with these words, quoted, here."""
        return " ".join(["python -m", module, *map(shlex.quote, words), *self.words(module)])

    def complete(self, text: str) -> str:
        """A message whose commands name no place, with each of them naming this one."""
        return _OFFERED.sub(lambda found: " ".join([found[0], *self.words(found[1])]), text)


HERE = Place()  # the defaults, which a command need not name


def repeated(module: str, words: Sequence[str]) -> str:
    """A command as it was typed, its place in it; the password of a database is not said again."""
    safe = [f"db={mask_url(word[3:])}" if word.startswith("db=") else word for word in words]
    return f"python -m {module} {shlex.join(safe)}"


def _is_same(path: str, other: str) -> bool:
    return Path(path).absolute() == Path(other).absolute()
