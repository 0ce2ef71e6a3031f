"""Configurations written by older code, brought to today's keys, so that a new option does not orphan old runs.

    python -m sweeps.aliases apply [db=sqlite:///results/ablations.sqlite]

What they are called today is `sweeps.database.aliases`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sweeps import cli
from sweeps.console.errors import UserError
from sweeps.console.tables import counted
from sweeps.database.aliases import MIGRATIONS, apply_to
from sweeps.database.opening import upgrade

USAGE = """usage: python -m sweeps.aliases apply|list [db=sqlite:///results/ablations.sqlite]

  apply    rename old options in the stored configs; runs, results and studies stay. Launching does this by itself
  list     the migrations this program knows, oldest first

Safe to repeat. A half-trained run of a migrated config begins again, as its checkpoint is of the old one."""


def command(words: Sequence[str]) -> int:
    if not words or words[0] not in ("apply", "list"):
        raise UserError("say apply or list; `python -m sweeps.aliases --help` shows how")
    arguments = cli.parse(words[1:], ("db",))
    if words[0] == "list":
        print("\n".join(migration.name for migration in MIGRATIONS) or "no migrations: no option has changed its name")
        return cli.OK
    url = arguments.text("db", cli.DEFAULT_DATABASE)
    if cli.is_absent(url):
        raise UserError(f"db={url}: there is no such file")
    engine = cli.connect(url, read_only=False)
    try:
        upgrade(engine)
        print(f"{counted(apply_to(engine), 'config')} migrated")
    except ValueError as error:
        raise UserError(str(error)) from None
    finally:
        engine.dispose()
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
