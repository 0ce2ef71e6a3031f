"""The short way from settings to a run, beside the composed config."""

import pytest

from core.configuring.config import PRESETS, known_choices, load, told_of
from core.configuring.direct import run_of
from core.configuring.layers import layered, parse


def settings_of(*words):
    settings = layered(parse(words))
    choices, evals, _ = known_choices(settings, [])
    return settings, choices, evals


@pytest.mark.parametrize("method", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_it_is_the_run_that_is_composed_option_by_option(method):
    asked = settings_of(f"method={method}", "seed=3", "precision=bf16", "evals=[knn,ridge]", "evals.knn.k=7")
    assert repr(run_of(*asked)) == repr(told_of(*asked, unsettled=(), found=[]))


@pytest.mark.parametrize(
    "word",
    [
        *("mask.ratoi=0.5", "optim.steps=many", "mask.ratio=1.2", "optim.steps.more=1", "foo=1", "evals.knn.k=3"),
        *("augment=null", "evals.ridge.alphas=1", "optim.name=adagrad", "runtime.log_every=0", "runtime.dir='???'"),
        "runtime.dir='${scale}'",
    ],
)
def test_what_may_be_wrong_is_left_to_those_who_find_words_for_it(word):
    assert run_of(*settings_of("method=mae", "evals=[ridge]", word)) is None


def test_two_runs_share_no_list():
    first, second = (load(["method=mae", "evals=[ridge]"]) for _ in range(2))
    first.evals["ridge"].alphas.clear()
    assert second == load(["method=mae", "evals=[ridge]"])


def test_a_text_is_no_number_and_a_number_no_truth():
    load(["method=mae", "optim.steps=1", "augment.flip=true"])
    assert load(["method=mae", "optim.steps='1'"]).optim.steps == 1
    assert load(["method=mae", "augment.flip=1"]).augment.flip is True
