"""Pictures from a database that holds nothing but their arrays."""

import hashlib
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from analysis import gallery
from analysis.pictures import drawing, motion_sheets, sheets
from analysis.pictures.flow_colour import OUTSIDE, coloured
from analysis.pictures.kept import (
    DecodedPictures,
    FlowPictures,
    NoPictures,
    RunPictures,
    TrackPictures,
    of_runs,
    of_study,
)
from analysis.pictures.motion_sheets import OBJECT_COLORS
from sweeps.cli import Arguments
from sweeps.database.tables import Artifact, Blob, RunRow

STUDY = {
    "title": "Masks",
    "question": "Which?",
    "rows": [
        {"key": "a", "label": "half", "set": {"mask.ratio": 0.5}},
        {"key": "b", "label": "most", "set": {"mask.ratio": 0.75}},
    ],
    "random_init": False,
    "seeds": [0, 1],
    "metrics": ["mask/context_share"],
}
GRID = (2, 2, 2)


def packed(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def arrays(ratio, *, views=1, clips=2, shared=False, painted=1):
    """Two slices of 2 x 2 patches of 4 px; every (1 / (1 - ratio))-th patch is context."""
    pixels = np.random.default_rng(0).integers(0, 255, (clips, 4, 8, 8, 3), dtype=np.uint8)
    context = np.zeros((clips, views, 8), dtype=bool)
    context[..., :: round(1 / (1 - ratio))] = True
    made = np.full((painted, views, 4, 8, 8, 3), 7, np.uint8)
    masks = {
        "grid": np.array(GRID),
        "context": context,
        "target": ~context,
        "kind": np.zeros(views, int),
        "shares": np.zeros(views, int) if shared else np.arange(views),
        "reconstruction": made,
        "frames": np.arange(4) if painted else np.zeros(0, int),
    }
    return packed(clips=pixels), packed(**masks)


def keep(laboratory, run_id, clips, masks, *, inline=True, **more):
    with Session(laboratory.engine) as session, session.begin():
        for name, content in ({"clips.npz": clips, "masks.npz": masks} | more).items():
            digest = hashlib.sha256(content).hexdigest()
            if inline and session.get(Blob, digest) is None:
                session.add(Blob(sha256=digest, content=content))
            uri = f"runs/{run_id}/{name}"
            session.add(
                Artifact(
                    run_id=run_id, attempt=1, name=name, uri=uri, sha256=digest, bytes=len(content), kind="picture"
                )
            )


def motion(estimate, *, pairs=2):
    """Pairs of 8 x 12 px whose truth is one px to the right; the estimate is `estimate` px; and two followed videos."""
    frames = np.random.default_rng(1).integers(0, 255, (pairs, 2, 8, 12, 3), dtype=np.uint8)
    truth = np.zeros((pairs, 2, 8, 12), np.float16)
    truth[:, 0] = 1
    valid = np.ones((pairs, 8, 12), dtype=bool)
    valid[:, 0] = False
    objects = np.zeros((3, 8, 12), np.int8)
    objects[:, 2:4, 2:4], objects[:, 0, 0] = 2, -1
    videos = {
        f"{name}_{i}": v for i in range(2) for name, v in (("frames", frames[:1, [0, 1, 0]][0]), ("objects", objects))
    }
    times = {f"times_{i}": np.array([0, 5, 10]) for i in range(2)}
    return {
        "pairs.npz": packed(frames=frames, truth=truth, valid=valid, occluded=~valid),
        "flow.npz": packed(flow=(truth * estimate).astype(np.float16)),
        "tracks.npz": packed(**videos, **times),
        "followed.npz": packed(**{f"followed_{i}": np.roll(objects, 1, axis=2) for i in range(2)}),
    }


def samples(*, images=2, predicts=True):
    """Three samples of every block, all of grey 9, and of every whole image, a ramp; half and a quarter explained."""
    whole = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4, 1).repeat(images, 0).repeat(3, 1).repeat(3, 4)
    context = np.tile(np.eye(2, dtype=bool), (images if predicts else 0, 1, 1))
    blocks = np.full((len(context), 3, 4, 4, 3), 9, np.uint8)
    parts = {"context": context, "target": ~context, "blocks": blocks, "whole": whole}
    explained = np.array([0.5 if predicts else np.nan, 0.25])
    return {"decoded.npz": packed(originals=np.full((images, 8, 8, 3), 5, np.uint8), **parts, explained=explained)}


@pytest.fixture
def filled(laboratory):
    """A study called vjepa_masks with a done run a row, both of seed 0."""
    laboratory.study("vjepa_masks", STUDY)
    for row, ratio in (("a", 0.5), ("b", 0.75)):
        laboratory.run("vjepa_masks", row, 0, {"mask/context_share": ratio})
    for run_id, ratio in zip(ids(laboratory), (0.5, 0.75), strict=True):
        keep(laboratory, run_id, *arrays(ratio), **motion(1 + ratio), **samples())
    return laboratory


def ids(laboratory):
    with laboratory.engine.connect() as connection:
        return list(connection.scalars(select(RunRow.id).where(RunRow.state == "done").order_by(RunRow.id)))


def asked(laboratory, tmp_path, *words):
    return gallery.main([f"db={laboratory.engine.url}", f"results_dir={tmp_path / 'results'}", *words])


def study_runs(laboratory, kind=RunPictures, **options):
    with laboratory.engine.connect() as connection:
        return of_study(connection, "vjepa_masks", Path(), kind, **options)


# ---- what is shown -------------------------------------------------------------------------------------------------


def test_a_line_a_run_shows_its_context_and_greys_the_rest(filled):
    runs = study_runs(filled)
    sheet = sheets.samplings("vjepa_masks", runs, [0])
    assert [line.label for line in sheet.lines] == ["clip", "half\n50 % hidden", "most\n75 % hidden"]
    assert sheet.columns == ("t = 1", "t = 3")
    for run, line in zip(runs, sheet.lines[1:], strict=True):
        for place, tile in enumerate(line.tiles):
            seen = run.context[0, 0].reshape(GRID)[place].repeat(4, 0).repeat(4, 1)
            assert np.array_equal(tile.pixels[seen], run.clips[0, 2 * place][seen])
            assert {tuple(pixel) for pixel in tile.pixels[~seen].tolist()} == {sheets.HIDDEN, sheets.EDGE}


def test_a_patch_that_is_neither_context_nor_target_is_lighter():
    frame, none = np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2), dtype=bool)
    assert (sheets.masked(frame, none, none) == sheets.NEITHER).all()


def test_a_context_that_several_targets_share_has_one_line(laboratory):
    laboratory.study("vjepa_masks", STUDY)
    laboratory.run("vjepa_masks", "a", 0, {"mask/context_share": 0.5})
    laboratory.run("vjepa_masks", "b", 0, {"mask/context_share": 0.5})
    first, second = ids(laboratory)
    keep(laboratory, first, *arrays(0.5, views=3, shared=True))
    keep(laboratory, second, *arrays(0.5, views=2))
    labels = [line.label for line in sheets.samplings("vjepa_masks", study_runs(laboratory), [0]).lines]
    assert labels == ["clip", "half\n50 % hidden", "most (mask 1)\n50 % hidden", "most (mask 2)\n50 % hidden"]


def test_targets_are_outlined_on_the_original_and_shown_by_themselves(filled):
    run = study_runs(filled)[0]
    line = sheets.blocks("ijepa_masks", [run], [1]).lines[0]
    original, context, target = line.tiles
    first = run.context[1, 0].reshape(GRID)[0]
    assert np.array_equal(original.outlines[0].patches, ~first)
    assert np.array_equal(context.pixels[:4, :4], run.clips[1, 0, :4, :4])
    assert np.array_equal(target.pixels[:4, 4:], run.clips[1, 0, :4, 4:])
    assert target.frame == 0


def test_a_reconstruction_stands_below_what_the_model_saw(filled):
    lines = sheets.reconstructions("mae_st_reconstructions", study_runs(filled), [0]).lines
    assert [line.label for line in lines] == [
        "original", "50 % masked", "reconstruction", "original", "75 % masked", "reconstruction",
    ]  # fmt: skip
    assert [line.starts_group for line in lines] == [False, False, False, True, False, False]
    assert all((tile.pixels == 7).all() for tile in lines[2].tiles) and len(lines[2].tiles) == 4


def test_a_decoded_block_stands_in_its_context_and_a_whole_image_below(filled):
    run = study_runs(filled, DecodedPictures)[0]
    sheet = sheets.decodings("ijepa_rcdm", [run], [1])
    assert sheet.columns == ("original", "context", "sample 1", "sample 2", "sample 3")
    block, whole = (line.tiles for line in sheet.lines)
    target = ~np.eye(2, dtype=bool)
    assert (block[2].pixels == 9).all()  # the smallest box around the two patches is the whole image
    assert np.array_equal(block[2].outlines[0].patches, target)
    assert np.array_equal(whole[2].pixels[::2, ::2, 0], np.arange(16).reshape(4, 4))
    assert "tells 25 % of the variance of a test image's pixels and 50 % of a block's" in sheet.note


def test_of_a_run_that_predicts_nothing_only_whole_images_are_drawn_below_the_others_of_that_image(laboratory):
    laboratory.study("vjepa_masks", STUDY)
    for row, predicts in (("a", True), ("b", False)):
        laboratory.run("vjepa_masks", row, 0, {"mask/context_share": 0.5})
        keep(laboratory, ids(laboratory)[-1], *arrays(0.5), **samples(predicts=predicts))
    sheet = sheets.decodings("ijepa_rcdm", study_runs(laboratory, DecodedPictures), [0, 1])
    of_one_image = ["half\npredictor", "half\nencoder", "most\nencoder"]
    assert [line.label for line in sheet.lines] == 2 * of_one_image
    assert [line.starts_group for line in sheet.lines] == [False, False, False, True, False, False]
    assert "half's representation tells 25 % of the variance of a test image's pixels and 50 %" in sheet.note
    assert "most's representation tells 25 % of the variance of a test image's pixels. " in sheet.note + " "


def test_samples_of_an_older_version_are_refused_with_what_to_do(laboratory):
    laboratory.study("vjepa_masks", STUDY)
    laboratory.run("vjepa_masks", "a", 0, {"mask/context_share": 0.5})
    keep(laboratory, 1, *arrays(0.5), **{"decoded.npz": packed(whole=np.zeros(1), explained=np.zeros(2))})
    with pytest.raises(NoPictures, match=r"run=1 was decoded by an older version: repeat sweeps\.decode"):
        study_runs(laboratory, DecodedPictures)


def test_a_run_of_which_nothing_was_decoded_says_which_command_does(laboratory):
    laboratory.study("vjepa_masks", STUDY)
    laboratory.run("vjepa_masks", "a", 0, {"mask/context_share": 0.5})
    keep(laboratory, 1, *arrays(0.5))
    with pytest.raises(NoPictures, match=r"python -m sweeps\.decode run=ID"):
        study_runs(laboratory, DecodedPictures)


def test_the_canvas_has_every_tile_in_whole_pixels(filled):
    sheet = sheets.samplings("vjepa_masks", study_runs(filled), [0])
    where = drawing.layout(sheet)
    page = drawing.canvas(sheet, where)
    top, left, zoom = where.tops[0], where.lefts[1], where.zoom
    assert zoom * 8 >= drawing.MIN_TILE
    assert np.array_equal(
        page[top : top + 8 * zoom : zoom, left : left + 8 * zoom : zoom], sheet.lines[0].tiles[1].pixels
    )


def test_the_border_of_two_patches_leaves_out_the_side_between_them():
    sides = {tuple(map(tuple, side.tolist())) for side in drawing.border(np.array([[True, True]]))}
    assert len(sides) == 6 and ((1, 0), (1, 1)) not in sides


# ---- motion ----------------------------------------------------------------------------------------------------------


def test_a_pair_has_a_line_a_run_in_one_scale_of_colours_with_its_error(filled):
    runs = study_runs(filled, FlowPictures)
    sheet = motion_sheets.flow_fields("mc_jepa_flow", runs, [0, 1])
    assert [line.label for line in sheet.lines] == ["half\nEPE 0.50 px", "most\nEPE 0.75 px"] * 2
    assert [len(line.tiles) for line in sheet.lines] == [6, 5, 5, 5] and sheet.columns[:5] == (
        *("frame 1", "frame 2", "truth", "flow", "moved"),
    )
    first, second, truth, flow, moved, _ = (tile.pixels for tile in sheet.lines[0].tiles)
    assert np.array_equal(first, runs[0].frames[0, 0]) and np.array_equal(second, runs[0].frames[0, 1])
    assert (truth[0] == sheets.HIDDEN).all() and np.array_equal(truth[1:], coloured(runs[0].truth[0], 1.0)[1:])
    assert np.array_equal(flow, coloured(runs[0].flow[0], 1.0))
    assert (moved[:, -1] == OUTSIDE).all() and "full colour 1 px" in sheet.note


def test_without_a_truth_the_colours_scale_is_that_of_the_longest_estimate(filled):
    runs = [replace(run, valid=np.zeros_like(run.valid)) for run in study_runs(filled, FlowPictures)]
    sheet = motion_sheets.flow_fields("mc_jepa_flow", runs, [0])
    assert [line.label for line in sheet.lines] == ["half", "most"] and "full colour 1.8 px" in sheet.note
    assert (sheet.lines[0].tiles[2].pixels == sheets.HIDDEN).all()


def test_followed_objects_stand_below_the_true_ones_in_the_same_colours(filled):
    runs = study_runs(filled, TrackPictures)
    sheet = motion_sheets.propagation("mc_jepa_segmentation", runs, [0, 1])
    assert [line.label for line in sheet.lines] == ["truth", "half", "most"] * 2
    assert sheet.columns == ("t = 1", "t = 6", "t = 11")
    truth, ours = (line.tiles[1].pixels for line in sheet.lines[:2])
    place = runs[0].objects[0][1] == 2
    frame = runs[0].frames[0][1]
    colour = 255 * np.array(to_rgb(OBJECT_COLORS[1]))
    assert np.abs(truth[place] - (0.4 * frame[place] + 0.6 * colour)).max() <= 0.5
    assert np.array_equal(truth[4:], frame[4:]) and not np.array_equal(truth[0, 0], frame[0, 0])
    assert (
        np.abs(ours[np.roll(place, 1, axis=1)] - (0.4 * frame[np.roll(place, 1, axis=1)] + 0.6 * colour)).max() <= 0.5
    )


@pytest.mark.parametrize(("kind", "name"), [(FlowPictures, "flow"), (TrackPictures, "tracks")])
def test_a_run_without_such_pictures_says_what_makes_them(filled, kind, name):
    run_id = ids(filled)[0]
    with Session(filled.engine) as session, session.begin():
        session.query(Artifact).filter_by(run_id=run_id, name=f"{name}.npz").delete()
    with pytest.raises(NoPictures, match=f"run={run_id} has no pictures: it was trained before.*{kind.WITHOUT[:20]}"):
        study_runs(filled, kind)


def test_runs_on_different_frames_are_not_put_into_one_picture(filled):
    runs = study_runs(filled, FlowPictures)
    other = replace(runs[1], frames=runs[1].frames[::-1])
    with pytest.raises(ValueError, match=f"runs {runs[0].run_id} and {runs[1].run_id} are not on the same frames"):
        motion_sheets.flow_fields("mc_jepa_flow", [runs[0], other], [0])


@pytest.mark.parametrize("name", gallery.GALLERY)
def test_every_picture_is_drawn_twice_alike_and_checked(filled, tmp_path, capsys, name):
    words = [f"name={name}", "study=vjepa_masks", "clips=0"]
    assert asked(filled, tmp_path, *words, "check=true") == 1
    assert asked(filled, tmp_path, *words) == 0
    folder = tmp_path / "results" / "figures" / "gallery"
    stem = f"{name}-clips0" if name == "vjepa_masks" else f"{name}-vjepa_masks-clips0"
    assert sorted(path.name for path in folder.iterdir()) == [f"{stem}.png", f"{stem}.svg"]
    assert asked(filled, tmp_path, *words, "check=true") == 0
    (folder / f"{stem}.svg").write_text("another")
    assert asked(filled, tmp_path, *words, "check=true") == 1
    assert f"{stem}.svg: differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "stem"),
    [
        ({}, "vjepa_masks"),
        ({"study": "vjepa_masks@mine"}, "vjepa_masks@mine"),
        ({"study": "masking_ratio"}, "vjepa_masks-masking_ratio"),
        ({"study": "a", "cell": "0.75/long,b", "seed": "1"}, "vjepa_masks-a-0.75_long_b-seed1"),
        ({"run": "12,15", "clips": "0,3"}, "vjepa_masks-run12_15-clips0_3"),
        ({"study": "../../etc/x"}, "vjepa_masks-.._.._etc_x"),
    ],
)
def test_a_picture_is_called_by_what_was_asked_for(words, stem):
    assert gallery.stem("vjepa_masks", Arguments(words)) == stem


def test_all_draws_what_has_runs_and_names_the_others_with_what_makes_them(filled, tmp_path, capsys):
    words = ["name=all", f"db={filled.engine.url}", f"results_dir={tmp_path}"]
    assert gallery.main(words) == 0
    said = capsys.readouterr()
    assert {Path(line).name for line in said.out.splitlines()} == {"vjepa_masks.svg", "vjepa_masks.png"}
    assert said.err.count("left out: ") == len(gallery.GALLERY) - 1
    assert "left out: mc_jepa_flow: " in said.err and "python -m sweeps.launch study=mc_jepa_flow" in said.err
    assert gallery.main([*words, "check=true"]) == 0
    assert f"1 of {len(gallery.GALLERY)} pictures checked" in capsys.readouterr().out
    (tmp_path / "figures/gallery/vjepa_masks.svg").write_text("other")
    assert gallery.main([*words, "check=true"]) == 1


def test_all_of_a_database_without_any_picture_is_an_error(laboratory, tmp_path, capsys):
    laboratory.study("mine", STUDY)
    assert gallery.main(["name=all", f"db={laboratory.engine.url}", f"results_dir={tmp_path}"]) == 2
    assert "name=all: no picture has runs in this database" in capsys.readouterr().err


def test_runs_and_clips_can_be_named(filled):
    run_ids = ids(filled)
    with filled.engine.connect() as connection:
        assert [run.run_id for run in of_runs(connection, run_ids[::-1], Path(), RunPictures)] == run_ids[::-1]
    drawn = [gallery.contents(filled.engine, "vjepa_masks", Arguments({"clips": clips})) for clips in ("", "0", "1")]
    assert list(drawn[0].values()) == list(drawn[1].values()) != list(drawn[2].values())
    assert [run.label for run in study_runs(filled, cells=["b"])] == ["most"]


def without_place(capsys) -> str:
    """The message that was printed, its commands without the database and the folder, which are the test's own."""
    return re.sub(r" (?:db|results_dir)=\S+", "", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["name=vjepa_mask"], "no such picture (did you mean vjepa_masks"),
        (
            [],
            "name is missing; allowed: mae_st_reconstructions, mae_st_masks, ijepa_masks, ijepa_rcdm, vjepa_masks, ",
        ),
        (["name=mae_st_masks"], "make its runs with: python -m sweeps.launch study=mae_st_masks"),
        (["name=vjepa_masks", "cell=c"], "it has: a, b"),
        (["name=vjepa_masks", "seed=1"], "make it with: python -m sweeps.launch study=vjepa_masks 'seeds=[1]'"),
        (["name=vjepa_masks", "clips=2"], "these runs kept clips 0 to 1"),
        (["name=vjepa_masks", "clips=-1"], "clips must be a whole number"),
        (["name=vjepa_masks", "run=99"], "run=99: the database has no such run"),
        (["name=vjepa_masks", "colour=red"], "colour: unknown option; options: name, study"),
        (["name=all", "run=1"], "go with one name"),
        (["name=mae_st_reconstructions", "study=vjepa_masks", "clips=1"], "kept reconstructions of clips 0 to 0"),
    ],
)
def test_a_mistake_says_what_is_allowed_or_what_to_do(filled, tmp_path, capsys, words, message):
    assert asked(filled, tmp_path, *words) == 2
    assert message in without_place(capsys)
    assert not (tmp_path / "results").exists()


def test_the_command_of_another_scale_and_other_options_is_named_in_full(laboratory, tmp_path, capsys):
    laboratory.study("vjepa_masks@x", STUDY, scale="smoke", overrides=["data.size=64"])
    assert asked(laboratory, tmp_path, "name=vjepa_masks", "study=vjepa_masks@x") == 2
    command = "python -m sweeps.launch study=vjepa_masks scale=smoke data.size=64 name=x"
    assert f"a is not done; make it with: {command}" in without_place(capsys)


def test_a_database_without_the_table_of_pictures_says_what_to_do(filled, tmp_path, capsys):
    with filled.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE sw_blob")
    assert asked(filled, tmp_path, "name=vjepa_masks") == 2
    assert "no such table: sw_blob); launch a study with it first" in capsys.readouterr().err


def test_a_done_run_without_pictures_says_how_to_get_some(laboratory, tmp_path, capsys):
    laboratory.study("vjepa_masks", STUDY)
    laboratory.run("vjepa_masks", "a", 0, {"mask/context_share": 0.5})
    assert asked(laboratory, tmp_path, "name=vjepa_masks", "cell=a") == 2
    assert "a run of another seed keeps them: python -m sweeps.launch study=vjepa_masks 'seeds=[" in without_place(
        capsys
    )


def test_a_target_without_pixels_has_no_reconstruction_to_draw(filled):
    run_id = ids(filled)[0]
    with Session(filled.engine) as session, session.begin():
        session.query(Artifact).filter_by(run_id=run_id).delete()
    keep(filled, run_id, *arrays(0.5, painted=0))
    with pytest.raises(ValueError, match=f"run={run_id} predicts no pixels"):
        sheets.reconstructions("mae_st_reconstructions", study_runs(filled), [0])


def test_a_study_that_was_launched_on_other_data_only_is_named(laboratory, tmp_path):
    laboratory.study("vjepa_masks@mine", STUDY)
    with (
        laboratory.engine.connect() as connection,
        pytest.raises(NoPictures, match=r"no such study \(did you mean vjepa_masks@mine\?\); make"),
    ):
        of_study(connection, "vjepa_masks", tmp_path, RunPictures)


def test_what_is_too_large_for_the_database_is_read_from_the_results_folder(laboratory, tmp_path):
    laboratory.study("vjepa_masks", STUDY)
    laboratory.run("vjepa_masks", "a", 0, {"mask/context_share": 0.5})
    (run_id,) = ids(laboratory)
    clips, masks = arrays(0.5)
    keep(laboratory, run_id, clips, masks, inline=False)
    with laboratory.engine.connect() as connection:
        with pytest.raises(NoPictures, match="copy it from where the run was"):
            of_runs(connection, [run_id], tmp_path, RunPictures)
        folder = tmp_path / "runs" / str(run_id)
        folder.mkdir(parents=True)
        (folder / "clips.npz").write_bytes(clips)
        (folder / "masks.npz").write_bytes(masks)
        assert of_runs(connection, [run_id], tmp_path, RunPictures)[0].clips.shape == (2, 4, 8, 8, 3)


def test_runs_on_different_clips_are_not_put_into_one_picture(filled):
    first, second = ids(filled)
    with Session(filled.engine) as session, session.begin():
        session.execute(update(Artifact).where(Artifact.run_id == second).values(attempt=2))
        session.query(Artifact).filter_by(run_id=second).delete()
    keep(filled, second, *arrays(0.5, clips=1))
    with pytest.raises(ValueError, match=f"runs {first} and {second} are not on the same clips"):
        sheets.samplings("vjepa_masks", study_runs(filled), [0])


def test_the_gallery_needs_neither_torch_nor_core():
    code = "import sys, analysis.gallery; found = {m for m in sys.modules if m.split('.')[0] in ('torch', 'core')}; "
    code += "print(sorted(found - {'core', 'core.terminal', 'core.process_list', 'core.plugin_source'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
