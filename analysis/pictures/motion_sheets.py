"""Pictures of motion as data: flow in colour beside the truth, and objects followed from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb

from analysis.pictures.flow_colour import coloured, legend, moved_back
from analysis.pictures.kept import Flow, FlowPictures, Objects, Pixels, TrackPictures
from analysis.pictures.sheets import HIDDEN, MAX_COLUMNS, Line, Sheet, Tile, note, rgb, spread
from sweeps.console.errors import UserError

SHARE = 0.6  # of an object's colour in its pixels
# Neither water nor leaves nor skin have these: magenta, yellow, violet, cyan, vermilion, light green.
OBJECT_COLORS = ("#F0218C", "#FFE600", "#7B2BFF", "#00E5E5", "#FF5A1F", "#9CFF57")
_COLUMNS = ("frame 1", "frame 2", "truth", "flow", "moved", "wheel")


def flow_fields(name: str, runs: Sequence[FlowPictures], clips: Sequence[int]) -> Sheet:
    """For each pair a line a run: both frames, the true flow, the run's, and the second frame moved back by it.

    The lines of a pair share the colours' scale, that of its longest true flow (or estimate, where no truth is known).
    """
    _same(name, [(run, (run.frames, run.truth)) for run in runs])
    lines: list[Line] = []
    lengths = []
    for pair in clips:
        known = runs[0].valid[pair]
        shown = [runs[0].truth[pair]] if known.any() else [run.flow[pair] for run in runs]
        largest = max(float(np.hypot(*flow.astype(np.float64)).max()) for flow in shown) or 1.0
        lengths.append(f"{largest:.2g}")
        for run in runs:
            error = run.error(pair)
            first, second = (rgb(frame) for frame in run.frames[pair])
            tiles = [
                first, second, _known(run.truth[pair], known, largest), coloured(run.flow[pair], largest),
                moved_back(second, run.flow[pair]),
            ]  # fmt: skip
            if not lines:
                tiles.append(_wheel(first))
            label = run.label + ("" if error is None else f"\nEPE {error:.2f} px")
            starts_group = bool(lines) and run is runs[0] and len(runs) > 1
            lines.append(Line(label, tuple(map(Tile, tiles)), starts_group=starts_group))
    scale = " and ".join(dict.fromkeys(lengths))
    legend_text = (
        f"Flow: hue its direction, pale short, full colour {scale} px, darker beyond. Moved: frame 2 moved back onto "
        "frame 1 by the flow; grey: from outside the frame, or truth that is not known"
    )
    return Sheet(name, _COLUMNS, tuple(lines), note(runs, legend_text))


def propagation(name: str, runs: Sequence[TrackPictures], clips: Sequence[int]) -> Sheet:
    """For each video its frames with the true objects, and a line a run with those that it followed."""
    _same(name, [(run, tuple(run.frames)) for run in runs])
    lines: list[Line] = []
    most = 0
    for video in clips:
        places = spread(range(len(runs[0].times[video])), MAX_COLUMNS)
        most = max(most, len(places))
        frames = [rgb(runs[0].frames[video][place]) for place in places]
        truth = [painted(f, runs[0].objects[video][i]) for f, i in zip(frames, places, strict=True)]
        lines.append(Line("truth", tuple(map(Tile, truth)), starts_group=bool(lines)))
        for run in runs:
            tiles = [painted(f, run.followed[video][i]) for f, i in zip(frames, places, strict=True)]
            lines.append(Line(run.label, tuple(map(Tile, tiles))))
    times = runs[0].times[clips[0]]
    columns = tuple(f"t = {times[place] + 1}" for place in spread(range(len(times)), MAX_COLUMNS))
    columns += ("",) * (most - len(columns))
    legend_text = "Each object has a colour; the objects of the first frame are given, grey is not counted"
    return Sheet(name, columns, tuple(lines), note(runs, legend_text))


def painted(frame: Pixels, objects: Objects) -> Pixels:
    """`frame` [H, W, 3] with each object of `objects` [H, W] in a colour of its own."""
    shown = frame.astype(np.float64)
    for number in np.unique(objects[objects != 0]):
        colour = HIDDEN if number < 0 else 255 * np.array(to_rgb(OBJECT_COLORS[(int(number) - 1) % len(OBJECT_COLORS)]))
        place = objects == number
        shown[place] = (1 - SHARE) * shown[place] + SHARE * np.asarray(colour)
    return np.round(shown).astype(np.uint8)


def _known(truth: Flow, valid: np.ndarray, largest: float) -> Pixels:
    tile = coloured(truth, largest)
    tile[~valid] = HIDDEN
    return tile


def _wheel(like: Pixels) -> Pixels:
    """The colours of all directions, in the middle of a tile of that size."""
    height, width = like.shape[:2]
    tile, size = np.full((height, width, 3), 255, np.uint8), min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    tile[top : top + size, left : left + size] = legend(size)
    return tile


def _same(name: str, parts: Sequence[tuple[FlowPictures | TrackPictures, tuple[np.ndarray, ...]]]) -> None:
    """Raises UserError where the lines of one picture would show different frames."""
    (first, arrays), *others = parts
    for run, other in others:
        if len(other) != len(arrays) or not all(map(np.array_equal, other, arrays)):
            raise UserError(f"name={name}: runs {first.run_id} and {run.run_id} are not on the same frames")
