"""Imagenette and Tiny-ImageNet as they are unpacked."""

import pytest

from core.data.downloaded.imagenette import Imagenette
from core.data.downloaded.tiny_imagenet import TinyImageNet
from tests.core.data import making_sets as making


def test_imagenette_s_test_split_is_its_val_folder(tmp_path):
    data = Imagenette(path=str(making.imagenette(tmp_path)), size=40)
    assert data.listing("train").classes == list(making.WNIDS)
    assert [file.parent.parent.name for file, _ in data.listing("test").entries] == ["val"] * 16
    assert (making.loaded_pixels(data, "test", tmp_path / "cache", 9) == making.picture(111, 40)).all()


def test_imagenette_s_lists_of_wrong_labels_are_passed_over_in_silence(tmp_path, caplog):
    data = Imagenette(path=str(making.imagenette(tmp_path)), size=8)
    data.load("train", tmp_path / "cache")
    assert caplog.text == "" and not any(file.suffix == ".csv" for _, file in data.sources())


def test_a_class_that_only_val_has_is_refused(tmp_path):
    making.write_file(making.imagenette(tmp_path) / "imagenette2-160/val/n03000684/a.JPEG", making.encoded(0))
    with pytest.raises(ValueError, match="val/n03000684 is a class that train does not have"):
        Imagenette(path=str(tmp_path)).spec()


def test_tiny_imagenet_s_validation_labels_are_those_of_its_list(tmp_path):
    data = TinyImageNet(path=str(making.tiny_imagenet(tmp_path)))
    assert data.load("test", tmp_path / "cache").labels()["class"].tolist() == [1, 0] * 4
    assert data.load("train", tmp_path / "cache").labels()["class"].tolist() == [0] * 8 + [1] * 8
    assert (making.loaded_pixels(data, "test", tmp_path / "cache", 3) == making.picture(203, 64)).all()


def test_tiny_imagenet_s_boxes_are_passed_over_in_silence(tmp_path, caplog):
    TinyImageNet(path=str(making.tiny_imagenet(tmp_path)), size=8).load("train", tmp_path / "cache")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("val_0.JPEG\tn01440764\n", "val_annotations.txt does not name val_1.JPEG, which val/images has"),
        ("val_0.JPEG\tn9\t1\t2\t3\t4\n", r"line 1 of val/val_annotations.txt must be .* class that train has"),
        ("val_0.JPEG n01440764\n", r"line 1 of val/val_annotations.txt must be a file's name, a tab and a class"),
    ],
)
def test_a_wrong_list_of_tiny_imagenet_is_named(lines, message, tmp_path):
    (making.tiny_imagenet(tmp_path) / "tiny-imagenet-200/val/val_annotations.txt").write_text(lines)
    with pytest.raises(ValueError, match=message):
        TinyImageNet(path=str(tmp_path)).spec()


def test_a_picture_that_the_list_names_and_the_folder_lacks_is_named(tmp_path):
    (making.tiny_imagenet(tmp_path) / "tiny-imagenet-200/val/images/val_4.JPEG").unlink()
    with pytest.raises(ValueError, match=r"val/images has no val_4.JPEG, which val/val_annotations.txt names"):
        TinyImageNet(path=str(tmp_path)).spec()
