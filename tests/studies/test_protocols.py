"""What studies at scale paper train and judge by, against what the papers print."""

import re

import pytest

from core.configuring.config import flatten, load
from tests.studies.test_studies import MEASURED, expanded, read

MAE_BESIDE_I_JEPA = ("linear", "low_shot", "compute", "low_level", "transfer")


def test_at_scale_paper_a_class_token_is_judged_where_i_jepa_s_tables_judge_it(data_root):
    """A.2: the class token of MAE, the average of I-JEPA's patches, in frozen probes and in fine-tuning."""
    for name in (f"ijepa_{place}" for place in MAE_BESIDE_I_JEPA):
        for _, config in expanded(name, "paper", data_root).cells:
            pools = {value for key, value in config.items() if key.startswith("evals.") and key.endswith(".pool")}
            assert pools == {"cls" if config["target"] == "pixels" else "mean"}, name


def test_the_attentive_probes_of_scale_paper_are_those_of_v_jepa_s_table_6(data_root):
    for name in MEASURED:
        for _, config in expanded(name, "paper", data_root).cells:
            if "attentive" in config["evals"]:
                probe = {
                    key.split(".")[-1]: value for key, value in config.items() if key.startswith("evals.attentive.")
                }
                is_imagenet = (config["eval_data"] or config["data"]) == "image_folder"
                assert probe["batch_size"] == (512 if is_imagenet else 256), name
                assert (probe["lrs"], probe["weight_decays"], probe["epochs"]) == ([0.001], [0.01], 20), name


def test_linear_heads_of_scale_paper_see_crops_and_flips_but_none_that_cuts_what_is_counted_off(data_root):
    for name in MEASURED:
        for _, config in expanded(name, "paper", data_root).cells:
            if "vissl" in config["evals"]:
                changed = (config["evals.vissl.looks"] > 0, config["evals.vissl.flip"], config["evals.vissl.crop_min"])
                assert changed == (True, True, 1.0 if name == "ijepa_low_level" else 0.08), name


def test_fine_tuning_on_1_percent_mirrors_pictures_at_scale_paper(data_root):
    judged = 0
    for name in MEASURED:
        for _, config in expanded(name, "paper", data_root).cells:
            if config.get("evals.finetune.share", 1.0) == 0.01:
                assert config["evals.finetune.flip"], name
                judged += 1
    assert judged >= 4


def test_mae_is_pretrained_at_224_px_and_fine_tuned_at_448_as_in_i_jepa_s_table_15(data_root):
    cells = {cell.row_key: config for cell, config in expanded("ijepa_finetune", "paper", data_root).cells}
    sizes = ("data.size", "eval_data.size", "evals.finetune.size")
    assert [cells["mae"][key] for key in sizes] == [224, 448, 448]
    assert [cells["ijepa"][key] for key in sizes] == [448, 448, 448]
    assert [cells[row]["evals.finetune.pool"] for row in ("mae", "ijepa")] == ["cls", "mean"]


def test_what_is_fine_tuned_on_videos_at_scale_paper_is_judged_in_the_printed_number_of_views(data_root):
    """MAE-ST, section 5: 7 x 3 on Kinetics, 1 x 3 on SSv2 (Table 9); V-JEPA, Table 8: 5 x 3."""
    on_ssv2 = ("mae_st_data", "mae_st_intermediate", "mae_st_ssv2")
    for name in MEASURED:
        for _, config in expanded(name, "paper", data_root).cells:
            if "finetune" in config["evals"] and (config["eval_data"] or config["data"]) == "video_csv":
                views = tuple(config[f"evals.finetune.{axis}_views"] for axis in ("temporal", "spatial"))
                assert views == ((1, 3) if name in on_ssv2 else (5, 3) if name == "vjepa_finetune" else (7, 3)), name


def test_rows_that_are_trained_on_labels_have_a_recipe_of_their_batch_at_scale_paper(data_root):
    """MAE's Table 11 on images: 200 epochs at 1e-4 a batch of 256; the rate of MAE-ST's pretraining on clips."""
    found = {}
    for name in ("mae_st_data", "mae_st_image", "mae_st_scratch"):
        for cell, config in expanded(name, "paper", data_root).cells:
            if config["objective"] == "supervised" and config["optim.steps"]:
                assert config["optim.lr_peak"] == 0.0016 and config["augment.flip"], name
                found[name, cell.row_key] = (config["optim.batch_size"], config["optim.steps"])
    assert found["mae_st_data", "images_supervised"] == found["mae_st_image", "scratch"] == (4096, 62_500)
    assert found["mae_st_data", "k400_supervised"] == (512, 187_500)


@pytest.mark.parametrize("name", ["mae_st_data", "mae_st_intermediate"])
def test_the_column_of_k400_is_fine_tuned_on_k400_by_table_5b_beside_ssv2_s_by_6b(name, data_root):
    study = read(name)
    command = re.search(r"`python -m core.evaluate ([^`]+)`", study.notes)
    words = [word for word in command[1].split() if not word.startswith(("study=", "as="))]
    assert f"study={name}@paper as=k400".split() == [w for w in command[1].split() if w not in words]
    paths = ["data.path=k400.csv", f"runtime.data_root={data_root}"]
    judged, preset = (
        flatten(load(["method=mae_st", "scale=paper", *paths, *more])) for more in (words, ["evals=[finetune]"])
    )
    tuned = {key: value for key, value in preset.items() if key.startswith("evals.finetune.")}
    views = {"evals.finetune.temporal_views": 7, "evals.finetune.spatial_views": 3}
    assert {key: judged[key] for key in tuned} == tuned | views
    assert (judged["eval_data.path"], judged["eval_data.clips_per_video"]) == ("k400.csv", 7)
    asked_of = expanded(name, "paper", data_root)
    own = {config["eval_data.path"] for _, config in asked_of.cells}
    assert own == {"ssv2.csv"} and "finetune@k400/class_top1" in asked_of.metrics
    compare = study.printed.compare
    assert [compare[task][-1] for task in ("K400", "SSv2")] == ["finetune@k400/class_top1", "finetune/class_top1"]
    told = dict(word.split("=", 1) for word in words if word.startswith("evals."))
    fixed = {key for key in tuned if key in asked_of.cells[0][1] and asked_of.cells[0][1][key] != preset[key]}
    assert fixed - told.keys() == set(), "what SSv2's recipe changes must be said again"
