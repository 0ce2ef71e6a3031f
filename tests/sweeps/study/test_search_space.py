"""The search: section and the seed rule of a study file: what is refused, and what a scale changes."""

from pathlib import Path

import pytest

from sweeps.study.files import StudyError
from sweeps.study.reading import parse, read
from sweeps.study.seed_rule import first_seeds, further_seeds

SEARCH = {"space": {"mask.ratio": {"float": [0.1, 0.9]}}, "budget": 4}
FILE = {"title": "T", "question": "Q?", "search": SEARCH, "metrics": ["ridge/digit_top1"]}
ROWS = {"title": "T", "question": "Q?", "grid": {"mask.ratio": [0.5]}, "metrics": ["ridge/digit_top1"]}


def study(**changes):
    return parse({**FILE, **changes}, Path("studies/s.yaml"))


def space(**distribution):
    return {"search": {**SEARCH, "space": {"mask.ratio": distribution}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {**SEARCH, "budgett": 3}}, "unknown key search.budgett (did you mean budget"),
        ({"search": {"space": SEARCH["space"]}}, "search.budget must be a whole number of at least 1, got None"),
        ({"search": {"budget": 3}}, "search.space: name at least one option"),
        ({"search": [1]}, "search must be a mapping of names to values, got [1]"),
        ({"search": {**SEARCH, "sampler": "tpee"}}, "search.sampler must be one of tpe, random, cmaes, gp, got 'tpee'"),
        ({"search": {**SEARCH, "pruner": "asha"}}, "give search.eval_every, in steps"),
        ({"search": {**SEARCH, "direction": "up"}}, "search.direction must be one of maximize, minimize"),
        ({"search": {**SEARCH, "space": {"runtime.device": {"int": [1, 2]}}}}, "runtime.device is chosen when"),
        (space(), "must have one of float, int, categorical"),
        (space(float=[0.9, 0.1]), "low must be below high, got [0.9, 0.1]"),
        (space(float=[0, 1], log=True), "log needs a low above 0, got 0"),
        (space(float=[0.1, 1], log=True, step=0.1), "step and log exclude each other"),
        (space(float=[0.1, 0.9], step=0.3), "search.space.mask.ratio.step=0.3 does not divide 0.1 to 0.9"),
        (space(int=[1.5, 2]), "must be [low, high], two whole numbers, got [1.5, 2]"),
        (space(int=[1, 8], step=0), "step must be above 0, a whole number, got 0"),
        (space(categorical=[1]), "must be a list of two or more values, got [1]"),
        (space(categorical=[1, 2], log=True), "unknown key search.space.mask.ratio.log"),
        ({"rows": [{"key": "a"}]}, "rows: a study has rows or a search:, not both"),
        ({"seeds": [0, 1]}, "seeds: a search counts its seeds from one, such as [0], got [0, 1]"),
        ({"search": {**SEARCH, "seeds": 0}}, "search.seeds must be a whole number of at least 1, got 0"),
        ({"search": {**SEARCH, "promote": 4}}, "search.promote must be a mapping of names to values, got 4"),
        ({"search": {**SEARCH, "promote": {"trial": 4}}}, "unknown key search.promote.trial (did you mean trials?)"),
        (
            {"search": {**SEARCH, "seeds": 4, "promote": {"seeds": 4}}},
            "search.promote.seeds must be above search.seeds",
        ),
        ({"search": {**SEARCH, "judge": {"seeds": 1}}}, "search.judge.seeds must be at least 2"),
        ({"scales": {"smoke": {"search": {"budget": 0}}}}, "scales.smoke: search.budget must be a whole number"),
    ],
)
def test_a_mistake_in_the_search_names_its_key(changes, message):
    with pytest.raises(StudyError) as caught:
        study(**changes)
    assert message in str(caught.value)
    assert str(caught.value).startswith("studies/s.yaml: ")


def test_a_scale_changes_the_search_option_by_option():
    small = {"budget": 2, "space": {"predictor.depth": {"int": [1, 2]}}}
    found = study(scales={"smoke": {"search": small}})
    assert found.search("cpu").budget == 4 and list(found.search("cpu").space) == ["mask.ratio"]
    assert found.search("smoke").budget == 2 and list(found.search("smoke").space) == ["mask.ratio", "predictor.depth"]


def test_figures_of_a_search_belong_to_a_search():
    figures = [{"name": "importance", "kind": "importance"}]
    assert study(figures=figures).figures[0]["kind"] == "importance"
    with pytest.raises(StudyError, match=r"kind must be one of line, bar, point, scatter, got 'importance'"):
        parse({**ROWS, "figures": figures}, Path("studies/s.yaml"))


def test_the_keys_of_trials_are_not_for_rows():
    with pytest.raises(StudyError, match=r"rows: the key 'trial_1' is taken"):
        parse({**{k: v for k, v in ROWS.items() if k != "grid"}, "rows": [{"key": "trial_1"}]}, Path("s.yaml"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"stop_when": "half_width < 1", "maxx": 4}, "unknown key seeds.maxx (did you mean max?)"),
        ({"stop_when": "half_width < 1", "start": 1}, "seeds.start must be at least 2"),
        ({"stop_when": "half_width < 1", "max": 2}, "seeds.max must be a whole number of at least seeds.start (3)"),
        ({"stop_when": "narrow"}, "seeds.stop_when must read like \"half_width < 1.0\", got 'narrow'"),
        ({}, "seeds.stop_when must read like"),
    ],
)
def test_a_mistake_in_the_seed_rule_names_its_key(rule, message):
    with pytest.raises(StudyError) as caught:
        parse({**ROWS, "seeds": rule}, Path("studies/s.yaml"))
    assert message in str(caught.value)


def test_a_seed_rule_begins_with_its_first_seeds():
    rule = {"start": 3, "stop_when": "half_width < 1.0", "max": 5}
    found = parse({**ROWS, "seeds": rule}, Path("studies/s.yaml"))
    assert found.seeds() == first_seeds(rule) == [0, 1, 2]
    assert further_seeds(rule) == [3, 4] and further_seeds([0, 1]) == []
    assert found.seed_rule().half_width == 1.0


def test_the_shipped_search_varies_masking_decoder_target_and_crop_at_every_scale():
    found = read("search_masking")
    for scale in ("smoke", "cpu", "gpu", "paper"):
        assert set(found.search(scale).space) == {
            "mask.ratio", "predictor.depth", "predictor.width", "target.norm", "augment.scale_min",
        }  # fmt: skip


def test_the_shipped_search_of_i_jepa_varies_masking_predictor_and_target_at_every_scale():
    found = read("search_multiblock")
    for scale in ("smoke", "cpu", "gpu", "paper"):
        assert set(found.search(scale).space) == {
            "mask.num_targets", "mask.target_scale_min", "mask.target_scale_max", "mask.context_scale_min",
            "predictor.depth", "predictor.width", "target.decay_start",
        }  # fmt: skip


def test_two_seeds_a_trial_bring_promotion_and_judging_on_seeds_of_their_own():
    seeds = study(**searched(seeds=2)).search().seeds
    assert seeds.of_trials(3) == [3, 4]
    assert (seeds.num_promoted, seeds.of_promoted(3)) == (4, [3, 4, 5, 6])
    assert seeds.of_judging(3) == [7, 8, 9, 10, 11]
    assert seeds.further(3) == [5, 6, 7, 8, 9, 10, 11]


def test_a_search_that_says_nothing_of_seeds_has_one_and_nothing_is_judged():
    found = study(**searched())
    assert found.seeds() == [0] and found.further_seeds() == []


def searched(**changes) -> dict:
    return {"search": {"space": {"mask.ratio": {"float": [0.1, 0.9]}}, "budget": 3, **changes}}
