import math

import pytest

from sweeps.study.identity import canonical_json, digest


def test_an_int_and_the_equal_float_are_the_same_setting() -> None:
    assert digest({"mask.ratio": 1}) == digest({"mask.ratio": 1.0})


def test_minus_zero_is_zero() -> None:
    assert digest({"optim.weight_decay": -0.0}) == digest({"optim.weight_decay": 0})


def test_the_order_of_keys_does_not_matter() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})


def test_a_tuple_is_the_list_that_the_database_gives_back() -> None:
    assert digest({"evals": ("knn", "ridge"), "scale": (0.5, 1.0)}) == digest(
        {"evals": ["knn", "ridge"], "scale": [0.5, 1]}
    )


def test_the_order_of_a_list_matters() -> None:
    assert digest({"scale": [0.5, 1]}) != digest({"scale": [1, 0.5]})


@pytest.mark.parametrize(("one", "other"), [(True, 1), (False, 0), ("1", 1), (None, 0), (0.1, 0.10000000000000002)])
def test_values_that_mean_different_things_differ(one: object, other: object) -> None:
    assert digest({"key": one}) != digest({"key": other})


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a configuration cannot hold"):
        digest({"key": value})


def test_the_canonical_form_is_pinned() -> None:
    """Every stored hash depends on it: when this must change, raise HASH_VERSION and write alias migrations."""
    config = {"mask": "tube", "mask.ratio": 0.9, "optim.steps": 800.0, "loss": None, "evals": ["knn"], "lr": 1e-3}
    expected = '{"evals":["knn"],"loss":null,"lr":0.001,"mask":"tube","mask.ratio":0.9,"optim.steps":800}'
    assert canonical_json(config) == expected
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
