from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis import study_index
from analysis.study_index import contents, main
from sweeps.study.reading import read

STUDIES = Path(study_index.__file__).parent.parent / "studies"


def test_the_list_of_studies_is_up_to_date() -> None:
    assert (STUDIES / "README.md").read_bytes() == contents(STUDIES), (
        "studies/README.md is not the list of the study files; do not edit it, run: python -m analysis.study_index"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two studies of the project in folders as theirs."""
    (tmp_path / "beyond").mkdir()
    shutil.copy(STUDIES / "masking_ratio.yaml", tmp_path)
    shutil.copy(STUDIES / "beyond/search_multiblock.yaml", tmp_path / "beyond")
    return tmp_path


def test_a_line_gives_rows_cells_and_runs_at_every_scale(folder: Path) -> None:
    page = contents(folder).decode()
    assert "| [masking\\_ratio](masking_ratio.yaml) |" in page
    # 5 ratios and the random initialisation at 2 lengths, 2 seeds at smoke, 3 at cpu and gpu, 1 at paper
    assert "| MAE-ST Figure 6 | 5 | 10 | quadrants/{label}\\_top1 | 24 | 36 | – | 36 | 12 |" in page


def test_a_search_counts_its_trials(folder: Path) -> None:
    study = read(folder / "beyond/search_multiblock.yaml")
    num_cells = len(study.cells("smoke"))
    line = next(line for line in contents(folder).decode().splitlines() if "search_multiblock.yaml" in line)
    assert f"| search | 1 | ridge/{{label}}\\_top1 | {num_cells + 4} |" in line


def test_a_search_of_several_seeds_counts_them_its_promotion_and_its_judging() -> None:
    line = next(line for line in contents(STUDIES).decode().splitlines() if "(beyond/search_masking.yaml)" in line)
    # 2 rows and 4 trials on 2 seeds, 4 trials on 2 more, 2 rows on 5 at scale smoke; 14 trials at scale cpu.
    assert f"| {(2 + 4) * 2 + 8 + 10} | {(2 + 14) * 2 + 8 + 10} |" in line


def test_check_says_which_command_brings_the_list_up_to_date(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"folder={folder}"]) == 0
    assert main([f"folder={folder}", "check=true"]) == 0
    (folder / "beyond/search_multiblock.yaml").unlink()
    capsys.readouterr()
    assert main([f"folder={folder}", "check=true"]) == 1
    assert capsys.readouterr().out == (
        f"{folder}/README.md: differs from the list of studies; run: python -m analysis.study_index\n"
    )


def test_a_folder_without_studies_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"folder={tmp_path}"]) == 2
    assert f"folder={tmp_path}: no study files in it" in capsys.readouterr().err
