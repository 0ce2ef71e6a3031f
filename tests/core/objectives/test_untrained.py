import pytest
import torch

from core.configuring.config import ConfigError, load, spec_of
from core.running.building import build_learner

PARTLESS = ["scale=smoke", "objective=untrained"]


def test_its_encoder_is_what_every_method_starts_from():
    for method in ("mae", "ijepa", "supervised"):
        words = ["scale=smoke", f"method={method}", "optim.steps=0", "seed=5"]
        run, alone = load(words), load([*words, "objective=untrained"])
        one, other = (build_learner(r, spec_of(r)).judged_encoder.state_dict() for r in (run, alone))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_takes_no_step():
    with pytest.raises(ConfigError, match=r"^optim.steps=3: objective=untrained trains nothing; set optim.steps=0, or"):
        load([*PARTLESS, "optim.steps=3"])


def test_it_has_no_parts():
    with pytest.raises(ConfigError, match="objective=untrained uses no mask"):
        load([*PARTLESS, "optim.steps=0", "mask=random"])
