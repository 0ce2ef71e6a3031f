"""What a launch asks for: a study at a scale, with overrides of every cell."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import plugin_source
from sweeps.console.errors import UserError
from sweeps.study import row_labels
from sweeps.study.model import DEFAULT_SCALE, Study, instance_name
from sweeps.study.overrides import bare
from sweeps.study.seed_rule import IN_FILE


@dataclass(frozen=True)
class Request:
    """What a launch asks for: a study file at a scale, with overrides of every cell."""

    study: Study
    scale: str
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    name: str = ""  # replaces what the instance's name says of scale and overrides
    runtime: tuple[str, ...] = ()  # runtime.key=value: where things are on this machine; no part of the instance
    typed_plugins: tuple[str, ...] = ()  # modules of components out of the tree, beside those of the file
    seeds_in_file: Any = None  # where `study` has another rule than its file; else those of `study`

    @property
    def instance(self) -> str:
        return instance_name(self.study.name, self.scale, self.overrides, self.name)

    @property
    def words(self) -> str:
        """What the name of the instance says of the overrides."""
        return instance_name("", DEFAULT_SCALE, self.overrides).removeprefix("@")

    @property
    def plugins(self) -> list[str]:
        """The modules that the file and the launch name."""
        return list(dict.fromkeys([*self.study.spec.get("plugins", []), *self.typed_plugins]))

    @property
    def wanted_seeds(self) -> list[int]:
        """What every row gets; a search counts on from the one seed that it was given."""
        search = self.study.search(self.scale)
        if self.seeds and search is not None:
            return search.seeds.of_trials(self.seeds[0])
        return list(self.seeds) or self.study.seeds(self.scale)

    @property
    def further_seeds(self) -> list[int]:
        """What some rows may get on top of these."""
        search = self.study.search(self.scale)
        if self.seeds:
            return [] if search is None else search.seeds.further(self.seeds[0])
        return self.study.further_seeds(self.scale)

    def spec(self) -> dict[str, Any]:
        """The study file's content as this launch asks for it: what the database keeps and analysis reads."""
        spec = copy.deepcopy(self.study.spec) | {"seeds": list(self.seeds) or self.study.seeds_spec(self.scale)}
        if (section := self.study.search_section(self.scale)) is not None:
            spec["search"] = section
        spec[IN_FILE] = self.study.seeds_spec(self.scale) if self.seeds_in_file is None else self.seeds_in_file
        for settled in ("seeds", "search"):
            spec["scales"].get(self.scale, {}).pop(settled, None)
        if self.study.seed_rule(self.scale) is not None:
            spec["baseline"] = self.study.baseline  # of the comparisons that the seeds are spent on
        given = [values for axis in spec.get("grid", []) for values in axis.values()]
        axes = given or [spec.get("rows", []), spec.get("columns", [])]
        for values, levels in zip(axes, (self.study.rows, self.study.columns), strict=False):
            if values:
                row_labels.settle(values, [level.label_at(self.scale) for level in levels])
        if self.plugins:
            spec["plugins"] = self.plugins
        return spec | {"scale": self.scale, "overrides": list(self.overrides)}

    def _typed(self) -> dict[str, Any]:
        return {key: bare(value) for key, _, value in (w.partition("=") for w in self.overrides + self.runtime)}

    @property
    def data_root(self) -> str:
        """Where the data's relative paths begin on this machine."""
        return str(self._typed().get("runtime.data_root", "."))

    def contents(self) -> dict[str, str | None]:
        """The sha256 of each file of weights that the study or the launch names, and of the source of plugins: a path
        does not say what is in it."""
        words = self._typed()
        paths = {words[WEIGHTS]} if WEIGHTS in words else set(_values(self.study.spec, WEIGHTS))
        root = Path(self.data_root).expanduser()
        modules = sorted({*self.plugins, *plugin_source.installed().values()})
        sources = {f"plugin {module}": plugin_source.source_hash(module) for module in modules}
        return {path: _sha256_of(root / path) for path in sorted(paths)} | sources


def by_rule(study: Study, scale: str, rule: Mapping[str, Any]) -> Study:
    """The study with this rule for its seeds at a scale, in place of its file's. Raises UserError for a search."""
    if study.search(scale) is not None:
        raise UserError(f"seeds: {study.name} is a search, which counts its seeds from one; give it such as [0]")
    scales = study.spec["scales"] | {scale: study.spec["scales"].get(scale, {}) | {"seeds": dict(rule)}}
    return dataclasses.replace(study, spec=study.spec | {"scales": scales})


WEIGHTS = "weights.path"


def _values(tree: Any, key: str) -> Iterator[str]:
    """Every value that `key` has anywhere in a study's content."""
    if isinstance(tree, dict):
        yield from (str(value) for name, value in tree.items() if name == key and value is not None)
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _values(child, key)


def _sha256_of(path: Path) -> str | None:
    """None where there is no such file, which expanding the study will say."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
