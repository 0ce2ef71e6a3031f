"""The study files that ship: their structure, and their printed numbers against the papers' own tables."""

import pytest
from PIL import Image

from sweeps.expand import Request, expand
from sweeps.study import SCALES, names, read

# Retyped from the papers' tables, in their order: I-JEPA Tables 6 to 14. A typo would have to be made twice.
IJEPA = {
    "ijepa_masking_strategy": [54.2, 15.5, 20.2, 17.6],
    "ijepa_targets": [66.9, 40.7],
    "ijepa_target_scale": [19.2, 39.2, 42.4, 54.2, 38.9, 33.6],
    "ijepa_context_scale": [31.2, 47.1, 49.3, 54.2],
    "ijepa_target_count": [9.0, 22.0, 48.5, 54.2],
    "ijepa_target_masking": [67.3, 56.1],
    "ijepa_predictor_depth": [64.0, 66.9],
    "ijepa_weight_decay": [69.4, 70.7],
    "ijepa_predictor_width": [70.7, 68.4],
}


@pytest.mark.parametrize("name", IJEPA)
def test_the_printed_numbers_of_i_jepa_stand_in_the_paper_s_order(name):
    printed = read(name).printed
    assert printed is not None
    assert [next(iter(values.values())) for values in printed.values.values()] == IJEPA[name]
    assert list(printed.values) == [row.key for row in read(name).rows]


def test_table_6_and_table_13_print_two_numbers_a_row():
    strategy, decay = read("ijepa_masking_strategy").printed, read("ijepa_weight_decay").printed
    assert strategy is not None and decay is not None
    assert [values["context ratio"] for values in strategy.values.values()] == [0.25, 0.25, 0.4, 0.4]
    assert [values["linear"] for values in decay.values.values()] == [77.8, 76.4]


def test_figure_6_of_mae_st_is_four_ratios_at_two_lengths():
    study = read("masking_ratio")
    assert [row.overrides("cpu")["mask.ratio"] for row in study.rows] == [0.5, 0.75, 0.9, 0.95]
    assert len([cell for cell in study.cells() if not cell.is_random_init]) == 8


# Those of studies/gallery make pictures and measure nothing.
MEASURED = [name for name in names() if read(name).path.parent.name != "gallery"]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", MEASURED)
def test_every_study_has_a_baseline_a_free_row_and_a_main_metric_at_every_scale(name, scale):
    study = read(name)
    cells = study.cells(scale)
    assert study.baseline in {cell.row_key for cell in cells}
    assert any(cell.is_random_init and cell.overrides["optim.steps"] == 0 for cell in cells)
    assert "top1" in study.metrics(scale)[0]
    assert study.seeds(scale)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", names())
def test_the_cells_of_a_study_differ(name, scale):
    overrides = [str(sorted(c.overrides.items(), key=str)) for c in read(name).cells(scale) if not c.is_random_init]
    assert len(set(overrides)) == len(overrides)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Two classes of two small pictures, in the place of ImageNet."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (224, 224), (80 * i, 0, 0)).save(root / split / label / f"{i}.png")
    return root


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", names())
def test_every_cell_of_every_study_is_a_run_that_core_can_build(name, scale, image_folder):
    needs_path = scale == "paper" and name != "masking_ratio" and name in MEASURED
    overrides = (f"data.path={image_folder}",) if needs_path else ()
    expansion = expand(Request(read(name), scale, overrides))
    assert len(expansion.cells) == len(read(name).cells(scale))


SHARED = ["ijepa_targets", "ijepa_context_scale", "ijepa_target_count", "ijepa_target_masking", "ijepa_predictor_depth"]


@pytest.mark.parametrize("name", SHARED)
def test_the_default_row_of_i_jepa_s_studies_is_one_run_for_all_of_them(name):
    def default(study):
        cells = expand(Request(read(study), "cpu")).cells
        return next(config for cell, config in cells if cell.row_key == read(study).baseline)

    assert default(name) == default("ijepa_masking_strategy")
