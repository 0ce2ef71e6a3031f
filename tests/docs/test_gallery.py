"""The commands of docs/gallery.md, at scale smoke on two small folders of frames."""

import numpy as np
import pytest
from PIL import Image

from analysis import gallery
from sweeps import decode, launch, status
from tests.docs.blocks import commands

MAINS = {
    "sweeps.launch": launch.main,
    "sweeps.decode": decode.main,
    "sweeps.status": status.main,
    "analysis.gallery": gallery.main,
}


def at_smoke(module, words):
    """A smoke launch is called study@smoke, and study@smoke,mine where it is given a name."""
    if module == "sweeps.launch":
        return [*words, "scale=smoke", "seeds=[0]", "executor=inline"]
    if module == "sweeps.decode":
        return [*(f"{word}@smoke" for word in words), "steps=3", "runtime.threads=1"]
    if module == "analysis.gallery" and not any(word.startswith("study=") for word in words):
        return [*words, f"study={words[0].removeprefix('name=')}@smoke"]
    words = [word.replace("@mine", "@smoke,mine") for word in words]
    return [f"{word}@smoke" if word == "study=masking_ratio" else word for word in words]


@pytest.mark.slow
def test_the_commands_of_the_page_draw_their_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        folder = tmp_path / "clips" / f"video{number}"
        folder.mkdir(parents=True)
        for frame in range(40):
            pixels = np.random.default_rng(frame).integers(0, 255, (112, 112, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame:03d}.jpg")
    for module, words in commands("gallery.md"):
        assert MAINS[module](at_smoke(module, words)) == 0, (module, words, capsys.readouterr().err)
    names = {path.name for path in (tmp_path / "results" / "figures" / "gallery").iterdir()}
    masks = (f"{name}@smoke,mine" for name in ("ijepa_masks", "vjepa_masks", "mae_st_masks", "mae_st_reconstructions"))
    stems = {f"{name}@smoke" for name in ("ijepa_masks", "ijepa_rcdm", "mc_jepa_flow")}
    stems |= {one.replace(",", "_") for one in masks} | {"mc_jepa_segmentation@smoke-clips0_1"}
    stems |= {"mae_st_reconstructions-masking_ratio@smoke-0.75_long_0.9_long-clips0_1"}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("svg", "png")}
    assert "masks.npz" in capsys.readouterr().out
