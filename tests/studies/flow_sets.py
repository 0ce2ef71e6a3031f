"""Tiny versions of the folders that MC-JEPA's studies name at scale paper."""

from pathlib import Path

from tests.core.data.making_flows import flying_chairs, flying_things, hd1k, kitti, picture, sintel, write_picture

FRAMES = (  # folders of numbered frames without flow
    "kitti/raw/2011_09_26/drive_0001/image_02/data",
    "kitti/2012/training/colored_0",
    "kitti/2012_multiview/training/colored_0",
    "kitti/2012/testing/colored_0",
    "kitti/2012_multiview/testing/colored_0",
    "kitti/2015_multiview/training/image_2",
    "kitti/2015/KittiFlow/testing/image_2",
    "kitti/2015_multiview/testing/image_2",
    "sintel/raw/alley_1",
)


def make(root: Path) -> None:
    """Table 7's sets in `root`, as docs/data.md names them."""
    flying_things(root / "things")
    flying_chairs(root / "chairs")
    sintel(root / "sintel")
    hd1k(root / "hd1k")
    kitti(root / "kitti" / "2015")
    for folder in FRAMES:
        for frame in (10, 11):
            write_picture(root / folder / f"000000_{frame}.png", picture(12, 24, seed=frame))
