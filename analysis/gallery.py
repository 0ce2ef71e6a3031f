"""Draw pictures from what runs kept: `python -m analysis.gallery name=vjepa_masks`.

Needs neither torch nor the runs' folders: the arrays are in the database. The same database gives the same bytes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from analysis import files
from analysis.pictures import drawing, kept
from analysis.pictures.kept import DecodedPictures, FlowPictures, Kept, NoPictures, RunPictures, TrackPictures
from analysis.pictures.motion_sheets import flow_fields, propagation
from analysis.pictures.sheets import Sheet, blocks, decodings, reconstructions, samplings
from sweeps import cli
from sweeps.cli import Arguments
from sweeps.console.errors import UserError, close_matches
from sweeps.console.url import mask_url

FOLDER = Path("figures") / "gallery"  # under results_dir: apart from the figures of studies


@dataclass(frozen=True)
class Picture:
    """A picture that can be asked for by name."""

    summary: str
    build: Callable[[str, Sequence[Any], Sequence[int]], Sheet]  # from runs of `kind`
    num_clips: int  # shown where `clips=` does not say
    kind: type[Kept] = RunPictures


GALLERY = {
    "mae_st_reconstructions": Picture(
        "original, masked, reconstruction at 90 % and 95 % (MAE-ST Figures 2, 3, 7)", reconstructions, 1
    ),
    "mae_st_masks": Picture("agnostic, space-only, time-only, block-wise (MAE-ST Figure 4)", samplings, 1),
    "ijepa_masks": Picture("context and targets of images (I-JEPA Figure 4)", blocks, 5),
    "ijepa_rcdm": Picture(
        "what is decoded of predictions and features (I-JEPA Figures 6 to 8)", decodings, 4, DecodedPictures
    ),
    "vjepa_masks": Picture("short- and long-range masks, blocks of three sizes (V-JEPA Figures 2, 6)", samplings, 1),
    "mc_jepa_flow": Picture(
        "flow and truth in colour, the frames, one moved onto the other (MC-JEPA Figures 3, 8)",
        flow_fields,
        2,
        FlowPictures,
    ),
    "mc_jepa_segmentation": Picture(
        "objects of a first frame, followed by frozen features (MC-JEPA Figures 4, 9)", propagation, 1, TrackPictures
    ),
}
_WIDTH = max(map(len, GALLERY)) + 2
USAGE = f"""usage: python -m analysis.gallery name=NAME [key=value ...]

Draw a picture (SVG, PNG) from the clips, masks, reconstructions, flow and followed objects that runs kept.

{chr(10).join(f"  name={name:{_WIDTH}}{picture.summary}" for name, picture in GALLERY.items())}
  name=all                                each that the database has runs for; the others are named

  study=NAME        the study whose runs are shown (default: the one of the picture's own name, in studies/gallery)
  cell=ROW/COLUMN   only these of its cells, several as a,b
  seed=0            the runs' seed (default: the smallest that is done)
  run=12            these runs instead of a study's, several as 12,15
  clips=0           which of the clips that a run kept (at most 8), several as 0,3
  db=sqlite:///results/ablations.sqlite   where the runs are recorded
  results_dir=results                     figures/gallery/ is written in it; what is asked for is in the file's name
  check=false                             true: write nothing; exit 1 naming every file that differs

example: python -m analysis.gallery name=mae_st_reconstructions study=masking_ratio cell=0.9/long,0.95/long"""


OPTIONS = ("name", "study", "cell", "seed", "run", "clips", "db", "results_dir", "check")


def asked_names(arguments: Arguments) -> list[str]:
    """The pictures that `name=` asks for. Raises UserError naming what is allowed."""
    text = arguments.text("name", "")
    if not text:
        raise UserError(f"name is missing; allowed: {', '.join(GALLERY)}, all")
    names = list(GALLERY) if text == "all" else text.split(",")
    for name in names:
        if name not in GALLERY:
            hint = close_matches(name, GALLERY)
            raise UserError(f"name={name}: no such picture{hint}; allowed: {', '.join(GALLERY)}, all")
    if len(names) > 1 and (arguments.text("study", "") or arguments.text("run", "")):
        raise UserError(f"study= and run= go with one name, got name={text}")
    return names


def contents(engine: Engine, name: str, arguments: Arguments) -> dict[str, bytes]:
    """The files of one picture by their path under the results folder: a pure function of the database."""
    runs = find(engine, name, arguments)
    picture = GALLERY[name]
    kept = min(run.num_kept for run in runs)
    clips = whole_numbers(arguments, "clips") or list(range(min(picture.num_clips, kept)))
    for clip in clips:
        if clip >= kept:
            raise UserError(f"clips={clip}: these runs kept clips 0 to {kept - 1}")
    images = drawing.images(picture.build(name, runs, clips))
    return {str(FOLDER / f"{stem(name, arguments)}.{suffix}"): content for suffix, content in images.items()}


def stem(name: str, arguments: Arguments) -> str:
    """A picture's file name: what was asked for with it is in it, so that no picture is written over another."""
    study = arguments.text("study", "") or name
    found = study if study.partition("@")[0] == name else f"{name}-{study}"
    for option in ("cell", "seed", "run", "clips"):
        if text := arguments.text(option, ""):
            found += f"-{option if option != 'cell' else ''}{text}"
    return re.sub(r"[^\w.@-]+", "_", found)


def contents_of_all(engine: Engine, arguments: Arguments) -> tuple[dict[str, bytes], list[str]]:
    """The files of each picture of the gallery that has runs, and for each other one a line that says what makes them.

    Raises NoPictures where none of them has.
    """
    found: dict[str, bytes] = {}
    left_out = []
    for name in GALLERY:
        try:
            found |= contents(engine, name, arguments)
        except NoPictures as error:
            left_out.append(f"left out: {name}: {error}")
    if not found:
        raise NoPictures("\n".join(["name=all: no picture has runs in this database", *left_out]))
    return found, left_out


def find(engine: Engine, name: str, arguments: Arguments) -> list[Kept]:
    kind = GALLERY[name].kind
    results_dir = arguments.path("results_dir", "results")
    study, cell = arguments.text("study", ""), arguments.text("cell", "")
    run_ids, seeds = whole_numbers(arguments, "run"), whole_numbers(arguments, "seed")
    with engine.connect() as connection:
        if run_ids:
            if study or cell:
                raise UserError(f"run={arguments.text('run', '')}: give run= or study= and cell=, not both")
            return kept.of_runs(connection, run_ids, results_dir, kind)
        cells = cell.split(",") if cell else []
        return kept.of_study(
            connection, study or name, results_dir, kind, cells=cells, seed=seeds[0] if seeds else None
        )


def whole_numbers(arguments: Arguments, name: str) -> list[int]:
    text = arguments.text(name, "")
    words = text.split(",") if text else []
    found = [cli.as_whole(word) for word in words]
    if any(number is None or not 0 <= number <= cli.LARGEST for number in found):
        raise UserError(f"{name} must be a whole number, or several as 0,3, got {text!r}")
    return list(dict.fromkeys(number for number in found if number is not None))


# ---- command line ----------------------------------------------------------------------------------------------------


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    is_check, names = arguments.flag("check"), asked_names(arguments)
    results_dir = arguments.path("results_dir", "results")
    engine = cli.open_for_reading(arguments)
    try:
        if arguments.text("name", "") == "all":
            found, left_out = contents_of_all(engine, arguments)
        else:
            found = {path: content for name in names for path, content in contents(engine, name, arguments).items()}
            left_out = []
    except DBAPIError as error:  # of an older schema, which has no such table, or no database of ours
        reason = " ".join(str(error.orig).split())
        raise UserError(f"db={mask_url(engine.url)}: cannot be read ({reason}); launch a study with it first") from None
    finally:
        engine.dispose()
    if left_out:
        print("\n".join(left_out), file=sys.stderr)
    if is_check:
        if left_out:
            print(f"{len(GALLERY) - len(left_out)} of {len(GALLERY)} pictures checked")
        return files.report(files.differences(found, results_dir), results_dir)
    print("\n".join(map(str, files.write(found, results_dir))))
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
