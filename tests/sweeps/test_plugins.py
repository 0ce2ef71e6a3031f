"""A study over a plugin of each kind: trained by two workers, shown without the plugin, refused with other source."""

import json
import re
import sqlite3
from pathlib import Path

import pytest
import yaml

from sweeps import launch
from sweeps.console.errors import OK, USER_ERROR
from tests.forked import forked
from tests.lab import lab, python, write_lab

__all__ = ["lab"]
EVERY = {
    "title": "Ours",
    "question": "Does a chess board hide enough?",
    "plugins": [f"my_lab.{kind}" for kind in ("masks", "losses", "targets", "vit", "predictors", "data", "evals")],
    "base": {
        "method": "mae", "data": "stripes", "encoder": "timm_vit", "target": "colour", "predictor": "mean_plus_place",
        "loss": "log_cosh", "evals": ["centroid", "ridge"], "optim.steps": 3, "optim.batch_size": 8,
    },
    "rows": [
        {"key": "random", "label": "random", "set": {"mask": "random"}},
        {"key": "checker", "label": "chess board", "set": {"mask": "checker"}},
    ],
    "seeds": [0],
    "metrics": ["centroid/{label}_top1"],
}  # fmt: skip
WHOLE = {
    "title": "Whole frames",
    "question": "Does it train?",
    "plugins": ["my_lab.cnn", "my_lab.objectives"],
    "base": {"objective": "flip", "encoder": "tv_resnet18", "data.size": 32, "evals": ["ridge"], "optim.steps": 1},
    "rows": [{"key": "flip", "set": {"optim.batch_size": 8}}],
    "seeds": [0],
    "metrics": ["ridge/{label}_top1"],
}
MASKS_ONLY = EVERY | {
    "plugins": ["my_lab.masks"],
    "base": {"method": "mae", "evals": ["ridge"], "data.num_train": 48, "data.num_test": 32, "optim.steps": 1},
    "metrics": ["ridge/{label}_top1"],
    "random_init": False,
}


def study(folder: Path, content: dict, name: str = "ours") -> None:
    (folder / "studies").mkdir(exist_ok=True)
    (folder / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def words(name: str, folder: Path, *more: str) -> list[str]:
    places = [f"db=sqlite:///{folder}/ours.sqlite", f"results_dir={folder}/results"]
    return [f"study={name}", "scale=smoke", *places, f"runtime.cache={folder}/cache", *more]


def asked(folder: Path, question: str) -> list[tuple]:
    with sqlite3.connect(folder / "ours.sqlite") as connection:
        return connection.execute(question).fetchall()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_two_workers_train_a_study_of_plugins_and_what_it_found_is_read_without_them(lab, folder):
    study(folder, EVERY)
    trained = python("-m", "sweeps.launch", *words("ours", folder, "workers=2"), cwd=folder, path=lab)
    assert trained.returncode == 0, trained.stderr
    assert asked(folder, "select state, count(*) from sw_run group by state") == [("done", 3)]
    [told] = asked(folder, "select a.data, a.facts from sw_attempt a join sw_run r on r.id = a.run_id where r.id = 2")
    assert {f"plugin.my_lab.{kind}" for kind in ("masks", "losses", "targets")} <= json.loads(told[0]).keys()
    assert len(json.loads(told[1])["plugins"]) == 7
    configs = [json.loads(row[0]) for row in asked(folder, "select json from sw_config")]
    assert sorted(config.get("mask.plugin") or "" for config in configs) == ["", "", "my_lab.masks"]
    assert {config["encoder.plugin"] for config in configs} == {"my_lab.vit"}

    places = [f"db=sqlite:///{folder}/ours.sqlite", f"results_dir={folder}/results"]
    reading = [
        ("sweeps.status", "study=ours@smoke", places[0]),
        ("sweeps.status", "run=2", places[0], "plugins=[my_lab.masks]"),
        ("sweeps.query", "select metric, value from sw_result", places[0]),
        ("analysis.report", "study=ours@smoke", *places, "plugins=[my_lab.masks]"),
        ("sweeps.export", "study=ours@smoke", "to=capsule.sqlite", places[0]),
    ]
    for module, *rest in reading:
        done = forked(module, *rest, cwd=folder)
        assert done.returncode == 0, (module, done.stderr)
    table = (folder / "results" / "tables" / "ours@smoke.md").read_text(encoding="utf-8")
    assert "chess board" in table
    assert re.search(r"plugin my\\_lab\.masks [0-9a-f]{8}", table)

    building = [
        ("core.evaluate", "run=2", "evals=[knn]", *places),
        ("sweeps.export_encoder", "run=2", "to=encoder", *places),
        ("sweeps.launch", *words("ours", folder, "seeds=[0,1]")),
    ]
    for module, *rest in building:
        refused = forked(module, *rest, cwd=folder)
        assert refused.returncode == USER_ERROR, (module, refused.stdout)
        assert "plugins=my_lab" in refused.stderr and "no such module here" in refused.stderr
        assert "Traceback" not in refused.stderr

    judged = forked("core.evaluate", "run=2", "evals=[knn]", *places, cwd=folder, path=lab)
    assert judged.returncode == 0, judged.stderr


def test_a_wrapped_network_of_whole_frames_is_trained_by_an_objective_of_a_plugin(lab, folder):
    study(folder, WHOLE, "whole")
    assert launch.main(words("whole", folder, "executor=inline")) == OK
    assert asked(folder, "select state, count(*) from sw_run group by state") == [("done", 2)]


def test_other_source_is_refused_with_both_hashes_until_somebody_says_that_it_is_the_same(lab, folder, capsys):
    study(folder, MASKS_ONLY)
    launched = ["sweeps.launch", *words("ours", folder, "executor=inline")]
    assert forked(*launched, cwd=folder, path=lab).returncode == 0
    file = lab / "my_lab" / "masks.py"
    file.write_text(file.read_text(encoding="utf-8") + "# another\n", encoding="utf-8")
    refused = forked(*launched, cwd=folder, path=lab)
    assert refused.returncode == USER_ERROR
    said = re.search(r"runtime\.same_data=\[[0-9a-f]{16}-[0-9a-f]{16}\]", refused.stderr)
    assert "plugins: the finished runs were made by other source: my_lab.masks had the hash" in refused.stderr
    assert said is not None
    assert forked(*launched, said.group(), cwd=folder, path=lab).returncode == 0
    assert asked(folder, "select count(*) from sw_attempt") == [(2,)]


def test_a_plugin_is_named_on_the_command_line_without_another_name_for_the_table(lab, folder):
    typed = {key: value for key, value in MASKS_ONLY.items() if key != "plugins"}
    study(folder, typed)
    assert launch.main(words("ours", folder, "executor=inline", "plugins=[my_lab.masks]")) == OK
    assert asked(folder, "select name from sw_study") == [("ours@smoke",)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["her_lab"], "plugins=her_lab: no such module here"),
        ("my lab", "plugins must be a list of modules such as [my_lab.masks], got 'my lab'"),
        (7, "plugins must be a list of modules such as [my_lab.masks], got 7"),
    ],
)
def test_a_study_s_wrong_plugins_are_one_line_before_anything_is_written(folder, capsys, value, message):
    study(folder, MASKS_ONLY | {"plugins": value})
    assert launch.main(words("ours", folder)) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert not (folder / "ours.sqlite").exists()


def test_a_run_that_a_worker_lacks_the_plugin_of_has_failed_with_its_name(tmp_path, monkeypatch):
    folder, site = tmp_path / "work", write_lab(tmp_path / "lab")
    folder.mkdir()
    study(folder, MASKS_ONLY)
    started = ["tests.sweeps.registered", *words("ours", folder)]
    assert forked(*started, cwd=folder, path=site).returncode == 0
    places = words("ours", folder)[2:4]
    done = forked("sweeps.worker", *places, cwd=folder)
    assert "1 done, 1 failed" in done.stdout
    [(error,)] = asked(folder, "select error from sw_attempt where outcome = 'failed'")
    assert "plugins=my_lab.masks: no such module here" in error
    early = forked("sweeps.worker", *places, "plugins=[my_lab.masks]", cwd=folder)
    assert early.returncode == USER_ERROR
    assert "plugins=my_lab.masks: no such module here" in early.stderr
