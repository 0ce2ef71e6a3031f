"""Tiny versions of the folders that MC-JEPA's studies and pictures name at scale paper."""

from pathlib import Path

import numpy as np

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
    """Table 7's sets in `root`, as docs/data.md names them, and DAVIS."""
    flying_things(root / "things")
    flying_chairs(root / "chairs")
    sintel(root / "sintel")
    hd1k(root / "hd1k")
    kitti(root / "kitti" / "2015")
    for folder in FRAMES:
        for frame in (10, 11):
            write_picture(root / folder / f"000000_{frame}.png", picture(12, 24, seed=frame))
    for frame in range(2):
        write_picture(root / "davis/JPEGImages/480p/bear" / f"{frame:05d}.jpg", picture(12, 24, seed=frame))
        write_picture(
            root / "davis/Annotations/480p/bear" / f"{frame:05d}.png", np.full((12, 24), 255 * frame, np.uint8)
        )
