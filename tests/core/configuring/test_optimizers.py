"""One enum of optimisers, of which each option takes some members."""

from typing import Any

import pytest

from core.configuring.config import ConfigError, flatten, load
from core.evals.tuned.detect_tuned import DetectTuned
from core.evals.tuned.finetune import FineTune
from core.evals.vissl import Vissl
from core.optim import Optim
from core.train import describe
from core.types import Optimizer

OPTIONS = [
    ("optim.name", Optim, "adamw", "lars", "sgd"),
    ("evals.finetune.optimizer", FineTune, "adamw", "sgd", "lars"),
    ("evals.detect_tuned.optimizer", DetectTuned, "adamw", "sgd", "lars"),
    ("evals.vissl.optimizer", Vissl, "sgd", "lars", "adamw"),
]


@pytest.mark.parametrize(("key", "component", "first", "second", "not_taken"), OPTIONS)
@pytest.mark.parametrize("is_known", [True, False])
def test_what_an_option_does_not_take_is_refused_with_what_it_takes(
    key: str, component: Any, first: str, second: str, not_taken: str, is_known: bool
) -> None:
    value = not_taken if is_known else "adamm"
    kind = [f"evals=[{key.split('.')[1]}]"] if key.startswith("evals") else []
    with pytest.raises(ConfigError) as refused:
        load(["scale=smoke", *kind, f"{key}={value}"], checked=False)
    assert str(refused.value) == f"{key}={value}: Invalid value '{value}', expected one of [{first}, {second}]"


@pytest.mark.parametrize(("key", "component", "first", "second", "not_taken"), OPTIONS)
def test_a_component_made_in_python_refuses_it_as_well(
    key: str, component: Any, first: str, second: str, not_taken: str
) -> None:
    with pytest.raises(ValueError, match=f"{key} must be one of {first}, {second}, got {not_taken}"):
        component(**{key.rpartition(".")[2]: Optimizer[not_taken]})


@pytest.mark.parametrize(("key", "component", "first", "second", "not_taken"), OPTIONS)
def test_help_lists_what_an_option_takes_and_no_more(
    key: str, component: Any, first: str, second: str, not_taken: str
) -> None:
    line = next(line for line in describe(key.split(".")[0]).splitlines() if line.strip().startswith(f"{key}="))
    assert {first, second} <= set(line.replace("=", " ").replace(",", " ").replace(")", " ").split())
    assert not_taken not in line


def test_both_that_an_option_takes_are_recorded_by_their_names() -> None:
    assert [flatten(load([f"optim.name={name}"], checked=False))["optim.name"] for name in ("adamw", "lars")] == [
        "adamw",
        "lars",
    ]
