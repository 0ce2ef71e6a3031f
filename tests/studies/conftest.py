import pytest
from PIL import Image

from tests.studies import flow_sets


@pytest.fixture(scope="package")
def data_root(tmp_path_factory):
    """Folders of two classes of two small pictures, and lists of videos that nobody opens before training."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (root / "imagenet" / split / label).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (224, 224), (80 * i, 0, 0)).save(root / "imagenet" / split / label / f"{i}.png")
    for name in ("cifar100", "imagenet22k", "places205", "inat18"):
        (root / name).symlink_to(root / "imagenet")
    for name in (
        *("k400", "k600", "k700", "k710", "videomix2m", "ssv2", "uncurated"),
        *("ig_curated_240k", "ig_curated_512k", "ig_curated_1m"),
    ):
        (root / f"{name}.csv").write_text("a.mp4 0\nb.mp4 0\nc.mp4 1\nd.mp4 1\n")
    flow_sets.make(root)
    return root
