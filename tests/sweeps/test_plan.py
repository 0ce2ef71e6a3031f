import io

import pytest
from rich.console import Console

from sweeps import plan
from sweeps.cli import OK, USER_ERROR
from sweeps.plan import Cost, Recorded, Wanted, hours, lines
from tests.sweeps.launched import finish_next, register, two_rows


def study(name: str, *configs: str, steps: int = 100) -> Wanted:
    return Wanted(name, len(configs), {(config, seed): steps for config in configs for seed in (0, 1)})


def run(config: str, seed: int, *, state: str = "done", steps: int = 100, cpu_seconds: float = 36.0) -> Recorded:
    return Recorded((config, seed), state, steps, Cost(cpu_seconds, 0.0))


def test_a_run_of_another_study_is_shared_and_done_once():
    first, second = lines([study("first", "a", "b"), study("second", "b")], [run("b", 0)])
    assert (first.shared, len(first.done), len(first.left)) == (2, 1, 3)
    assert (second.shared, len(second.done), len(second.left)) == (2, 1, 1)


def test_a_run_costs_what_its_config_cost_with_other_seeds():
    (line,) = lines([study("first", "a", "b")], [run("a", 0, cpu_seconds=72.0), run("b", 0)])
    assert line.left == {("a", 1): Cost(72.0, 0.0), ("b", 1): Cost(36.0, 0.0)}


def test_a_config_that_never_ran_costs_what_its_steps_cost_elsewhere_in_the_study():
    wanted = Wanted("first", 2, {("a", 0): 100, ("b", 0): 200})
    (line,) = lines([wanted], [run("a", 0)])
    assert line.left == {("b", 0): Cost(72.0, 0.0)}


def test_a_cost_that_nothing_is_known_of_is_a_question_mark():
    (line,) = lines([study("first", "a")], [])
    assert hours(line.left.values(), gpu=False) == "?"
    assert hours([None, Cost(3600.0, 0.0)], gpu=False) == "> 1.00 h"
    assert hours([], gpu=True) == "0.00 h"


@pytest.mark.parametrize("state", ["failed", "diverged"])
def test_what_failed_is_neither_done_nor_left(state):
    (line,) = lines([study("first", "a")], [run("a", 0, state=state)])
    assert (len(line.done), len(line.left)) == (0, 1)


def test_the_total_counts_a_shared_run_once():
    table = plan.as_table(lines([study("first", "a", "b"), study("second", "b")], [run("b", 0)]))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    total = console.export_text().splitlines()[-2]
    assert [int(word) for word in total.replace("│", " ").split() if word.isdigit()] == [3, 4, 1, 3]


def test_a_registered_launch_is_planned_without_expanding_it(engine, monkeypatch):
    asked = two_rows()
    register(engine, asked, "core")
    finish_next(engine, {}, cpu_seconds=10.0)
    monkeypatch.setattr(plan, "expand", lambda request: pytest.fail("expanded"))
    with engine.connect() as connection:
        (line,) = lines([plan.wanted(connection, asked, "core")], plan.recorded(connection))
    assert (line.num_cells, len(line.runs), len(line.done), len(line.left)) == (2, 4, 1, 3)


def test_planning_writes_nothing(tmp_path, capsys, monkeypatch):
    assert plan.main(["study=ijepa_targets", "scale=smoke", f"db=sqlite:///{tmp_path}/none.sqlite"]) == OK
    assert "ijepa_targets@smoke" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_an_unknown_study_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert plan.main(["study=ijepa_target", f"db=sqlite:///{tmp_path}/none.sqlite"]) == USER_ERROR
    assert "did you mean ijepa_target" in capsys.readouterr().err
