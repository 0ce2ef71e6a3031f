"""benchmarks/README.md, and the head and targets that it is made of."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.lines import Head, head, judged, met, read, show

BENCHMARKS = sorted(page.FOLDER.glob("*.py"))


def verdicts(line: str, targets: dict[str, str]) -> list[tuple[str | None, str]]:
    return [(verdict.found, met(verdict)) for _, _, found in judged([line], targets) for verdict in found]


def test_the_page_is_what_the_results_and_targets_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert page.main(["check=true"]) == 0, capsys.readouterr().out


def test_a_target_is_of_the_first_number_in_its_unit() -> None:
    line = "claims, 1 worker      8,060 /s   (10,120 per CPU-second)"
    assert verdicts(line, {"claims, 1 worker": "at least 4,000 /s"}) == [("8,060 /s", "met")]
    assert verdicts(line, {"claims, 1 worker": "at least 9,000 /s"}) == [("8,060 /s", "missed")]


def test_a_line_has_several_targets_and_a_unit_that_it_lacks_was_not_measured() -> None:
    line = "the report   18.2 s (26.8 s of CPU); 0.44 GB at most"
    targets = {"the report": "at most 20 s; at most 0.4 GB; at most 9 files"}
    assert verdicts(line, targets) == [("18.2 s", "met"), ("0.44 GB", "missed"), (None, "not measured")]


def test_a_number_may_follow_its_word_and_every_number_can_be_asked_for() -> None:
    assert verdicts("ijepa: 80 ms, ratio 0.76", {"ijepa": "ratio at most 0.70"}) == [("ratio 0.76", "missed")]
    assert verdicts("3 rows   95.4 %  2.3  93.9 %  1.6", {"3 rows": "each at least 94 %"}) == [("93.9 %", "missed")]


def test_a_longer_name_is_another_line_and_a_second_of_the_same_name_has_no_target() -> None:
    lines = ["log()   5 us", "log(), MLflow's   3,982 us", "log()   70 us"]
    assert [key for _, key, _ in judged(lines, {"log()": "at most 50 us"})] == ["log()", None, None]


@pytest.mark.parametrize(
    "line",
    [
        "the report   18.2 s   target 20 s; 0.44 GB at most   target 1 GB; 7 files",
        "the report   18.2 s; 0.44 GB at most   target at most 20 s: met; at most 1 GB: met",
    ],
)
def test_what_a_line_says_of_its_target_is_not_taken_for_what_was_found(line: str) -> None:
    targets = {"the report": "each at most 20 s; each at most 1 GB"}
    assert verdicts(line, targets) == [("18.2 s", "met"), ("0.44 GB", "met")]


def test_what_is_shown_is_written_below_its_head_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "speed.txt"
    targets = {"a step": "at most 5 ms"}
    show(["a step   6 ms", "others"], output, benchmark="speed.py", targets=targets, words=["--write"])
    assert output.read_text() == capsys.readouterr().out
    found = read(output)
    assert found.lines == ["a step   6 ms   target at most 5 ms: missed", "others"]
    assert found.head.command == "python -m benchmarks.speed --write"
    assert found.head.software.startswith("Python 3.") and " cores, load " in found.head.machine


def test_a_head_names_no_folder_of_this_machine_and_the_card_first() -> None:
    found = head("video.py", [], "A card", ["--path", "/data/own/videos", "--reference=/data/steps.py"])
    assert found.command == "python -m benchmarks.video --path videos --reference=steps.py"
    assert found.machine.startswith("A card; host ")


def test_a_result_without_a_head_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("a step   6 ms\n")
    with pytest.raises(ValueError, match=r"old\.txt: must begin with the lines command, date, machine, software"):
        read(tmp_path / "old.txt")


def test_the_page_has_a_row_for_each_target_also_where_nothing_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    source = '"""How fast {name} is.\n\nMore."""\n\nOUTPUT = 1\nTARGETS = {{"a step": "at most 5 ms"}}\n'
    for name in ("quick", "slow"):
        (tmp_path / f"{name}.py").write_text(source.format(name=name))
    known = Head("python -m benchmarks.quick", "2026-01-02", "a machine", "none")
    (tmp_path / "results/quick.txt").write_text("\n".join([*known.lines(), "", "a step   4 ms", "a line", ""]))
    rows = page.contents(tmp_path).decode().splitlines()[-4:]
    quick = "`python -m benchmarks.quick` | 2026-01-02 | a machine |"
    slow = "`python -m benchmarks.slow --write` | not recorded | not recorded |"
    assert rows == [
        f"| **[quick](results/quick.txt)** How fast quick is | 2 lines | see below |   | {quick}",
        f"| a step | 4 ms | at most 5 ms | met | {quick}",
        f"| **[slow](slow.py)** How fast slow is | not recorded | see below |   | {slow}",
        f"| a step | not recorded | at most 5 ms | not measured | {slow}",
    ]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_target_of_a_benchmark_can_be_judged(path: Path) -> None:
    targets = page.benchmark(path.stem).targets
    assert len(list(judged([f"{key}: 1" for key in targets], targets))) == len(targets)  # asserts the words' form


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_result_is_written_by_show_alone(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not {"OUTPUT.write_text", "OUTPUT.open"} & calls
    if page.benchmark(path.stem).has_results:
        assert "show" in calls
