"""The server by itself: whom it answers, what it refuses, and that it only reads."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from analysis.serve import OPTIONS, main, open_server
from sweeps.database.opening import open_database
from tests.analysis.conftest import MAIN, ROWS, Laboratory


@pytest.fixture
def port(engine: Engine) -> Iterator[int]:
    yield from serving(engine)


def serving(engine: Engine) -> Iterator[int]:
    with open_server(engine, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


def test_index_study_and_run_are_served(port: int) -> None:
    status, index, headers = ask(port, "/")
    assert (
        status == 200
        and 'href="studies/ijepa_masking.html"' in index
        and headers["Content-Type"].startswith("text/html")
    )
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ask(port, "/agreement.html")[0] == 200
    status, study, _ = ask(port, "/studies/ijepa_masking.html")
    assert status == 200 and "71.33 ± 3.79" in study
    run = study.split('href="../runs/')[1].split('"')[0]
    status, page, _ = ask(port, f"/runs/{run}")
    assert status == 200 and "multi-block, seed 0" in page
    assert ask(port, "/style.css")[0] == ask(port, "/script.js")[0] == 200


def test_only_reading_methods_are_answered(port: int) -> None:
    status, body, headers = ask(port, "/", "HEAD")
    assert status == 200 and body == "" and int(headers["Content-Length"]) > 1000
    assert ask(port, "/", "POST")[0] == ask(port, "/", "DELETE")[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost:1", ""])
def test_another_sites_name_for_this_machine_is_refused(port: int, host: str) -> None:
    status, body, _ = ask(port, "/", host=host or " ")
    assert status == 403 and "<html" not in body
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/studies/..%2f..%2fetc%2fpasswd.html",
        "/runs/%25-0.html", "/runs/___________-0.html", "/studies/nothing.html", "/templates/base.html", "/\x7f",
    ],
)  # fmt: skip
def test_a_path_is_a_name_and_no_file(port: int, path: str) -> None:
    status, body, _ = ask(port, path.replace("\x7f", "%7f"))
    assert status == 404 and body == "There is no such page; the list of studies is at /\n"


def test_the_state_changes_when_a_run_does_and_not_otherwise(laboratory: Laboratory) -> None:
    laboratory.study("rows", {**ROWS, "figures": []})
    for port in serving(open_database(laboratory.engine.url, read_only=True)):
        first = json.loads(ask(port, "/state.json")[1])["token"]
        assert f'data-live="{first}"' in ask(port, "/studies/rows.html")[1]
        assert json.loads(ask(port, "/state.json")[1])["token"] == first
        laboratory.run("rows", "block", 0, {MAIN: 61.0})
        assert json.loads(ask(port, "/state.json")[1])["token"] != first
        assert "61.00" in ask(port, "/studies/rows.html")[1]


def test_a_database_that_goes_away_is_said_and_not_a_traceback(laboratory: Laboratory) -> None:
    for port in serving(open_database(laboratory.engine.url, read_only=True)):
        with laboratory.engine.begin() as connection:
            connection.exec_driver_sql("alter table sw_run rename to sw_gone")
        status, body, _ = ask(port, "/")
        assert status == 503 and body.startswith("The database cannot be read: ")


def test_a_port_in_use_is_one_line_and_exit_code_2(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([f"db=sqlite:///{filled}", f"port={port}"]) == 2
    assert (
        capsys.readouterr().err == f"error: port={port} is in use by another program; give another, or port=0 for any\n"
    )
    assert main([f"db=sqlite:///{filled}", "port=70000"]) == 2
    assert capsys.readouterr().err.startswith("error: port=70000 cannot be had: ")


def test_a_database_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"db=sqlite:///{tmp_path / 'none.sqlite'}", "port=0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_says_what_each_option_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in OPTIONS)
