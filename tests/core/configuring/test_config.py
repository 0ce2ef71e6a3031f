import pytest
import yaml
from PIL import Image

from core.configuring.config import (
    PRESETS,
    ConfigError,
    Run,
    flatten,
    from_flat,
    identity,
    load,
    metric_names,
    name_of,
    spec_of,
)

METHODS = sorted(path.stem for path in PRESETS.glob("*.yaml"))


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
@pytest.mark.parametrize("method", METHODS)
def test_every_preset_builds_at_every_scale_that_needs_no_data(method, scale):
    run = load([f"method={method}", f"scale={scale}"])
    assert isinstance(run, Run)
    assert (run.method, run.scale) == (method, scale)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_its_flat_config(method):
    flat = flatten(load([f"method={method}", "seed=3"]))
    assert flatten(load([f"{key}={text(value)}" for key, value in flat.items()])) == flat


def text(value):
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip() if value is not None else "null"


def test_a_stored_identity_gives_the_run_again_whatever_the_presets_say():
    stored = identity(flatten(load(["method=ijepa"])))
    again = from_flat(stored, seed=5, runtime={"dir": "elsewhere"})
    assert identity(flatten(again)) == stored
    assert (again.seed, again.runtime.dir) == (5, "elsewhere")


def test_identity_leaves_out_seed_runtime_and_the_names_of_presets():
    kept = identity(flatten(load(["method=mae", "seed=1"])))
    assert not [key for key in kept if key in ("seed", "method", "scale") or key.startswith("runtime.")]
    assert kept == identity(flatten(load(["method=mae", "seed=2", "runtime.threads=1"])))


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_of_scale_lab_learns_from_real_pictures_or_the_user_s_videos(method):
    is_of_videos = method in ("mae_st", "vjepa", "m_jepa")
    run = load([f"method={method}", "scale=lab"], checked=method in ("ijepa", "mae", "vicreg", "supervised"))
    assert name_of("data", run.data) == ("video_folder" if is_of_videos else "stl10")
    if method == "mc_jepa":
        assert name_of("flow_data", run.flow_data) == "video_folder"
    assert (run.eval_data is None) == (is_of_videos or method == "supervised")


def test_the_user_s_own_pictures_at_scale_lab_are_judged_by_themselves(tmp_path):
    for name in ("ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (96, 96)).save(tmp_path / name)
    words = ["method=ijepa", "scale=lab", "data=image_folder", f"data.path={tmp_path}", "data.size=96"]
    run = load(words)
    assert run.eval_data is None and run.encoder.grid(spec_of(run)) == (1, 12, 12)
    assert name_of("eval_data", load([*words, "eval_data=stl10"]).eval_data) == "stl10"


def test_an_override_beats_a_preset_and_a_preset_beats_a_scale():
    assert load(["method=mae"]).augment.scale_min == 0.6
    assert load(["method=mae", "augment.scale_min=0.4"]).augment.scale_min == 0.4
    assert load(["method=ijepa"]).optim.steps == 3000  # the scale alone says 800


def test_another_variant_does_not_inherit_the_options_of_the_one_it_replaces():
    run = load(["method=mae", "mask=multiblock", "mask.min_keep=4"])
    assert "mask.ratio" not in flatten(run)


def test_an_objective_nulls_the_parts_it_does_not_use():
    run = load(["method=ijepa", "objective=supervised"])
    assert (run.mask, run.target, run.predictor, run.loss) == (None, None, None, None)


def test_results_are_named_before_training():
    assert "ridge/digit_top1" in metric_names(load(["method=mae", "evals=[ridge]"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mask=tubee"], r"mask=tubee: unknown; did you mean .*\? Allowed: block, cube, multiblock"),
        (["mask.ratoi=0.5"], r"mask\.ratoi: unknown; did you mean mask\.ratio\? Allowed: .*mask\.ratio"),
        (["method=ijepa", "mask.ratio=0.5"], r"mask\.ratio=0\.5: that is an option of mask=random .*mask=multiblock"),
        (["optim.steps=many"], r"^optim\.steps=many: must be a whole number$"),
        (["optim.lr_peak=null"], r"^optim\.lr_peak=null: must be a number$"),
        (["encoder.depth=true"], r"^encoder\.depth=true: must be a whole number$"),
        (["runtime.compile=maybe"], r"^runtime\.compile=maybe: must be true or false$"),
        (["mask.ratio=1.2"], r"mask\.ratio must be in \(0, 1\), got 1\.2"),
        (["encoder.patch=5"], r"encoder\.patch 5 does not divide .*32x32"),
        (["method=supervised", "mask.ratio=0.3"], r"mask\.ratio=0\.3: objective=supervised uses no mask"),
        (["predictor=null"], r"predictor: objective=masked needs a predictor"),
        (["+mask.ratio=0.3"], r"only plain key=value"),
        (["mask.ratio"], r"'mask\.ratio' is not of the form key=value"),
        (["mask.ratio=0.1,0.2"], r"one value a key; a list is written mask\.ratio=\[0\.1,0\.2\]"),
        (["mask=rasterized", "mask.scales=3"], r"mask\.scales=3: unknown\. mask=rasterized has no options$"),
        (["predictor=null", "predictor.deep=3"], r"predictor\.deep=3: unknown\. predictor=null has no options$"),
        (["seed.of=3"], r"seed\.of: unknown; did you mean seed\? Allowed"),
        (["scale=huge"], r"scale=huge: unknown.* Allowed: cpu, gpu, lab, paper, smoke"),
        (["method=majepa"], r"method=majepa: unknown; did you mean"),
        (["evals=[rigde]"], r"evals=rigde: unknown; did you mean ridge\?"),
        (["evals=[knn]", "evals.ridge.alphas=[1]"], r"evals does not include ridge"),
        (["optim.steps.more=1"], r"optim\.steps\.more: unknown"),
        (["runtime.device=tpu"], r"runtime\.device must be auto, cpu or cuda, got 'tpu'"),
        (["data=npz", "data.path=nowhere.npz"], r"data\.path.*nowhere\.npz"),
        (["eval_data=moving_digits", "eval_data.num_test=0"], r"^eval_data\.num_test must be"),
        (["method=m_jepa", "flow_data=sintel", "flow_data.height=0"], r"^flow_data\.height must be in"),
        (["method=m_jepa", "flow_data=flow_mixture", "flow_data.sets=[sintle]"], r"^flow_data\.sets: 'sintle' begins"),
        (["foo=1"], r"foo: unknown\. Allowed: augment, data"),
    ],
)
def test_a_mistake_is_named_with_its_key_its_value_and_what_is_allowed(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(overrides)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            ["maks.ratio=1", "encoder.widht=3", "optim.steps=many"],
            ["maks.ratio: un", "encoder.widht: un", "steps=many"],
        ),
        (["mask=tubee", "evals=[rigde,knnn]"], ["mask=tubee: un", "did you mean ridge", "did you mean knn"]),
        (["mask.ratio=7", "evals=[knn]", "evals.knn.k=0"], ["mask.ratio must be in", "evals.knn.k must be at least 1"]),
        (["mask.ratio", "seed"], ["'mask.ratio' is not of the form", "'seed' is not of the form"]),
    ],
)
def test_all_mistakes_of_one_kind_are_named_at_once_a_line_each(overrides, messages):
    with pytest.raises(ConfigError) as caught:
        load(["method=mae", *overrides])
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages) and all(any(message in line for line in lines) for message in messages)


@pytest.mark.parametrize("override", ["mask=[random]", "objective={a: 1}", "evals=[{knn: 1}]"])
def test_a_choice_that_is_no_word_is_unknown(override):
    with pytest.raises(ConfigError, match=r"unknown"):
        load([override])


@pytest.mark.parametrize("override", ["evals=3", "evals=null", "evals=true", "evals={knn: 1}"])
def test_evaluations_that_are_no_list_of_names_are_refused(override):
    with pytest.raises(ConfigError, match=r"^evals=.*must be a list of ridge"):
        load(["method=mae", override])


def test_pairs_of_frames_are_refused_where_nothing_learns_from_them():
    with pytest.raises(ConfigError, match=r"flow_data=moving_digits: objective=masked learns no flow"):
        load(["flow_data=moving_digits"])
