"""Commands that messages and pages offer name the database they are about."""

from __future__ import annotations

from sweeps import cli, status
from sweeps.console.offered import Place, repeated
from sweeps.progress import ending

ELSEWHERE = Place("sqlite:///my runs/a.sqlite", "out dir")


def test_at_the_defaults_a_command_names_no_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Place.typed(["study=a"]).command("sweeps.launch", "study=a") == "python -m sweeps.launch study=a"
    spelled = [f"db=sqlite:///{tmp_path}/results/ablations.sqlite", f"results_dir={tmp_path}/results"]
    assert Place.typed(spelled) == Place()


def test_elsewhere_a_command_names_it_quoted_and_only_what_the_command_takes():
    launched = ELSEWHERE.command("sweeps.launch", "study=a", "seeds=[0, 1]")
    assert launched.endswith("study=a 'seeds=[0, 1]' 'db=sqlite:///my runs/a.sqlite' 'results_dir=out dir'")
    assert ELSEWHERE.command("sweeps.status") == "python -m sweeps.status 'db=sqlite:///my runs/a.sqlite'"


def test_a_message_is_completed_and_a_call_for_help_is_left():
    assert ELSEWHERE.complete("see `python -m sweeps.status run=1`") == (
        "see `python -m sweeps.status 'db=sqlite:///my runs/a.sqlite' run=1`"
    )
    assert ELSEWHERE.complete("python -m sweeps.launch --help") == "python -m sweeps.launch --help"


def test_no_offered_command_holds_a_password():
    url = "postgresql://me:abcsecret@host/x"
    for text in (Place(url).command("sweeps.status"), repeated("sweeps.launch", ["study=a", f"db={url}"])):
        assert "abcsecret" not in text
        assert "me:***@host" in text


def test_an_error_message_offers_the_database_that_was_asked(engine, capsys):
    url = engine.url.render_as_string(hide_password=False)
    assert status.main([f"db={url}", "run=999"]) == cli.USER_ERROR
    assert f'python -m sweeps.query db={url} "select id, state from sw_run"' in capsys.readouterr().err


def test_what_is_tried_again_is_not_asked_twice():
    words = ["study=ratio", "retry=true", "db=sqlite:///x.sqlite"]
    assert ending.again(words) == "python -m sweeps.launch study=ratio db=sqlite:///x.sqlite"
