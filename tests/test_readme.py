"""README and the index of docs: their commands run, at scale smoke in an empty folder; their numbers are measured."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sqlalchemy import func, select

from analysis.numbers.frame import load
from analysis.one_study import table_of
from analysis.tables.render import markdown
from sweeps import launch
from sweeps.cells.request import Request
from sweeps.database.opening import open_database
from sweeps.database.tables import Attempt, CellRow, RunRow, StudyRow
from sweeps.study.reading import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (ROOT / "docs/README.md").read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


[STUDY] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
RATIO = "| hidden share of patches |"  # the header of its table
NUMBER = r"−?\d+(?:,\d{3})*(?:\.\d+)?"


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of the Markdown table whose header begins so, without header and rule."""
    [table] = [block for block in re.split(r"\n\n+", page) if block.startswith(header)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_readme_starts_with_the_command_that_make_offers():
    assert commands(README)[0] == "make study"
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "study", "test", "check", "bench"} <= set(targets)
    assert set(re.findall(r"`make ([a-z-]+)`", README + INDEX)) <= set(targets)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_study_launches_what_readme_says_beside_it(tmp_path):
    told = re.search(r"^make study +# python (-m .*?), into runs/", README, re.MULTILINE)
    # Under `make test` the outer make would hand its flags on: a line for each folder, and --keep-going.
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    made = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", f"VENV={tmp_path}", "study"],
        cwd=ROOT,
        env=alone,
        capture_output=True,
        text=True,
        check=True,
    )
    launch = made.stdout.replace("\\\n", " ").strip().splitlines()[-1].split()
    assert set(told[1].split()) <= set(launch)


def test_readme_is_short_and_draws_no_tree():
    assert len(README.splitlines()) <= 120
    assert not re.search(r"[├└│]", README)


def test_the_time_of_the_first_command_is_that_of_the_reported_runs():
    [(num_runs, minutes)] = re.findall(r"The (\d+) reported runs took (\d+) minutes on two cores", README)
    assert re.search(rf"^make study .*; {num_runs} runs, {minutes} minutes$", README, re.MULTILINE)
    engine = open_database(f"sqlite:///{ROOT}/results/ablations.sqlite", read_only=True)
    wanted = (
        select(func.count(RunRow.id.distinct()), func.min(Attempt.started), func.max(Attempt.ended))
        .join_from(StudyRow, CellRow, (CellRow.study_id == StudyRow.id) & (CellRow.revision == StudyRow.revision))
        .join(RunRow, RunRow.config_id == CellRow.config_id)
        .join(Attempt, Attempt.run_id == RunRow.id)
        .where(StudyRow.name == "masking_ratio", RunRow.seed.in_([0, 1, 2]))
    )
    with engine.connect() as connection:
        known, started, ended = connection.execute(wanted).one()
    engine.dispose()
    assert (int(num_runs), int(minutes)) == (known, round((ended - started) / 60))


def test_the_times_of_a_finished_study_are_the_measured_ones():
    told = r"study=masking_ratio +# from results/.*: (\S+) s of CPU, again (\S+) s$"
    [(first, again)] = re.findall(told, README, re.MULTILINE)
    measured = (ROOT / "benchmarks/results/relaunch.txt").read_text()
    assert f"launching a finished study, the first time   {first} s of CPU" in measured
    assert f"launching a finished study again   {again} s of CPU" in measured


def test_the_study_of_readme_becomes_its_table_and_trains_nothing(tmp_path):
    """The reported runs are those that it asks for, so that its table is made of them."""
    database = shutil.copy(ROOT / "results/ablations.sqlite", tmp_path / "a.sqlite")
    engine = open_database(f"sqlite:///{database}")
    request = Request(parse(yaml.safe_load(STUDY), Path("ratio.yaml")), "cpu")
    launch.register(engine, request)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(RunRow.state == "queued")) == 0
    text = markdown(table_of(load(engine, "ratio")))
    engine.dispose()
    assert rows(README, RATIO) == rows(text, RATIO)


def test_the_table_of_readme_has_the_numbers_of_the_reported_one():
    reported = (ROOT / "results/tables/masking_ratio.md").read_text(encoding="utf-8")
    values = [[cells[3], cells[4]] for cells in rows(reported, RATIO.removesuffix(" |"))]
    assert [cells[1:3] for cells in rows(README, RATIO)] == values


def test_the_intervals_in_the_words_of_readme_are_of_its_table():
    told = set(re.findall(rf"{NUMBER} ± {NUMBER}", README))
    table = {number for cells in rows(README, RATIO) for number in cells}
    assert told <= table | {number.removeprefix("+") for number in table}


def test_every_number_of_a_promise_is_in_what_its_command_printed_or_checks():
    promises = rows(README, "| promise |")
    assert len(promises) >= 5
    for promise, here, peer, source in promises:
        command, path = re.fullmatch(r"\[`(.+?)`\]\((.+?)\)", source).groups()
        words = command.split()
        measured = (ROOT / path).read_text(encoding="utf-8")
        if words[0] == "pytest":
            assert words[1] == path, promise
        else:
            assert (ROOT / Path(*words[2].split("."))).with_suffix(".py").is_file(), promise
        for number in re.findall(rf"(?<![\w.-]){NUMBER}(?:e-\d+)?(?![\w.])", f"{here} {peer}"):
            assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d.,]\d)", measured), f"{promise}: {number}"


def test_the_promise_of_the_storms_is_their_sum():
    """Of each system and database: kills, runs that were lost, runs that were trained twice."""
    lines = (ROOT / "benchmarks/results/storm.txt").read_text(encoding="utf-8").splitlines()
    storms = [json.loads(line) for line in lines if line.startswith("{")]
    [(_, here, peer, _)] = [cells for cells in rows(README, "| promise |") if "benchmarks.storm" in cells[3]]
    for system, told in (("ours", here), ("optuna", peer)):
        for database, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
            of = [storm for storm in storms if (storm["system"], storm["database"]) == (system, database)]
            lost, twice, kills = (sum(storm[key] for storm in of) for key in ("lost", "twice", "kills"))
            assert f"{name}: {lost} lost, {twice} twice in {kills} kills" in told


@pytest.mark.parametrize("page", ["README.md", "docs/README.md", "docs/architecture.md", "CONTRIBUTING.md"])
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_page_of_docs_is_in_their_index():
    links = set(re.findall(r"\]\((\w+\.md)\)", INDEX))
    assert links == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, INDEX], ids=["README", "index"])
def test_the_commands_of_a_page_run(page, tmp_path):
    pictures = tmp_path / "photos"
    (tmp_path / "ratio.yaml").write_text(STUDY, encoding="utf-8")
    documented = [command for command in commands(page) if command.startswith(".venv/bin/python")]
    assert len(documented) >= 8
    small = ["scale=smoke", "seeds=[0]", "workers=2"]
    for command in sorted(documented, key=lambda text: "sweeps.launch" not in text):  # the others read what it wrote
        words = shlex.split(command)[1:]
        if "analysis.serve" in words:
            continue  # it ends with Ctrl-C only, too; tests/analysis/test_serve.py serves
        if "executor=slurm" in words:
            assert launch.parse(words[2:]).request.study  # tests/sweeps/engine/test_slurm.py submits
            continue
        if "watch=true" in words:
            words.remove("watch=true")  # it ends with Ctrl-C only; tests/sweeps/test_status.py watches
        if "sweeps.launch" in words:
            words = [word for word in words if not word.startswith("seeds=")] + small
        if "study=ratio.yaml" in words:
            words.append("optim.steps=2")  # it asks for 1,000 at every scale
        if "sweeps.plan" in words:
            words.append("scale=smoke")
        if "data=image_folder" in words:
            draw(pictures)
            words = [f"data.path={pictures}" if word.startswith("data.path=") else word for word in words]
            words[words.index("data.size=64")] = "data.size=32"
        done = subprocess.run(
            [sys.executable, *as_in(tmp_path, words)], cwd=tmp_path, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def as_in(folder, words):
    """Study names of README's tables are those of the default scale; a smoke launch's are called study@smoke."""
    reads = any(word.startswith(("sweeps.status", "sweeps.query")) for word in words)
    return [f"{word}@smoke" if reads and word == "study=masking_ratio" else word for word in words]


def draw(folder, num_images=60):
    for number in range(num_images):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
