"""A trained run opened again, and what may be asked of it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from core.configuring.config import ConfigError, flatten, identity, load
from core.evaluate import append, main
from core.measuring.phases import Costs
from core.running import checkpoint
from core.running.asking import Presets, asked_of
from core.running.checkpoint import CheckpointError
from core.running.stored import Answer, Judge, open_stored
from tests.core.running.test_trainer import TINY, run_it


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    """A trained MAE: its folder and what it recorded."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run_it(cache, folder)


def config(*overrides):
    return identity(flatten(load([*TINY, *overrides])))


def asked(cache, *overrides, of=(), name=None, seed=0, presets=None):
    return asked_of(config(*of), seed, [*overrides, f"runtime.cache={cache}", "runtime.threads=1"], name, presets)


def names(cache, *overrides, **options):
    return [one.name for one in asked(cache, *overrides, **options)]


def test_a_stored_run_gives_the_numbers_that_it_gave_when_it_was_trained(cache, trained):
    folder, record = trained
    (own,) = asked(cache)
    answer = Judge(open_stored(own.run, folder)).answer(own)
    told = {name: value for name, value in answer.results.items() if not name.startswith("cost/")}
    assert told == {name: value for name, value in record.results.items() if name.startswith("ridge/")}
    assert answer.step == 6


def test_only_the_evaluation_that_encodes_the_data_is_charged_for_it(cache, trained, tmp_path):
    folder, _ = trained
    judge = Judge(open_stored(asked(tmp_path)[0].run, folder))
    costs = [
        judge.answer(one).results[f"cost/eval_{one.name}_features_gflop"]
        for one in asked(tmp_path, "evals=[knn,ridge]", "runtime.features_gib=0")
    ]
    assert costs[0] > 0 and costs[1] == 0


def test_probes_by_quadrants_and_by_the_mean_are_answered_from_one_encoding(cache, trained, tmp_path):
    folder, _ = trained
    both = asked(tmp_path, "evals=[quadrants,ridge]", "runtime.features_gib=0")
    judge = Judge(open_stored(both[0].run, folder), both)
    answers = [judge.answer(one).results for one in both]
    assert [answers[i][f"cost/eval_{both[i].name}_features_gflop"] > 0 for i in range(2)] == [True, False]
    assert "quadrants/digit_top1" in answers[0] and "ridge/digit_top1" in answers[1]


def test_labels_that_do_not_suffice_are_told_before_anything_is_encoded(cache, trained):
    (one,) = asked(cache, "evals=[knn]", "evals.knn.k=9999")
    judge = Judge(open_stored(one.run, trained[0]))
    with pytest.raises(ValueError, match=r"evals.knn.k must be at most the number of train samples"):
        judge.answer(one)
    assert judge.encoding_seconds() == 0


def test_an_evaluation_is_named_by_what_differs_from_the_runs_own(cache):
    assert names(cache) == names(cache, "evals=[ridge]", "evals.ridge.heldout=0.2") == ["ridge"]
    assert names(cache, "evals.ridge.num_layers=2") == ["ridge@num_layers=2"]
    assert names(cache, "evals=[ridge]", of=["evals.ridge.num_layers=2"]) == ["ridge"]
    assert names(cache, "evals=[linear,ridge]", "evals.linear.lrs=[0.1,0.2]") == ["linear@lrs=0.1+0.2", "ridge"]
    assert names(cache, "eval_data=moving_digits", "eval_data.size=48") == ["ridge@data=moving_digits,data.size=48"]


def test_an_evaluation_that_the_run_has_not_takes_the_options_of_its_method_and_its_scale(cache):
    smoke = Presets("mae_st", "smoke")
    (one,) = asked(cache, "evals=[vissl]", presets=smoke)
    assert one.name == "vissl" and one.usual == "those of method=mae_st scale=smoke"
    assert (one.settings["evals.vissl.optimizer"], one.settings["evals.vissl.layers"]) == ("sgd", [1, 2])
    assert one.settings["evals.vissl.heldout"] == 0.1  # of which no preset says anything
    (one,) = asked(cache, "evals=[vissl]", "evals.vissl.layers=[1]", presets=smoke)
    assert one.name == "vissl@layers=1" and one.settings["evals.vissl.optimizer"] == "sgd"
    (one,) = asked(cache, "evals=[finetune]", presets=Presets("mae_st", "paper"))
    assert one.settings["evals.finetune.lr"] == 0.0048  # the method's


def test_an_evaluation_of_a_run_without_presets_takes_the_defaults_and_says_so(cache):
    (one,) = asked(cache, "evals=[vissl]", "evals.vissl.layers=[1]")
    assert one.settings["evals.vissl.optimizer"] == "lars" and one.usual == "its defaults"


def test_the_runs_own_evaluation_keeps_its_options_whatever_the_presets_say(cache):
    of = ["evals=[vissl]", "evals.vissl.layers=[2]"]
    (one,) = asked(cache, of=of, presets=Presets("mae", "cpu"))
    assert one.name == "vissl" and one.settings["evals.vissl.layers"] == [2] and one.usual == "the run's own"


def test_what_older_code_recorded_with_the_defaults_answers_for_these_settings_only(cache):
    by_default = asked(cache, "evals=[vissl]", "evals.vissl.layers=[1]")[0].settings
    smoke = Presets("mae", "smoke")
    assert not asked(cache, "evals=[vissl]", presets=smoke)[0].is_answered_by(by_default)
    words = [f"{key}={value}" for key, value in by_default.items() if key.startswith("evals.vissl.")]
    (again,) = asked(cache, "evals=[vissl]", *words, presets=smoke)
    assert again.is_answered_by(by_default) and again.name != "vissl"


def test_a_name_of_ones_own_also_names_what_the_presets_give(cache):
    """Where older code recorded other settings by the plain name, there is a way on."""
    smoke = Presets("mae", "smoke")
    assert names(cache, "evals=[vissl]", name="new", presets=smoke) == ["vissl@new"]


def test_a_name_of_ones_own_replaces_the_list_of_differences(cache):
    assert names(cache, "evals.ridge.num_layers=2", name="deep") == ["ridge@deep"]


@pytest.mark.parametrize("name", ["a/b", "", "a b", "x" * 61])
def test_a_name_that_no_metric_can_hold_is_refused(cache, name):
    with pytest.raises(ConfigError, match="as="):
        names(cache, "evals.ridge.num_layers=2", name=name)


def test_differences_that_are_long_or_hold_a_slash_become_a_digest_of_the_settings(cache):
    many = [float(number) for number in range(1, 30)]
    first, second = (names(cache, f"evals.ridge.alphas={alphas}")[0] for alphas in (many, many[1:]))
    assert len(first) == len("ridge@01234567") and first != second


def test_the_runs_own_data_said_in_full_is_no_other_data(cache):
    own = [f"eval_{key}={value}" for key, value in config().items() if key == "data" or key.startswith("data.")]
    (one,) = asked(cache, *(word.replace("None", "null") for word in own))
    assert one.name == "ridge" and one.settings["eval_data"] is None


def test_settings_of_older_code_are_the_same_where_a_newer_option_has_its_default(cache):
    (one,) = asked(cache)
    older = {key: value for key, value in one.settings.items() if key != "evals.ridge.heldout"}
    assert one.is_answered_by(older)
    assert not one.is_answered_by(older | {"evals.ridge.heldout": 0.3})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mask.ratio=0.2", r"mask\.ratio=0\.2: the run is trained"),
        ("evals=[linnear]", "did you mean linear"),
        ("evals.linear.epochs=2", "evals does not include linear"),
        ("eval_data.size=48", "eval_data"),
        ("evals.ridge.alphas=[-1.0]", r"evals\.ridge\.alphas"),
        ("evals.ridge.alphas=2", r"evals\.ridge\.alphas=2: must be a list, such as evals\.ridge\.alphas=\[2\]"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_key(cache, override, message):
    with pytest.raises(ConfigError, match=message):
        asked(cache, override)


def test_a_run_that_has_no_evaluations_needs_to_be_told_one(cache):
    with pytest.raises(ConfigError, match="the run has none of its own"):
        asked(cache, of=["evals=[]"])
    with pytest.raises(ConfigError, match=r"^evals=\[\]; say which, of ridge, knn"):
        asked(cache, "evals=[]")


def test_a_folder_without_a_checkpoint_is_refused(cache, tmp_path):
    (own,) = asked(cache)
    with pytest.raises(CheckpointError, match="holds no checkpoint that can be read"):
        open_stored(own.run, tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused_by_its_first_tensor(cache, trained):
    folder, _ = trained
    for of, message in ((["encoder.depth=1"], "blocks"), (["encoder.width=16"], r"\[32.*in this run's")):
        (wrong,) = asked(cache, of=of)
        with pytest.raises(CheckpointError, match=message):
            open_stored(wrong.run, folder)


def test_a_run_of_no_steps_is_its_seed(cache, tmp_path):
    record = run_it(cache, tmp_path, "optim.steps=0")
    (own,) = asked(cache, of=["optim.steps=0"])
    answer = Judge(open_stored(own.run, tmp_path)).answer(own)
    assert answer.results["ridge/digit_top1"] == record.results["ridge/digit_top1"]


def test_opening_a_run_judges_the_moving_average_where_there_is_one(cache, tmp_path):
    run_it(cache, tmp_path, "method=ijepa")
    (own,) = asked(cache, of=["method=ijepa"])
    stored = open_stored(own.run, tmp_path)
    state = checkpoint.newest(tmp_path)[1]["learner"]
    name = next(key for key in state if key.startswith("target.encoder.blocks"))
    assert torch.equal(stored.encoder.state_dict()[name.removeprefix("target.encoder.")], state[name])


# ---- the command on a folder ---------------------------------------------------------------------------------------


def command(capsys, folder, cache, *words):
    code = main([f"runtime.dir={folder}", f"runtime.cache={cache}", "runtime.threads=1", *words])
    said = capsys.readouterr()
    return code, dict(line.split() for line in said.out.splitlines() if "options" not in line), said.err


def test_the_command_answers_from_its_file_the_second_time(cache, tmp_path, capsys):
    run_it(cache, tmp_path)
    words = ["evals=[linear]", "evals.linear.epochs=2"]
    first = command(capsys, tmp_path, cache, *words)
    assert first[0] == 0 and "linear@epochs=2/digit_top1" in first[1]
    for path in checkpoint.checkpoints(tmp_path)[1:]:
        path.unlink()
    path = checkpoint.checkpoints(tmp_path)[0]
    state = torch.load(path, weights_only=True)
    torch.save(state | {"learner": {}}, path)  # nothing is left to evaluate
    assert command(capsys, tmp_path, cache, *words) == first
    assert [entry["name"] for entry in json.loads((tmp_path / "evaluations.json").read_text())] == ["linear@epochs=2"]


def test_the_command_takes_the_presets_that_the_folders_result_names(cache, tmp_path, capsys):
    run_it(cache, tmp_path)
    words = [f"runtime.dir={tmp_path}", f"runtime.cache={cache}", "runtime.threads=1", "evals=[attentive]"]
    words += ["evals.attentive.epochs=1"]
    assert main([*words, "evals.attentive.heads=2"]) == 0
    assert "attentive@epochs=1,heads=2: options that were not given are its defaults" in capsys.readouterr().out
    result = {"config": flatten(load([*TINY, "scale=smoke"]))}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "attentive@epochs=1: options that were not given are those of method=mae scale=smoke" in said
    made = json.loads((tmp_path / "evaluations.json").read_text())[-1]
    assert made["settings"]["evals.attentive.heads"] == 4


def test_the_command_names_a_folder_without_a_run(cache, tmp_path, capsys):
    code, _, error = command(capsys, tmp_path / "none", cache)
    assert code == 2 and "no checkpoint and no result.json" in error and "Traceback" not in error


def test_the_command_names_a_record_that_is_torn(cache, tmp_path, capsys):
    run_it(cache, tmp_path)
    (tmp_path / "evaluations.json").write_text('[{"name": "ri')
    code, _, error = command(capsys, tmp_path, cache)
    assert code == 2 and "evaluations.json cannot be read" in error and "Traceback" not in error


def test_commands_that_end_at_once_all_leave_their_results(cache, tmp_path):
    (own,) = asked(cache)
    names = [f"ridge@{number}" for number in range(40)]

    def end(name):
        append(tmp_path / "evaluations.json", own._replace(name=name), Answer({name: 1.0}, Costs(0, 0, 0, 0, 0), 6), {})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, names))
    written = json.loads((tmp_path / "evaluations.json").read_text())
    assert sorted(entry["name"] for entry in written) == sorted(names)


def test_the_command_must_be_told_a_run(capsys):
    assert main(["evals=[linear]"]) == 2
    assert "say which run" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["run=1", "study=tiny"])
def test_a_run_named_by_its_folder_and_by_the_database_is_refused(word, tmp_path, capsys):
    assert main([word, f"runtime.dir={tmp_path}", "evals=[linear]"]) == 2
    assert f"{word} and runtime.dir={tmp_path} both say which run: give one" in capsys.readouterr().err
