"""The page of recipes: spread, gain and cost of every row of a recipe study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.recipes import contents, main
from tests.analysis.conftest import MAIN, ROWS, Laboratory

RECIPES: dict[str, Any] = {
    **ROWS,
    "rows": [
        {"key": "multiblock", "label": "64 x 500", "set": {"optim.batch_size": 64}},
        {"key": "block", "label": "32 x 1,000", "set": {"optim.batch_size": 32}},
    ],
    "printed": {"metric": "top-1", "source": "Table 6", "values": {"multiblock": 54.2}},
}


def line_of(laboratory: Laboratory, label: str) -> list[str]:
    page = contents(laboratory.engine).decode()
    line = next(line for line in page.splitlines() if line.startswith(f"| {label} |"))
    return [field.strip() for field in line.strip("|").split("|")]


@pytest.fixture
def recipes(laboratory: Laboratory) -> Laboratory:
    laboratory.study("recipe_small", RECIPES)
    for seed, (old, new) in enumerate([(60.0, 70.0), (64.0, 71.0), (68.0, 72.0)]):
        laboratory.run("recipe_small", "multiblock", seed, {MAIN: old, "knn/digit_top1": 50.0}, cpu_seconds=40.0)
        laboratory.run("recipe_small", "random_init", seed, {MAIN: 50.0 + seed, "knn/digit_top1": 40.0})
        if seed < 2:
            laboratory.run("recipe_small", "block", seed, {MAIN: new, "knn/digit_top1": 60.0}, cpu_seconds=80.0)
    return laboratory


def test_a_recipe_is_told_with_spread_gain_and_cost(recipes: Laboratory) -> None:
    # Mean 64 and SD 4; 13 above the random init by 10, 13 and 16; 13 / 4.
    assert line_of(recipes, "64 x 500") == [
        "64 x 500", "`optim.batch_size=64`", "ridge top-1, digits (%)", "3", "64.00 ± 9.94", "4.000", "+13.00 ± 7.45",
        "3.2", "40",
    ]  # fmt: skip


def test_a_seed_that_is_not_there_is_counted(recipes: Laboratory) -> None:
    assert line_of(recipes, "32 x 1,000")[3] == "2 of 3"


def test_the_random_init_gains_nothing_over_itself(recipes: Laboratory) -> None:
    assert line_of(recipes, "random init")[6:8] == ["–", "–"]


def test_a_recipe_whose_features_collapsed_is_named_below_its_table(recipes: Laboratory) -> None:
    facts = {"collapse": {"state": "collapsed", "rankme": 1.3, "said": "collapsed"}}
    recipes.run("recipe_small", "block", 2, {MAIN: 73.0}, facts=facts)
    assert (
        "\n† 32 x 1,000: 1 of 3 seeds collapsed (seed 2: RankMe 1.3); 2 were not looked at.\n"
        in contents(recipes.engine).decode()
    )


def test_a_study_that_is_no_recipe_is_not_on_the_page(laboratory: Laboratory) -> None:
    laboratory.study("ijepa_masking", ROWS)
    assert "## " not in contents(laboratory.engine).decode()


def test_check_says_which_command_writes_the_page_anew(
    recipes: Laboratory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"page={tmp_path}/recipes.md", f"db={recipes.engine.url}"]
    assert main(words) == 0
    assert main([*words, "check=true"]) == 0
    (tmp_path / "recipes.md").write_text("mine")
    capsys.readouterr()
    assert main([*words, "check=true"]) == 1
    assert "recipes.md: differs from the database; run: python -m analysis.recipes" in capsys.readouterr().out
