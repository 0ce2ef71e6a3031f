"""A random initialisation is one run for an encoder and its data, whatever the baseline is trained with."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from core.configuring.config import flatten, from_flat, identity, load
from core.running.trainer import train
from sweeps import cli, plan
from sweeps.cells import untrained
from sweeps.cells.estimate import recorded
from sweeps.cells.expand import expand
from sweeps.cells.registry import Registered, register_study
from sweeps.cells.request import Request
from sweeps.console.errors import UserError
from sweeps.database import aliases
from sweeps.database.tables import CellRow, Config, RunRow, StudyRow
from sweeps.study.identity import digest
from sweeps.study.reading import parse, read
from tests.core.running.test_trainer import Notebook
from tests.sweeps.conftest import BOTH

RESULTS = Path(__file__).parents[3] / "results"
STUDY = {
    "title": "Depth",
    "question": "How deep?",
    "base": {"method": "ijepa", "evals": ["collapse", "knn", "ridge"]},
    "rows": [{"key": "one"}, {"key": "two", "set": {"loss": "l2"}}],
    "metrics": ["ridge/{label}_top1"],
    "seeds": [0, 1],
}
SMALL = {"encoder.width": 48, "encoder.heads": 2}


def asked(name: str = "depth", *, base: object = None, **changes: object) -> Request:
    spec = {**STUDY, "base": {**STUDY["base"], **(base or {})}, **changes}
    return Request(parse(spec, Path(f"studies/{name}.yaml")), "smoke")


def registered(engine: Engine, request: Request) -> Registered:
    with engine.begin() as connection:
        return register_study(connection, expand(request), "")


def inits(request: Request) -> list[dict]:
    return [config for cell, config in expand(request).cells if cell.is_random_init]


def num_untrained_runs(engine: Engine) -> int:
    zero = Config.json["optim.steps"].as_integer() == 0
    with engine.connect() as connection:
        return (
            connection.scalar(
                select(func.count()).select_from(RunRow).join(Config, Config.id == RunRow.config_id).where(zero)
            )
            or 0
        )


def with_baseline(**options: object) -> list[dict]:
    return [{"key": "one", "set": {key.replace("__", "."): value for key, value in options.items()}}, {"key": "two"}]


TRAINED_OTHERWISE = {
    "the predictor's depth": {"rows": with_baseline(predictor__depth=3)},
    "the mask": {"rows": with_baseline(mask="random", mask__ratio=0.5)},
    "the loss": {"rows": with_baseline(loss="l2")},
    "the target": {"rows": with_baseline(target="pixels", loss="mse")},
    "the batch size and the learning rate": {"rows": with_baseline(optim__batch_size=8, optim__lr_peak=0.01)},
    "the crops": {"rows": with_baseline(augment__scale_min=0.3)},
    "the baseline's row": {"baseline": "two"},
}


@pytest.mark.parametrize("changes", TRAINED_OTHERWISE.values(), ids=TRAINED_OTHERWISE.keys())
def test_a_baseline_that_is_trained_in_another_way_asks_for_no_new_random_init(changes, engine):
    registered(engine, asked())
    assert num_untrained_runs(engine) == 2
    registered(engine, asked(**changes))
    assert num_untrained_runs(engine) == 2


def test_two_studies_of_one_encoder_share_their_random_init(engine):
    registered(engine, asked())
    registered(engine, asked("other", base={"predictor.depth": 3, "optim.weight_decay": 0.1}))
    assert num_untrained_runs(engine) == 2


@pytest.mark.parametrize(
    "options", [SMALL, {"encoder.init": "mae"}, {"data.num_train": 80}, {"precision": "fp32"}, {"evals": ["ridge"]}]
)
def test_another_encoder_data_precision_or_judging_is_another_random_init(options):
    (one,), (other,) = inits(asked()), inits(asked(base=options))
    assert digest(one) != digest(other)


def test_a_baseline_of_another_encoder_has_a_random_init_of_its_own(engine):
    rows = [{"key": "one"}, {"key": "small", "set": SMALL}]
    registered(engine, asked(rows=rows))
    registered(engine, asked(rows=rows, baseline="small"))
    assert num_untrained_runs(engine) == 4


def test_a_table_has_one_row_of_random_init_and_a_run_of_it_for_each_encoder_and_data():
    columns = [
        {"key": "short", "set": {"optim.steps": 2}},
        {"key": "long", "set": {"optim.steps": 4}},
        {"key": "small", "set": SMALL},
    ]
    cells = [(cell, digest(config)) for cell, config in expand(asked(columns=columns)).cells if cell.is_random_init]
    assert [(cell.row_label, cell.col_key) for cell, _ in cells] == [
        ("random init", "short"),
        ("random init", "long"),
        ("random init", "small"),
    ]
    (_, short), (_, long), (_, small) = cells
    assert short == long != small


def test_a_mask_is_part_of_it_where_the_table_shows_its_shares():
    shown = {"metrics": ["ridge/{label}_top1", "mask/context_share"]}
    (one,), (other,) = inits(asked(**shown)), inits(asked(**shown, base={"predictor.depth": 3, "loss": "l2"}))
    assert digest(one) == digest(other)
    (masked,) = inits(asked(**shown, rows=with_baseline(mask="random")))
    assert digest(one) != digest(masked)


def test_a_study_that_does_not_show_a_mask_takes_the_run_of_one_that_does(engine):
    registered(engine, asked("masks", metrics=["ridge/{label}_top1", "mask/context_share"]))
    registered(engine, asked())
    assert num_untrained_runs(engine) == 2


def test_a_row_of_no_steps_is_the_random_init_of_its_study(engine):
    registered(engine, asked(rows=[{"key": "one"}, {"key": "none", "set": {"optim.steps": 0, "predictor.depth": 3}}]))
    assert num_untrained_runs(engine) == 2


def test_a_run_that_is_there_for_its_pictures_keeps_its_mask():
    (config,) = inits(asked(base={"evals": []}, metrics=["mask/context_share"]))
    assert config["mask"] == "multiblock" and config["objective"] == "masked" and "optim.lr_peak" in config


METHODS = {
    "mae": ["ridge"],
    "ijepa": ["collapse", "knn"],
    "vjepa": ["ridge"],
    "supervised": ["ridge"],
    "vicreg": ["ridge"],
    "m_jepa": ["flow"],
    "mc_jepa": ["flow", "ridge", "seg"],
}
FLOW = ("m_jepa", "mc_jepa")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shown", [(), ("mask/context_share",)], ids=["no mask shown", "mask shown"])
def test_the_numbers_of_a_random_init_are_those_of_the_whole_config(method, shown, tmp_path):
    words = [f"method={method}", "scale=smoke", "optim.steps=0", f"evals=[{','.join(METHODS[method])}]", "seed=3"]
    run = load([*words, f"runtime.cache={tmp_path / 'cache'}", "runtime.threads=1", "runtime.tensorboard=false"])
    less = from_flat(untrained.form(identity(flatten(run)), shown), seed=run.seed, runtime=vars(run.runtime))
    found = []
    for one in (run, less):
        notebook = Notebook(tmp_path / str(len(found)))
        notebook.folder.mkdir()
        train(one, notebook)
        found.append({name: value for name, value in notebook.results.items() if not name.startswith("cost/")})
    whole, short = found
    assert short and (not shown or method in ("supervised", "vicreg", *FLOW) or shown[0] in short)
    assert short == pytest.approx({name: whole[name] for name in short})
    assert {name for name in whole if not name.startswith("mask/")} <= short.keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_form_of_a_form_is_itself(method):
    flat = identity(flatten(load([f"method={method}", "scale=smoke", "optim.steps=0"])))
    for metrics in ((), ("mask/context_share",), ("flow@clean/epe",)):
        form = untrained.form(flat, metrics)
        assert digest(untrained.form(form, metrics)) == digest(form)
        assert {digest(form)} <= set(untrained.forms(flat)) & set(untrained.forms(form))


def test_a_flow_to_be_judged_later_keeps_its_estimator_and_not_its_losses():
    flat = identity(flatten(load(["method=mc_jepa", "scale=smoke", "optim.steps=0", "evals=[ridge]"])))
    kept = untrained.form(flat, ["flow@clean/epe"])
    assert kept["objective"] == "flow" and "objective.estimator_radius" in kept
    assert digest(kept) == digest(untrained.form(flat | {"objective.smooth_coeff": 7.0}, ["flow@clean/epe"]))
    assert digest(kept) != digest(untrained.form(flat | {"objective.estimator_radius": 1}, ["flow@clean/epe"]))
    assert untrained.form(flat)["objective"] == "untrained"


def older(request: Request) -> list[tuple]:
    """The study's cells as they were when the whole config of the baseline was a random init's identity."""
    words = [[f"{key}={value}" for key, value in cell.overrides.items()] for cell in request.study.cells("smoke")]
    loaded = [identity(flatten(load(["scale=smoke", *(text.replace("'", "") for text in one)]))) for one in words]
    return list(zip(request.study.cells("smoke"), loaded, strict=True))


def registered_before(engine: Engine, request: Request) -> Registered:
    before = dataclasses.replace(expand(request), cells=older(request), runs=())
    with engine.begin() as connection:
        return register_study(connection, before, "before")


def free_cells(engine: Engine, study: str) -> list[tuple]:
    """The columns of the study's table and the hash of the config that it shows there as random init."""
    query = (
        select(CellRow.col_key, Config.hash)
        .join(CellRow, CellRow.config_id == Config.id)
        .join(StudyRow, StudyRow.id == CellRow.study_id)
        .where(StudyRow.name == study, CellRow.revision == StudyRow.revision, CellRow.row_key == "random_init")
        .order_by(CellRow.col_key)
    )
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_a_study_from_before_keeps_the_random_init_that_its_table_shows(engine):
    one, other = asked(), asked("other", base={"predictor.depth": 3})
    first, second = registered_before(engine, one), registered_before(engine, other)
    shown = [free_cells(engine, name) for name in ("depth@smoke", "other@smoke")]
    assert shown[0] != shown[1] and num_untrained_runs(engine) == 4
    again = registered(engine, one), registered(engine, other)
    assert [free_cells(engine, name) for name in ("depth@smoke", "other@smoke")] == shown
    assert [study.run_ids for study in again] == [first.run_ids, second.run_ids]
    assert [study.revision for study in again] == [1, 1]


@BOTH
def test_a_new_study_takes_the_random_init_from_before_that_was_judged_most_often(engine):
    registered_before(engine, asked())
    judged = registered_before(engine, asked("other", base={"predictor.depth": 3}))
    with engine.begin() as connection:
        connection.execute(RunRow.__table__.update().where(RunRow.id.in_(judged.run_ids)).values(state="done"))
    registered(engine, asked("third", base={"predictor.depth": 5}))
    assert free_cells(engine, "third@smoke") == free_cells(engine, "other@smoke")
    assert num_untrained_runs(engine) == 4


def test_a_plan_counts_the_random_init_that_is_there(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(plan.expansion_cache, "FOLDER", tmp_path)
    registered_before(engine, asked())
    for _ in ("expanded", "remembered"):
        with engine.connect() as connection:
            wanted = plan.wanted(connection, asked(rows=with_baseline(predictor__depth=3)), "core")
            known = {run.key for run in recorded(connection)}
        assert {key for key, steps in wanted.steps.items() if not steps} <= known


@pytest.mark.slow
def test_no_study_of_the_repository_judges_a_random_init_again(tmp_path):
    shutil.copy(RESULTS / "ablations.sqlite", tmp_path / "copy.sqlite")
    engine = cli.connect(f"sqlite:///{tmp_path / 'copy.sqlite'}", read_only=False)
    aliases.apply_to(engine)
    before = num_untrained_runs(engine)
    with engine.connect() as connection:
        studies = connection.execute(select(StudyRow.name, StudyRow.spec).order_by(StudyRow.name)).all()
    num_here = 0
    for name, spec in studies:
        stem, _, word = name.partition("@")
        request = Request(read(stem), spec["scale"], tuple(spec["overrides"]), name=word)
        try:
            expansion = expand(request)
        except UserError as error:
            assert "path must be" in str(error), error  # its data is not in the repository
            continue
        shown = free_cells(engine, name)
        with engine.begin() as connection:
            register_study(connection, expansion, "")
        assert free_cells(engine, name) == shown, name
        num_here += 1
    assert num_here > 25
    assert num_untrained_runs(engine) == before
    engine.dispose()
