"""Components out of the tree: how they are named, found, refused and remembered."""

from pathlib import Path

import pytest

from core.configuring import plugins
from core.configuring.config import ConfigError, fingerprints, flatten, from_flat, identity, load
from core.masks import MASKS
from core.plugin_source import names_in, source_hash, sources
from tests.forked import forked
from tests.lab import forgotten, lab, write_lab

__all__ = ["lab"]
MASK = ["plugins=[my_lab.masks]", "scale=smoke", "mask=checker"]
BROKEN = """
from dataclasses import dataclass
from core.plugins import register
from core.types import Mask

{body}
"""


def refused(words: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, body: str) -> None:
    (folder / "my_lab" / "other.py").write_text(BROKEN.format(body=body), encoding="utf-8")


def test_a_config_names_the_plugin_of_each_part(lab):
    flat = identity(flatten(load(MASK)))
    assert (flat["mask"], flat["mask.plugin"]) == ("checker", "my_lab.masks")
    assert [key for key in flat if key.endswith(".plugin")] == ["mask.plugin"]


def test_a_plugin_that_no_part_is_of_leaves_the_config_as_it_was(lab):
    assert flatten(load(["plugins=[my_lab.masks]", "scale=smoke"])) == flatten(load(["scale=smoke"]))


def test_a_stored_config_finds_its_plugins_by_itself(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_lab(tmp_path))
    with forgotten():
        flat = identity(flatten(load(MASK)))
    assert "checker" not in MASKS
    with forgotten():
        assert flatten(from_flat(flat, seed=0))["mask.plugin"] == "my_lab.masks"


def test_an_evaluation_of_a_plugin_is_told_from_what_trains(lab):
    run = load(["plugins=[my_lab.evals]", "scale=smoke", "evals=[centroid]"])
    assert flatten(run)["evals.centroid.plugin"] == "my_lab.evals"
    assert "eval_plugin.my_lab.evals" in fingerprints(run)
    assert "plugin.my_lab.masks" in fingerprints(load(MASK))


def test_data_of_a_plugin_that_chooses_the_step_decides_what_the_weights_are(lab):
    words = ["plugins=[my_lab.data]", "scale=smoke", "eval_data=stripes", "evals=[ridge]"]
    assert "eval_plugin.my_lab.data" in fingerprints(load(words))
    assert "plugin.my_lab.data" in fingerprints(load([*words, "judge=best"]))


def test_a_plugin_that_is_not_here_is_named_with_the_way_out(lab):
    assert "plugins=her_lab: no such module here: install it" in refused(["plugins=[her_lab]", "scale=smoke"])
    stored = flatten(load(["scale=smoke"])) | {"mask": "waves", "mask.plugin": "her_lab.masks"}
    with pytest.raises(ConfigError, match=r"plugins=her_lab.masks: no such module here"):
        from_flat(stored, seed=0)


def test_what_a_plugin_raises_as_it_is_imported_is_told_in_one_line(lab):
    written(lab, "1 / 0")
    message = refused(["plugins=[my_lab.other]", "scale=smoke"])
    assert "plugins=my_lab.other: ZeroDivisionError: division by zero (" in message
    assert "other.py:6)" in message


def test_a_plugin_that_is_no_python_is_told_with_its_own_line(lab):
    written(lab, "def a(:")
    message = refused(["plugins=[my_lab.other]", "scale=smoke"])
    assert "plugins=my_lab.other: SyntaxError: invalid syntax (" in message and "other.py:6)" in message


def test_a_module_that_lacks_a_library_is_not_taken_for_a_missing_plugin(lab):
    written(lab, "import no_such_library")
    assert "No module named 'no_such_library'" in refused(["plugins=[my_lab.other]", "scale=smoke"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('@register("random")\n@dataclass\nclass A(Mask): ...', "mask=random is built in; register yours under"),
        ('@register("a")\nclass A(Mask): ...', "A is no dataclass; write @register above @dataclass"),
        ('@register("a")\n@dataclass\nclass A: ...', "A: a component is a subclass of one of Mask, Target"),
        ('@register("a")\n@dataclass\nclass A(Mask):\n    n: int', "every option needs a default"),
        ('@register("A b")\n@dataclass\nclass A(Mask): ...', "mask=A b: a name is letters, digits and _"),
        ('@register("a")\n@dataclass\nclass A(Mask):\n    plugin: str = ""', "plugin cannot be an option's name"),
    ],
)
def test_what_cannot_be_registered_is_refused_by_name(lab, body, message):
    written(lab, body)
    assert message in refused(["plugins=[my_lab.other]", "scale=smoke"])


def test_a_name_that_another_plugin_has_is_refused(lab):
    load(MASK)
    written(lab, '@register("checker")\n@dataclass\nclass A(Mask): ...')
    assert "mask=checker is plugin my_lab.masks's" in refused(["plugins=[my_lab.other]", "scale=smoke"])


FAILING = {
    "mask": (
        '@register("a")\n@dataclass\nclass A(Mask):\n    def sample(self, grid, batch_size, generator):\n        1 / 0',
        "other.py:10)",
    ),
    "encoder": (
        "import torch\nfrom core.plugins import FrameEncoder\n@register('a')\n@dataclass\nclass A(FrameEncoder):\n"
        "    def network(self, spec):\n        return torch.nn.Flatten()\n"
        "    token_width, stride = (lambda self: 9), (lambda self: 32)",
        "A.network gives [2, 3072] for two frames, and token_width and stride say a map [2, 9, 1, 1]",
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_part_of_a_plugin_that_cannot_be_built_is_refused_before_anything_trains(lab, kind):
    body, said = FAILING[kind]
    written(lab, body)
    words = {"mask": ["method=mae", "mask=a"], "encoder": ["method=vicreg", "encoder=a"]}[kind]
    message = refused(["plugins=[my_lab.other]", "scale=smoke", *words])
    assert message.startswith("plugins=my_lab.other: ") and said in message


@pytest.mark.parametrize("value", ["[my_lab/masks.py]", "[my-lab]", "[1]", "3.5", "[a..b]"])
def test_what_is_no_module_s_name_is_refused(value):
    assert "must be a list of modules such as [my_lab.masks]" in refused([f"plugins={value}", "scale=smoke"])


def test_names_are_read_from_text_and_lists():
    assert names_in("[a.b, c]") == names_in(["a.b", "c", "c"]) == ["a.b", "c"]
    assert names_in("a.b") == ["a.b"]
    assert names_in("") == names_in("[]") == []


def test_the_hash_is_of_the_module_and_what_it_imports_of_its_own_package(lab):
    (lab / "my_lab" / "deep").mkdir()
    files = {"deep/__init__.py": "", "deep/a.py": "from . import b\nimport my_lab.masks\n", "deep/b.py": "X = 1\n"}
    for name, text in (files | {"unused.py": ""}).items():
        (lab / "my_lab" / name).write_text(text, encoding="utf-8")
    wanted = {"my_lab", "my_lab.deep", "my_lab.deep.a", "my_lab.deep.b", "my_lab.masks"}
    assert set(sources("my_lab.deep.a")) == wanted
    before = source_hash("my_lab.deep.a")
    (lab / "my_lab" / "unused.py").write_text("X = 2\n", encoding="utf-8")
    assert source_hash("my_lab.deep.a") == before
    (lab / "my_lab" / "deep" / "b.py").write_text("X = 2\n", encoding="utf-8")
    assert source_hash("my_lab.deep.a") != before
    assert source_hash("her_lab") is None


def test_a_run_s_facts_say_which_plugin_in_which_version(lab):
    (lab / "my_lab" / "__init__.py").write_text('__version__ = "1.2"\n', encoding="utf-8")
    assert plugins.facts(load(MASK)) == {"plugins": [f"my_lab.masks 1.2 {source_hash('my_lab.masks')}"]}
    assert plugins.facts(load(["scale=smoke"])) == {}


def installed(folder: Path, module: str) -> None:
    """As an installer leaves it: a dist-info folder beside the package."""
    info = folder / "my_lab-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 0.3\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[ssl_ablations.plugins]\nmy_lab = {module}\n", encoding="utf-8")
    (info / "top_level.txt").write_text("my_lab\n", encoding="utf-8")


def test_an_installed_plugin_needs_no_word(tmp_path):
    installed(write_lab(tmp_path / "site"), "my_lab.masks")
    words = ["core.train", "scale=smoke", "mask=checker", "optim.steps=1", "runtime.dir=run"]
    done = forked(*words, cwd=tmp_path, path=tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "my_lab.masks 0.3 " in done.stdout
    shown = forked("core.train", "help=mask", cwd=tmp_path, path=tmp_path / "site")
    assert "mask=checker: Hide every second patch" in shown.stdout


def test_an_installed_plugin_that_fails_stops_only_who_asks_for_it(tmp_path):
    installed(write_lab(tmp_path / "site"), "my_lab.other")
    written(tmp_path / "site", "1 / 0")
    words = ["core.train", "scale=smoke", "optim.steps=1"]
    done = forked(*words, "runtime.dir=run", cwd=tmp_path, path=tmp_path / "site")
    assert done.returncode == 0, done.stderr
    asked = forked(*words, "runtime.dir=other", "mask=checker", cwd=tmp_path, path=tmp_path / "site")
    assert asked.returncode == 2
    assert "an installed plugin could not be loaded: plugins=my_lab.other: ZeroDivisionError" in asked.stderr
