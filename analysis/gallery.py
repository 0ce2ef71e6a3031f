"""Draw pictures from what runs kept: `python -m analysis.gallery name=vjepa_masks`.

Needs neither torch nor the runs' folders: the arrays are in the database. The same database gives the same bytes.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from analysis import gallery_drawing, pictures
from analysis.pictures import RunPictures
from analysis.sheets import GALLERY
from sweeps.db import mask_url, open_database

USER_ERROR = 2
FOLDER = Path("figures") / "gallery"  # under results_dir: apart from the figures of studies
_WIDTH = max(map(len, GALLERY)) + 2
HELP = f"""usage: python -m analysis.gallery name=NAME [key=value ...]

Draw a picture (SVG, PNG) from the clips, masks and reconstructions that runs kept.

{chr(10).join(f"  name={name:{_WIDTH}}{picture.summary}" for name, picture in GALLERY.items())}
  name=all                                each of them

  study=NAME        the study whose runs are shown (default: the one of the picture's own name, in studies/gallery)
  cell=ROW/COLUMN   only these of its cells, several as a,b
  seed=0            the runs' seed (default: the smallest that is done)
  run=12            these runs instead of a study's, several as 12,15
  clips=0           which of the clips that a run kept (at most 8), several as 0,3
  db=sqlite:///results/ablations.sqlite   where the runs are recorded
  results_dir=results                     figures/gallery/ is written in it
  check=false                             true: write nothing; exit 1 naming every file that differs

example: python -m analysis.gallery name=mae_st_reconstructions study=masking_ratio cell=0.9/long,0.95/long
"""


@dataclass(frozen=True)
class Options:
    """What the command line may say."""

    name: str = ""
    study: str = ""
    cell: str = ""
    seed: str = ""
    run: str = ""
    clips: str = ""
    db: str = "sqlite:///results/ablations.sqlite"
    results_dir: str = "results"
    check: str = "false"

    def names(self) -> list[str]:
        """Raises ValueError naming what is allowed."""
        names = list(GALLERY) if self.name == "all" else self.name.split(",")
        for name in names:
            if name not in GALLERY:
                close = difflib.get_close_matches(name, GALLERY)
                hint = f" (did you mean {' or '.join(close)}?)" if close else ""
                raise ValueError(f"name={name}: no such picture{hint}; allowed: {', '.join(GALLERY)}, all")
        if len(names) > 1 and (self.study or self.run):
            raise ValueError(f"study= and run= go with one name, got name={self.name}")
        return names


def contents(engine: Engine, name: str, options: Options) -> dict[str, bytes]:
    """The files of one picture by their path under the results folder: a pure function of the database."""
    runs = find(engine, name, options)
    picture = GALLERY[name]
    kept = min(len(run.clips) for run in runs)
    clips = whole_numbers("clips", options.clips) or list(range(min(picture.num_clips, kept)))
    for clip in clips:
        if clip >= kept:
            raise ValueError(f"clips={clip}: these runs kept clips 0 to {kept - 1}")
    files = gallery_drawing.images(picture.build(name, runs, clips))
    return {str(FOLDER / f"{name}.{suffix}"): content for suffix, content in files.items()}


def find(engine: Engine, name: str, options: Options) -> list[RunPictures]:
    results_dir = Path(options.results_dir)
    with engine.connect() as connection:
        if options.run:
            if options.study or options.cell:
                raise ValueError(f"run={options.run}: give run= or study= and cell=, not both")
            return pictures.of_runs(connection, whole_numbers("run", options.run), results_dir)
        cells = options.cell.split(",") if options.cell else []
        seeds = whole_numbers("seed", options.seed)
        seed = seeds[0] if seeds else None
        return pictures.of_study(connection, options.study or name, results_dir, cells=cells, seed=seed)


def whole_numbers(key: str, text: str) -> list[int]:
    words = text.split(",") if text else []
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"{key} must be a whole number, or several as 0,3, got {text!r}")
    return [int(word) for word in words]


# ---- command line ----------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> Options:
    """Raises ValueError naming the argument and what is allowed."""
    fields = list(Options.__dataclass_fields__)
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not of the form key=value; options: {', '.join(fields)}")
        if key not in fields:
            raise ValueError(f"{key}: unknown option; options: {', '.join(fields)}")
        if key in values:
            raise ValueError(f"{key} is given twice")
        values[key] = value
    if values.get("check", "false") not in ("true", "false"):
        raise ValueError(f"check must be true or false, got {values['check']!r}")
    if not values.get("name"):
        raise ValueError(f"name is missing; allowed: {', '.join(GALLERY)}, all")
    return Options(**values)


def run(options: Options) -> int:
    """Write or check; the exit code."""
    names = options.names()
    engine = open_database(options.db, read_only=True)
    try:
        files = {path: content for name in names for path, content in contents(engine, name, options).items()}
    except DBAPIError as error:  # of an older schema, which has no such table, or no database of ours
        reason = " ".join(str(error.orig).split())
        raise ValueError(
            f"db={mask_url(options.db)}: cannot be read ({reason}); launch a study with it first"
        ) from None
    finally:
        engine.dispose()
    differing = []
    for name, content in files.items():
        path = Path(options.results_dir) / name
        is_same = path.is_file() and path.read_bytes() == content
        if options.check == "true":
            differing += [] if is_same else [f"{path}: {'differs' if path.is_file() else 'missing'}"]
        elif not is_same:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(content)
            temporary.replace(path)
    if options.check == "true":
        print("\n".join(differing) or f"{options.results_dir}: these pictures are what the database gives")
        return 1 if differing else 0
    print("\n".join(str(Path(options.results_dir) / name) for name in files))
    return 0


def main(arguments: Sequence[str]) -> int:
    if any(argument in ("--help", "-h", "help") for argument in arguments):
        print(HELP)
        return 0
    try:
        return run(parse(arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
