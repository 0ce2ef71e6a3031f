"""The commands of docs/stacked_runs.md."""

import importlib

from sweeps import launch
from tests.docs.blocks import commands


def test_the_launch_of_the_document_asks_for_its_stack_and_the_rest_are_modules():
    (module, words), *others = commands("stacked_runs.md")
    assert module == "sweeps.launch"
    assert launch.parse(words).job.stack == 4
    for name, arguments in others:
        assert importlib.import_module(name) and arguments[0].startswith("select run_id, n, facts from sw_attempt")
