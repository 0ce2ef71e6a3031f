"""Studies of pictures that somebody has to download first: a plan needs none, a launch says what to get."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps import launch, plan


def test_what_a_study_of_stl10_costs_is_told_before_anything_is_downloaded(tmp_path, capsys):
    words = ["study=stl10_ijepa", "scale=lab", f"db=sqlite:///{tmp_path}/none.sqlite"]
    assert plan.main([*words, f"runtime.data_root={tmp_path}"]) == 0
    assert "stl10_ijepa@lab" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("study", "wanted"),
    [
        ("stl10_ijepa", "download stl10_binary.tar.gz from cs.stanford.edu/~acoates/stl10 and unpack it into"),
        ("cifar10_mae", "download cifar-10-python.tar.gz from www.cs.toronto.edu/~kriz/cifar.html and unpack it into"),
    ],
)
def test_a_launch_without_the_pictures_says_what_to_get_where_and_begins_nothing(study, wanted, tmp_path, capsys):
    words = [f"study={study}", "scale=lab", f"db=sqlite:///{tmp_path}/a.sqlite", f"results_dir={tmp_path / 'results'}"]
    assert launch.main([*words, f"runtime.data_root={tmp_path / 'data'}"]) == 2
    assert f"{wanted} {tmp_path / 'data'}" in " ".join(capsys.readouterr().err.split())
    assert list(Path(tmp_path).iterdir()) == []
