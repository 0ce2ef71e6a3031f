"""A run's encoder as a folder with its card."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from sqlalchemy import select, update

from sweeps.answers import model_card
from sweeps.database.opening import open_database
from sweeps.database.tables import CellRow, RunRow
from sweeps.export_encoder import main
from sweeps.launch import main as launch
from tests.docs.blocks import commands

STUDY = """
title: Ratio
question: How much?
base: {method: ijepa, evals: [ridge], optim.steps: 2}
rows:
  - {key: few, set: {mask.num_targets: 2}}
metrics: [ridge/digit_top1]
random_init: false
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    (folder / "targets.yaml").write_text(STUDY, encoding="utf-8")
    where = [f"db=sqlite:///{folder / 'a.sqlite'}", f"results_dir={folder / 'results'}"]
    cache = f"runtime.cache={folder / 'cache'}"
    words = [f"study={folder / 'targets.yaml'}", "scale=smoke", "executor=inline", *where, cache]
    assert launch(words) == 0
    database = open_database(f"sqlite:///{folder / 'a.sqlite'}")
    with database.begin() as connection:  # a label that would break the card's tables and run as a script
        display = connection.scalars(select(CellRow.display)).first()
        hostile = {**display, "row_label": "a | b\n<script>alert(1)</script> `c` [d](e)"}
        connection.execute(update(CellRow).values(display=hostile))
        ids = list(connection.scalars(select(RunRow.id).order_by(RunRow.id)))
    database.dispose()
    return SimpleNamespace(words=[*where, cache], ids=ids, folder=folder)


@pytest.fixture(scope="module")
def exported(launched):
    to = launched.folder / "encoder"
    assert main([f"run={launched.ids[0]}", f"to={to}", *launched.words]) == 0
    return to


def test_the_folder_holds_what_timm_reads(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 32)


def test_the_weights_are_the_moving_average_of_the_checkpoint(exported: Path, launched) -> None:
    run = launched.folder / "results" / "runs" / str(launched.ids[0])
    [*_, newest] = sorted(run.rglob("step-*.pt"))
    stored = torch.load(newest, weights_only=True)["learner"]
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(f"local-dir:{exported}", pretrained=True)
    average, trained = (stored[f"{part}blocks.0.mlp.fc1.weight"] for part in ("target.encoder.", "encoder."))
    assert torch.equal(model.state_dict()["blocks.0.mlp.fc1.weight"], average)
    assert not torch.equal(average, trained)


def test_the_card_says_what_the_database_knows(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "timm" and "license" not in front
    assert re.search(r"\| ridge/digit\\_top1 \| [\d.]+ \| [\d.]+ ± [\d.]+ \\\(2 seeds\\\) \|", card)
    assert "| mask.num\\_targets | 2 |" in card and "| study | targets@smoke: " in card
    assert re.search(r"\| code \| git ([0-9a-f]{40}|unknown)", card) and "CPU-hours" in card
    assert "after 2 training steps, seed 0" in card
    assert "yours to look up and to state" in card


def test_strings_of_the_database_are_no_markup(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    [line] = [line for line in card.splitlines() if line.startswith("| study |")]
    assert r"a \| b &lt;script&gt;alert\(1\)&lt;/script&gt; \`c\` \[d\]\(e\)" in line
    assert "<script>" not in card


def test_an_interval_is_the_t_interval_of_the_seeds() -> None:
    # mean 11, standard deviation 1, 3 seeds: 4.303 / sqrt(3)
    assert model_card.interval([10.0, 11.0, 12.0]) == "11 ± 2.484 (3 seeds)"
    assert model_card.interval([10.0]) == "one seed: none"


def test_weights_that_it_started_from_are_named_with_their_licence() -> None:
    said = model_card.licence({"weights": "file", "weights.path": "jepa_l.pt", "weights.sha256": "ab" * 32})
    assert r"jepa\_l.pt" in said and "ab" * 32 in said and "non-commercial" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to=FOLDER/new"], "say run=ID and to=FOLDER"),
        (["run=1"], "say run=ID and to=FOLDER"),
        (["run=99", "to=FOLDER/new"], "run=99: not in this database"),
        (["run=1", "to=FOLDER/results"], "there is something already; give a new folder"),
        (["run=1", "to=FOLDER/new", "results_dir=FOLDER/elsewhere"], "has no checkpoint in"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(launched, capsys, words: list[str], message: str) -> None:
    given = [word.replace("FOLDER", str(launched.folder)) for word in words]
    names = [word.split("=")[0] for word in given]
    code = main([*given, *(word for word in launched.words if word.split("=")[0] not in names)])
    error = capsys.readouterr().err
    assert code == 2 and message in " ".join(error.split()) and "Traceback" not in error
    assert not (launched.folder / "new").exists()


def test_the_command_of_the_document_exports_a_run(launched, monkeypatch: pytest.MonkeyPatch) -> None:
    [words] = [words for module, words in commands("released_weights.md") if module == "sweeps.export_encoder"]
    monkeypatch.chdir(launched.folder)
    said = [f"run={launched.ids[1]}" if word.startswith("run=") else word for word in words]
    assert main([*said, *launched.words]) == 0
    assert (launched.folder / "encoders" / "masking" / "model.safetensors").exists()


def test_a_convolutional_encoder_is_refused_in_one_line(tmp_path, capsys):
    study = STUDY.replace("method: ijepa", "method: m_jepa").replace(
        "mask.num_targets: 2", "objective.cycle_coeff: 0.2"
    )
    (tmp_path / "flows.yaml").write_text(study.replace("seeds: [0, 1]", "seeds: [0]"), encoding="utf-8")
    where = [f"db=sqlite:///{tmp_path / 'a.sqlite'}", f"results_dir={tmp_path / 'results'}"]
    words = [*where, f"runtime.cache={tmp_path / 'cache'}"]
    assert launch([f"study={tmp_path / 'flows.yaml'}", "scale=smoke", "executor=inline", *words]) == 0
    assert main(["run=1", f"to={tmp_path / 'encoder'}", *words]) == 2
    assert "run=1: only encoder=vit has timm's names, this run has a ConvNeXtModule" in capsys.readouterr().err
    assert not (tmp_path / "encoder").exists()
