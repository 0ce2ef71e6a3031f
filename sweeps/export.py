"""Studies with their results as one SQLite file, a capsule; and a capsule's content back into a database.

    python -m sweeps.export to=capsule.sqlite study=masking_ratio
    python -m sweeps.export from=capsule.sqlite db=sqlite:///results/ablations.sqlite

Both directions are one merge: a run is the same run in both databases when config, seed and code epoch are. What the
destination has is never changed, so merging again, or two capsules that overlap, adds nothing twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sweeps import cli
from sweeps.cells.capsule import SAME, _study_names, read_capsule, write_capsule
from sweeps.console.errors import UserError, no_such_study
from sweeps.console.url import mask_url
from sweeps.database import seen_data
from sweeps.database.opening import upgrade

USAGE = """usage: python -m sweeps.export to=FILE [study=NAME|all] [series=true] [db=sqlite:///results/ablations.sqlite]
       python -m sweeps.export from=FILE [db=...]

  to=FILE      write studies with their configs, results, curves, costs and printed values into one SQLite file;
               a file that is there already is added to
  from=FILE    add a capsule's studies and finished runs to the database
  study        one, several as a,b, or all (default)
  runtime.same_data=[NOW-BEFORE]   the capsule's files of fingerprint NOW count as those of BEFORE
  series       false leaves the curves out: tables need only results

Tables from a capsule alone: python -m analysis.report db=sqlite:///capsule.sqlite results_dir=offline
Merging never changes what is there: finished runs stay, runs being trained are left alone, and a study that differs
keeps the destination's cells. Evaluations and pictures made later of a finished run are added to it. Pictures' arrays
go with their runs; checkpoints are files and stay where they are."""

OPTIONS = ("to", "from", "study", "series", "db", SAME)


# ---- command line ----------------------------------------------------------------------------------------------------


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    to, source = arguments.values.get("to"), arguments.values.get("from")
    if (to is None) == (source is None):
        raise UserError("say to=FILE to write a capsule, or from=FILE to read one")
    url, given = arguments.text("db", cli.DEFAULT_DATABASE), SAME in arguments.values
    if source is not None:
        database = cli.connect(url, read_only=False)
        upgrade(database)
        merged = read_capsule(
            arguments.path("from"), database, seen_data.typed([f"{SAME}={arguments.text(SAME, '')}"] * given)
        )
        print(f"{source} -> {mask_url(url)}: {merged.sentence()}")
    else:
        database = cli.open_for_reading(arguments)
        path = arguments.path("to")
        with database.connect() as connection:
            known = _study_names(connection)
        asked = arguments.text("study", "all")
        studies = known if asked == "all" else list(dict.fromkeys(asked.split(",")))
        for name in studies:
            if name not in known:
                raise UserError(no_such_study(name, known))
        if path.is_dir():
            raise UserError(f"to={path}: is a folder; give a file in it, such as {path / 'capsule.sqlite'}")
        cli.writable_folder(str(path.parent), "to")
        path.parent.mkdir(parents=True, exist_ok=True)
        with_series = arguments.choice("series", ("true", "false"), "true") == "true"
        merged = write_capsule(database, path, studies, with_series=with_series)
        print(f"{mask_url(url)} -> {path}: {merged.sentence()}; {path.stat().st_size / 1e6:.1f} MB")
    database.dispose()
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
