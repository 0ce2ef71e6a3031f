"""Where study files lie and how their YAML is read; what they mean is `sweeps.study.model`."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sweeps.console.errors import close_matches

SUFFIXES = (".yaml", ".yml")  # in whatever case
_MOST_LEVELS = 5_000  # take 1.6 MB of stack
LONGEST_NAME = 60  # letters of a study's name: names of files have limits, and say more than it


class StudyError(ValueError):
    """A study file, or the name of one, that cannot be used; the message is for the person who wrote it.

    `rest` is the study of a file whose mistakes leave its rows readable (`sweeps.study.model.Study`): without what is
    wrong, for whoever looks for more mistakes.
    """

    def __init__(self, message: str, rest: Any = None) -> None:
        super().__init__(message)
        self.rest = rest


def folders() -> list[Path]:
    """Where study files lie: ./studies, then the installed package. A stem found in the first hides the second."""
    found = [Path("studies")] if Path("studies").is_dir() else []
    spec = importlib.util.find_spec("studies")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if all(Path(place).resolve() != known.resolve() for known in found):
            found.append(Path(place))
    return found


def find() -> dict[str, Path]:
    """Name -> path of every study. Raises StudyError when two files of one folder share a name."""
    found: dict[str, Path] = {}
    for folder in reversed(folders()):
        here: dict[str, Path] = {}
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
            name = plain_name(path.stem)
            if name in here:
                raise StudyError(f"{path} and {here[name]} share the name {name!r}; rename one of them")
            here[name] = path
        found |= here
    return dict(sorted(found.items()))


def plain_name(stem: str) -> str:
    """A study's name is a name of files, of pages and in commands: `my study.yaml` is my_study."""
    name = re.sub(r"[^\w.,=+-]+", "_", stem)
    return name if re.match(r"\w", name) else f"_{name.lstrip('.,=+-')}"


def names() -> list[str]:
    return list(find())


def load_document(name_or_path: str | Path) -> tuple[Any, Path]:
    """The content and the path of the study of that name under `studies/`, or of that file. Raises StudyError."""
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        known = find()
        name = plain_name(str(name_or_path))
        if name not in known:
            raise StudyError(
                f"study={name_or_path}: no such study{close_matches(str(name_or_path), known)}; "
                f"studies: {', '.join(known) or 'none found (run from the project, or pass a path to a .yaml)'}"
            )
        path = known[name]
    if len(plain_name(path.stem).encode()) > LONGEST_NAME:
        raise StudyError(f"{path}: the name is too long for those of its tables: rename it, to {LONGEST_NAME} bytes")
    if plain_name(path.stem) == "all":
        raise StudyError(f"{path}: study=all is every study, so that none can be called so: rename the file")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StudyError(f"study={name_or_path}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StudyError(f"study={name_or_path}: cannot read {path}: it is not UTF-8; save it as that") from None
    try:
        content = _content(text)
        json.dumps(content)  # as the database keeps it
        return copy.deepcopy(content), path
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (TypeError, ValueError, KeyError) as error:  # what a tag such as !!set or !!float makes of its value
        raise StudyError(f"{path}: not valid YAML for a study: {error}; write text, numbers and lists") from None
    except RecursionError:
        raise StudyError(f"{path}: not valid YAML for a study: it is nested too deeply") from None


def several(where: str, messages: Sequence[str]) -> str:
    """One mistake in one line, more below each other."""
    distinct = list(dict.fromkeys(messages))
    if len(distinct) == 1:
        return f"{where}: {distinct[0]}"
    return "\n  ".join([f"{where}: {len(distinct)} mistakes:", *distinct])


@functools.lru_cache(maxsize=512)
def _content(text: str) -> Any:
    """Of a file's text, not of a path: a report asks for each study several times, and its file may be edited.

    Raises yaml.YAMLError, which quotes the line that is wrong, or RecursionError.
    """
    # A level of nesting begins with one of these letters: libyaml has no limit of its own and ends the process. It also
    # takes tabs where the other loader refuses them.
    if yaml.__with_libyaml__ and "\t" not in text and sum(map(text.count, "[{-?:")) < _MOST_LEVELS:
        try:
            return yaml.load(text, Loader=_FastLoader)
        except yaml.YAMLError:
            pass  # libyaml's messages quote no line: the other loader says what is wrong
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """YAML as OmegaConf reads it: 1e-3 is a number. A key given twice is an error instead of the last one winning."""


class _FastLoader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """The same in a tenth of the time: a report reads every study there is."""


def _unique_mapping(loader: _Loader | _FastLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if isinstance(key, list | dict):
            raise yaml.MarkedYAMLError(problem="a key is a list or a mapping", problem_mark=key_node.start_mark)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_DATE = "tag:yaml.org,2002:timestamp"  # of `data.version: 2026-05-01`: a word, as on a command line

for _loader in (_Loader, _FastLoader):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != _DATE]
        for first, found in _loader.yaml_implicit_resolvers.items()
    }
    _loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
    )
