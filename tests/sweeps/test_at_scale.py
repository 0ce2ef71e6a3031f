"""`scale=` beside `study=` in commands that show what is recorded: the name of the table at that scale."""

import pytest

from sweeps import cli
from sweeps.console.errors import UserError

OPTIONS = ("study", "db")


@pytest.mark.parametrize(("scale", "name"), [("smoke", "tiny@smoke"), ("cpu", "tiny")])
def test_a_study_is_called_by_its_table_at_the_scale(scale, name):
    assert cli.parse(["study=tiny", f"scale={scale}"], OPTIONS).values == {"study": name}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study=tiny", "scale=smok"], "scale must be one of .*, got 'smok' .did you mean smoke"),
        (["study=all", "scale=smoke"], "scale=smoke: goes with one study of a file"),
        (["study=tiny@gpu", "scale=smoke"], "a table is called study=NAME@SCALE,NAME"),
        (["scale=smoke"], "goes with one study"),
    ],
)
def test_what_it_cannot_go_with_is_said(words, message):
    with pytest.raises(UserError, match=message):
        cli.parse(words, OPTIONS)


def test_a_command_without_studies_has_no_scale():
    with pytest.raises(UserError, match="scale: unknown option"):
        cli.parse(["scale=smoke"], ("db",))
