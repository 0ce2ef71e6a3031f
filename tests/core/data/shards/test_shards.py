"""Parquet and WebDataset shards that tests write."""

import gzip
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.data.shards.parquet import Parquet
from core.data.shards.shard_set import split_of
from core.data.shards.webdataset import WebDataset
from tests.core.data import making_sets as making

BOTH = [(Parquet, making.parquet), (WebDataset, making.webdataset)]
ONE = [
    (Parquet, lambda root, seeds, **more: making.write_parquet(root / "a.parquet", seeds, **more)),
    (WebDataset, lambda root, seeds, **more: making.write_tar(root / "a.tar", seeds, **more)),
]


@pytest.mark.parametrize(("kind", "make"), BOTH)
def test_shards_follow_one_another_in_the_order_of_their_names(kind, make, tmp_path):
    data = kind(path=str(make(tmp_path)), size=32)
    train, test = (data.load(split, tmp_path / "cache") for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 10) and train.spec.classes == {"class": 2}
    assert train.labels()["class"].tolist() == [0, 1] * 10
    assert (making.loaded_pixels(data, "train", tmp_path / "cache", 13) == making.picture(13)).all()
    assert (making.loaded_pixels(data, "test", tmp_path / "cache", 4) == making.picture(104)).all()


@pytest.mark.parametrize(("kind", "make"), ONE)
def test_without_split_names_a_fixed_share_of_each_class_is_held_out(kind, make, tmp_path):
    make(tmp_path / "set", range(20))
    data = kind(path=str(tmp_path / "set"), size=32)
    train, test = (
        {(part.file, place) for part in data.parts(split) for place in part.places} for split in ("train", "test")
    )
    assert (len(train), len(test)) == (16, 4) and not train & test
    assert sorted(data.load("test", tmp_path / "cache").labels()["class"].tolist()) == [0, 0, 1, 1]
    other = kind(path=str(tmp_path / "set"), split_seed=1)
    assert {place for part in other.parts("test") for place in part.places} != {place for _, place in test}


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
@pytest.mark.parametrize("kind", [Parquet, WebDataset])
def test_a_picture_that_cannot_be_read_is_left_out_by_its_name_in_the_shard(kind, memory_gb, tmp_path, caplog):
    if kind is Parquet:
        pictures = [making.encoded(0), b"no picture", None, making.encoded(3)]
        pq.write_table(pa.table({"image": pictures, "label": [0, 0, 1, 1]}), tmp_path / "train-0.parquet")
        making.write_parquet(tmp_path / "test-0.parquet", range(4))
        excluded = ("train-0.parquet/row 1", "train-0.parquet/row 2")
    else:
        file = making.write_tar(tmp_path / "train-0.tar", range(4))
        content = file.read_bytes()
        for seed in (1, 2):
            content = content.replace(making.encoded(seed), bytes(len(making.encoded(seed))))
        file.write_bytes(content)
        making.write_tar(tmp_path / "test-0.tar", range(4))
        excluded = ("train-0.tar/000001", "train-0.tar/000002")
    data = kind(path=str(tmp_path), size=32, memory_gb=memory_gb)
    dataset = data.load("train", tmp_path / "cache")
    assert dataset.excluded == excluded and excluded[0] in caplog.text and len(dataset) == 2
    clips = dataset.fetch(torch.tensor([1])).clips[0, :, 0].permute(1, 2, 0).numpy()
    assert (clips == making.picture(3)).all()


@pytest.mark.parametrize(("kind", "make"), ONE)
def test_shards_of_no_split_beside_others_are_refused(kind, make, tmp_path):
    first = make(tmp_path, range(4))
    shutil.copy(first, first.with_name(f"train-0{first.suffix}"))
    with pytest.raises(ValueError, match=rf"of {first.name} neither name nor folder tells a split"):
        kind(path=str(tmp_path)).spec()


@pytest.mark.parametrize(("kind", "make"), ONE)
def test_shards_without_a_test_split_are_refused(kind, make, tmp_path):
    first = make(tmp_path, range(4))
    first.rename(first.with_name(f"train-0{first.suffix}"))
    with pytest.raises(ValueError, match=r"has shards of train, and none called test or testing or"):
        kind(path=str(tmp_path)).spec()


@pytest.mark.parametrize("kind", [Parquet, WebDataset])
def test_a_folder_without_shards_is_refused(kind, tmp_path):
    with pytest.raises(ValueError, match=rf"data.path={tmp_path} has no \*\.(parquet|tar) .*file"):
        kind(path=str(tmp_path)).spec()
    with pytest.raises(
        ValueError, match=r"data.path must be a folder with .* files, got .*none', which does not exist"
    ):
        kind(path=str(tmp_path / "none")).spec()


@pytest.mark.parametrize(("kind", "make"), BOTH)
def test_a_cut_off_shard_is_named(kind, make, tmp_path):
    make(tmp_path)
    file = sorted(file for file in tmp_path.rglob("*") if file.is_file() and "train" in file.name)[0]
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match=rf"{file.name}.* (cannot be read as|is cut off)"):
        kind(path=str(tmp_path)).load("train", tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("val/000.tar", "validation"),
        ("imagenette-validation-0.tar", "validation"),
        ("test/train-like/0.tar", "train"),
        ("testing/0.tar", "test"),
        ("constrained/0.tar", ""),
        ("0.tar", ""),
    ],
)
def test_a_shard_s_split_is_told_by_the_words_of_its_name_or_its_folder_s(name, split, tmp_path):
    assert split_of((tmp_path / name).relative_to(tmp_path)) == split


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def test_the_classes_of_a_parquet_file_s_head_count_though_no_row_has_the_last(tmp_path):
    making.write_parquet(tmp_path / "train-0.parquet", range(4), classes=9)
    making.write_parquet(tmp_path / "test-0.parquet", range(8), classes=9)
    assert Parquet(path=str(tmp_path)).spec().classes == {"class": 9}


def test_columns_are_chosen_by_name(tmp_path):
    columns = {
        "thumbnail": [making.encoded(9)] * 4,
        "image": [making.encoded(i) for i in range(4)],
        "kind": [0, 1, 0, 1],
    }
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), tmp_path / f"{split}-0.parquet")
    with pytest.raises(ValueError, match=r"data.image must name the column .* of bytes it has thumbnail, image"):
        Parquet(path=str(tmp_path)).spec()
    with pytest.raises(ValueError, match=r"data.label=colour: .* has no such column of whole numbers; it has kind"):
        Parquet(path=str(tmp_path), image="image", label="colour").spec()
    data = Parquet(path=str(tmp_path), image="image", label="kind", size=32)
    assert data.spec().classes == {"class": 2}
    assert (making.loaded_pixels(data, "train", tmp_path / "cache", 2) == making.picture(2)).all()


def test_a_parquet_file_without_labels_can_be_learned_from(tmp_path):
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": [making.encoded(i) for i in range(4)]}), tmp_path / f"{split}-0.parquet")
    data = Parquet(path=str(tmp_path))
    assert data.spec().classes == {} and data.load("train", tmp_path / "cache").labels() == {}


def test_hidden_labels_of_a_test_split_are_named(tmp_path):
    making.write_parquet(tmp_path / "train-0.parquet", range(4))
    table = pq.read_table(tmp_path / "train-0.parquet")
    hidden = table.set_column(1, "label", pa.array([-1] * 4, pa.int64()))
    pq.write_table(hidden, tmp_path / "test-0.parquet")
    with pytest.raises(ValueError, match=r"a picture has the label -1, train only 0 to 1"):
        Parquet(path=str(tmp_path)).load("test", tmp_path / "cache")


# ---- WebDataset ------------------------------------------------------------------------------------------------------


def test_a_compressed_archive_is_refused_with_the_way_out(tmp_path):
    content = making.write_tar(tmp_path / "train-0.tar", range(4)).read_bytes()
    (tmp_path / "test-0.tar.gz").write_bytes(gzip.compress(content))
    with pytest.raises(
        ValueError, match=r"test-0.tar.gz is compressed, and no picture of it can be read alone: gunzip"
    ):
        WebDataset(path=str(tmp_path)).spec()


def test_archives_without_classes_can_be_learned_from(tmp_path):
    for split in ("train", "test"):
        making.write_tar(tmp_path / f"{split}-0.tar", range(4), labels=False)
    data = WebDataset(path=str(tmp_path))
    assert data.spec().classes == {} and len(data.load("train", tmp_path / "cache")) == 4


def test_one_of_several_pictures_of_a_sample_is_chosen(tmp_path):
    for split in ("train", "test"):
        making.write_tar(tmp_path / f"{split}-0.tar", range(4), kind="small.png")
    with pytest.raises(ValueError, match=r"train-0.tar: it has no picture"):
        WebDataset(path=str(tmp_path)).spec()
    assert len(WebDataset(path=str(tmp_path), image="small.png").load("train", tmp_path / "cache")) == 4


def test_a_class_that_is_no_number_is_named(tmp_path):
    file = making.write_tar(tmp_path / "train-0.tar", range(4))
    file.write_bytes(file.read_bytes().replace(b"1" + bytes(511), b"x" + bytes(511)))
    making.write_tar(tmp_path / "test-0.tar", range(4))
    with pytest.raises(ValueError, match=r"the class of 000001 must be a whole number, got 'x'"):
        WebDataset(path=str(tmp_path)).spec()


@pytest.mark.parametrize(("kind", "ending"), [(Parquet, "parquet"), (WebDataset, "tar")])
def test_classes_that_count_from_1_are_refused_unless_the_shards_name_them(kind, ending, tmp_path):
    for split in ("train", "test"):
        file = tmp_path / f"{split}-0.{ending}"
        if kind is Parquet:
            making.write_parquet(file, [1, 2, 4, 5], classes=3, names=False)
        else:
            making.write_tar(file, [1, 2, 4, 5], classes=3)
    with pytest.raises(ValueError, match=r"labels start at 0, and these are 1 to 2; subtract 1 from each"):
        kind(path=str(tmp_path), size=32).spec()
    if kind is Parquet:
        for split in ("train", "test"):
            making.write_parquet(tmp_path / f"{split}-0.parquet", [1, 2, 4, 5], classes=3)
        assert kind(path=str(tmp_path), size=32).spec().classes == {"class": 3}
