import io
from pathlib import Path

import pytest
from rich.console import Console

from sweeps import plan
from sweeps.cells.estimate import Cost, Estimator, Recorded, recorded
from sweeps.cells.expand import Expansion
from sweeps.cells.request import Request
from sweeps.console.errors import OK, USER_ERROR
from sweeps.database import aliases
from sweeps.database.aliases import renamed
from sweeps.progress.to_finish import Wanted, hours
from sweeps.progress.to_finish import lines as lines_of
from sweeps.search.search import Search
from sweeps.study.identity import digest
from sweeps.study.reading import parse
from tests.sweeps.launched import TWO_ROWS, finish_next, register, two_rows


def lines(studies, runs):
    return lines_of(studies, Estimator(runs, {}))


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
    assert hours([Cost(8.2, 0.0)], gpu=False) == "9 s"


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
        (line,) = lines([plan.wanted(connection, asked, "core")], recorded(connection))
    assert (line.num_cells, len(line.runs), len(line.done), len(line.left)) == (2, 4, 1, 3)


def test_what_is_to_come_is_counted_and_costs_what_like_runs_cost():
    wanted = Wanted("first", 2, {("a", 0): 100, ("b", 0): 100}, further={("a", 1): 100}, num_trials=2)
    (line,) = lines([wanted], [run("a", 0, cpu_seconds=72.0), run("b", 0, state="pruned", cpu_seconds=36.0)])
    assert line.to_come == (Cost(72.0, 0.0), Cost(54.0, 0.0), Cost(54.0, 0.0))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan.as_table([line]))
    shown = console.export_text().splitlines()[-2].replace("│", " ").split()
    assert shown[-5:] == ["3", "0.05", "h", "0.00", "h"]


def searching(budget: int = 6):
    space = {"mask.ratio": {"float": [0.1, 0.9]}}
    search = {"space": space, "budget": budget, "metric": "ridge/digit_top1"}
    file = {key: value for key, value in TWO_ROWS.items() if key not in ("rows", "seeds")} | {"search": search}
    return Request(parse(file, Path("studies/searched.yaml")), "cpu")


def planned(engine, asked, fingerprint: str = "core"):
    with engine.connect() as connection:
        (line,) = lines([plan.wanted(connection, asked, fingerprint)], recorded(connection))
    return line


def test_a_search_has_its_budget_to_come_less_what_it_has_asked_for(engine):
    asked = searching()
    registered = register(engine, asked, "core")
    assert len(planned(engine, asked).to_come) == 6
    search = Search(engine, asked, registered, resolve=lambda request, params: {"optim.steps": 100, **params})
    search.step(2)
    search.close()
    finish_next(engine, {"ridge/digit_top1": 1.0}, cpu_seconds=36.0)
    line = planned(engine, asked)
    assert (len(line.runs), len(line.left), len(line.to_come)) == (3, 2, 4)
    assert set(line.to_come) == {Cost(36.0, 0.0)}


def test_a_search_whose_budget_was_edited_goes_on_from_its_trials(engine, monkeypatch):
    asked = searching()
    registered = register(engine, asked, "core")
    search = Search(engine, asked, registered, resolve=lambda request, params: {"optim.steps": 100, **params})
    search.step(2)
    search.close()
    cells = [(cell, cell.overrides) for cell in asked.study.cells("cpu")]
    monkeypatch.setattr(plan, "expand", lambda request: Expansion(request, request.spec(), [], cells))
    monkeypatch.setattr(plan.expansion_cache, "read", lambda launch: None)
    monkeypatch.setattr(plan.expansion_cache, "write", lambda launch, hashes: None)
    line = planned(engine, searching(budget=10))
    assert (len(line.runs), len(line.left), len(line.to_come)) == (3, 3, 8)


RULE = {"start": 2, "stop_when": "half_width < 1.0", "max": 5}


def test_a_rule_for_seeds_may_ask_for_all_of_them_while_nothing_is_known(engine):
    asked = two_rows(seeds=RULE)
    register(engine, asked, "core")
    line = planned(engine, asked)
    assert (len(line.left), len(line.to_come)) == (4, 6)


def test_a_rule_for_seeds_asks_for_as_many_as_the_spread_so_far_needs(engine):
    asked = two_rows(seeds=RULE)
    register(engine, asked, "core")
    for value in (10.0, 20.0, 11.0, 21.2):  # differences of 10 and 10.2: narrow enough with three seeds
        finish_next(engine, {"ridge/digit_top1": value})
    assert len(planned(engine, asked).to_come) == 2


def test_a_run_that_no_launch_has_migrated_yet_counts_under_today_s_name(engine, monkeypatch):
    register(engine, two_rows())
    finish_next(engine, {})
    monkeypatch.setattr(aliases, "MIGRATIONS", (renamed("ratio is share", "mask.ratio", "mask.share"),))
    with engine.connect() as connection:
        done = [run.key for run in recorded(connection) if run.state == "done"]
    assert done == [(digest({"mask.share": 0.5, "optim.steps": 100}), 0)]


def test_planning_writes_nothing(tmp_path, capsys, monkeypatch):
    assert plan.main(["study=ijepa_targets", "scale=smoke", f"db=sqlite:///{tmp_path}/none.sqlite"]) == OK
    assert "ijepa_targets@smoke" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_an_unknown_study_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert plan.main(["study=ijepa_target", f"db=sqlite:///{tmp_path}/none.sqlite"]) == USER_ERROR
    assert "did you mean ijepa_target" in capsys.readouterr().err


def test_a_study_that_is_named_twice_is_planned_once(tmp_path, capsys):
    named = [f"study={names}" for names in ("ijepa_targets", "ijepa_targets,ijepa_targets")]
    told = []
    for words in named:
        assert plan.main([words, "scale=smoke", f"db=sqlite:///{tmp_path}/none.sqlite"]) == OK
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
