"""What `python -m core.train help=...` shows."""

import pytest

from core.config import GROUPS, SECTIONS, parse
from core.train import describe


@pytest.mark.parametrize("topic", [*GROUPS, *SECTIONS, "evals"])
def test_help_shows_options_as_they_are_typed(topic):
    lines = [line.strip().split("  (or ")[0] for line in describe(topic).splitlines() if line.startswith("    ")]
    assert lines
    for line in lines:
        [(_, value)] = parse([line]).items()
        assert "<" not in str(value) and value != "None", line


def test_help_names_the_other_choices_of_an_option():
    assert "    data.fit=resize  (or cover, crop, pad)" in describe("data")
