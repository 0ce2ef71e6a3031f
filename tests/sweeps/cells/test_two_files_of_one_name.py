"""Study files of one name in two folders: an edited or moved one keeps its table, another one takes no table away."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, select

from sweeps.cells import edited, registry
from sweeps.cells.request import Request
from sweeps.console.errors import UserError, no_such_study
from sweeps.database.tables import StudyRow
from sweeps.study.files import StudyError
from sweeps.study.reading import read
from tests.sweeps.launched import TWO_ROWS, register

OTHER_ROWS = [{"key": "c", "set": {"mask.ratio": 0.6}}, {"key": "d", "set": {"mask.ratio": 0.8}}]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files lie is remembered below the working folder."""
    monkeypatch.chdir(tmp_path)


def wrote(path: Path, **changes: Any) -> Request:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**TWO_ROWS, **changes}))
    return Request(read(path), "cpu")


def launched(engine: Engine, request: Request) -> None:
    settled(engine, request)
    register(engine, request)
    with engine.connect() as connection:
        edited.remember(connection, request.instance, request.study.path)


def settled(engine: Engine, request: Request) -> Request:
    with engine.connect() as connection:
        return registry.settled(connection, request)


def test_another_file_of_the_name_is_refused_and_both_are_named(engine: Engine, tmp_path: Path) -> None:
    launched(engine, wrote(tmp_path / "x" / "mine.yaml"))
    with pytest.raises(UserError) as raised:
        settled(engine, wrote(tmp_path / "y" / "mine.yaml", title="Elsewhere"))
    assert str(raised.value).startswith(f"study={tmp_path}/y/mine.yaml: the table mine is of the study of ")
    assert f"{tmp_path}/x/mine.yaml, which is another file" in str(raised.value)
    assert "name=WORD" in str(raised.value)


def test_another_file_gets_a_table_of_its_own_by_a_name(engine: Engine, tmp_path: Path) -> None:
    launched(engine, wrote(tmp_path / "x" / "mine.yaml"))
    other = wrote(tmp_path / "y" / "mine.yaml", rows=OTHER_ROWS)
    named = Request(other.study, "cpu", name="other")
    assert settled(engine, named).instance == "mine@other"


def test_a_file_outside_of_studies_takes_no_table_of_one_inside(engine: Engine, tmp_path: Path) -> None:
    launched(engine, wrote(tmp_path / "studies" / "mine.yaml"))
    with pytest.raises(UserError, match="another file"):
        settled(engine, wrote(tmp_path / "mine.yaml", title="A draft"))


def test_an_edited_file_keeps_its_table(engine: Engine, tmp_path: Path) -> None:
    launched(engine, wrote(tmp_path / "x" / "mine.yaml"))
    edit = wrote(tmp_path / "x" / "mine.yaml", title="Other words", rows=OTHER_ROWS)
    assert settled(engine, edit).instance == "mine"


def test_a_moved_file_keeps_its_table(engine: Engine, tmp_path: Path) -> None:
    launched(engine, wrote(tmp_path / "x" / "mine.yaml"))
    (tmp_path / "x" / "mine.yaml").unlink()
    assert settled(engine, wrote(tmp_path / "y" / "mine.yaml", title="Moved and renamed")).instance == "mine"


def test_a_copy_is_the_same_study(engine: Engine, tmp_path: Path) -> None:
    launched(engine, wrote(tmp_path / "x" / "mine.yaml"))
    assert settled(engine, wrote(tmp_path / "y" / "mine.yaml")).instance == "mine"


def test_where_the_first_file_is_not_known_another_title_over_other_rows_tells(engine: Engine, tmp_path: Path) -> None:
    register(engine, wrote(tmp_path / "x" / "mine.yaml"))  # on another machine: nothing is remembered here
    assert settled(engine, wrote(tmp_path / "y" / "mine.yaml", rows=OTHER_ROWS)).instance == "mine"
    with pytest.raises(UserError, match="another study, 'Ratio'"):
        settled(engine, wrote(tmp_path / "y" / "mine.yaml", title="Elsewhere", rows=OTHER_ROWS))


def typed(engine: Engine, request: Request) -> list[str]:
    with engine.connect() as connection:
        row = connection.execute(select(StudyRow.name, StudyRow.spec, StudyRow.source)).one()
        return edited.words_here(connection, *row)


def test_a_study_that_its_name_does_not_find_is_offered_by_its_path(engine: Engine, tmp_path: Path) -> None:
    request = wrote(tmp_path / "lab" / "mine.yaml")
    launched(engine, request)
    assert typed(engine, request) == ["study=lab/mine.yaml"]


def test_a_file_that_is_not_known_here_is_offered_by_its_name(engine: Engine, tmp_path: Path) -> None:
    request = wrote(tmp_path / "lab" / "mine.yaml")
    register(engine, request)
    assert typed(engine, request) == ["study=mine.yaml"]


def test_a_study_below_studies_is_offered_by_its_name(engine: Engine, tmp_path: Path) -> None:
    request = wrote(tmp_path / "studies" / "mine.yaml")
    launched(engine, request)
    assert typed(engine, request) == ["study=mine"]


def test_the_folder_that_the_data_lies_in_is_offered_with_it(engine: Engine, tmp_path: Path) -> None:
    request = wrote(tmp_path / "studies" / "mine.yaml")
    register(engine, request)
    with engine.connect() as connection:
        edited.remember(connection, "mine", request.study.path, "../sets")
    assert typed(engine, request) == ["study=mine", "runtime.data_root=../sets"]


# ---- what a table is called ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/b", "my table", ".hidden", "-x"])
def test_a_name_that_no_file_can_have_is_refused_and_not_bent(name: str, tmp_path: Path) -> None:
    request = Request(wrote(tmp_path / "mine.yaml").study, "cpu", name=name)
    with pytest.raises(StudyError, match=r"name=.*: a table's name begins with a letter or a digit"):
        _ = request.instance


def test_a_study_s_file_is_answered_by_the_tables_of_its_name() -> None:
    known = ["mine@smoke", "mine@smoke,later", "other"]
    assert "(did you mean mine@smoke or mine@smoke,later?)" in no_such_study("lab/mine.yaml", known)
    assert no_such_study("nothing.yaml", known) == "study=nothing.yaml: the database has no such study"
