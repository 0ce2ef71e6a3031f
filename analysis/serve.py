"""The report's pages from a database that is still being written: `python -m analysis.serve db=...`.

Reads only, on this machine only. A page asks every two seconds whether the database moved, and takes its new content if
it did; what nobody looks at is not computed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError

from analysis import files
from analysis.figures import agreement_drawing
from analysis.numbers import agreement
from analysis.numbers.frame import Frame, load, names
from analysis.one_study import figures, table_of
from analysis.site import explorer, runs
from analysis.site.html import assets
from analysis.site.pages import Content, Site
from sweeps import cli
from sweeps.cells.edited import digest_of_files
from sweeps.console.errors import UserError
from sweeps.console.offered import HERE, Place
from sweeps.database.tables import Attempt, Event, RunRow, StudyRow

USAGE = """usage: python -m analysis.serve [db=sqlite:///results/ablations.sqlite] [port=8000]

Serve the report on http://127.0.0.1:PORT/ while runs finish; pages refresh by themselves. Ctrl-C ends it.

  db     where the runs are recorded; it is only read
  port   0: any that is free

example: python -m analysis.serve db=sqlite:///runs/ablations.sqlite"""

OPTIONS = ("db", "port")
HOST = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Figures carry their colours in style attributes.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
HTML, TEXT, SCRIPT = (f"text/{kind}; charset=utf-8" for kind in ("html", "plain", "javascript"))


class Answer(NamedTuple):
    status: HTTPStatus
    kind: str
    body: bytes


class Live:
    """The pages of one database as it is now. A page is made once for each state of the database that somebody sees."""

    def __init__(self, engine: Engine, place: Place = HERE) -> None:
        self.engine, self.place = engine, place
        self.lock = threading.Lock()  # matplotlib's settings belong to the process
        self.token = ""
        self.pages: dict[str, Answer] = {}
        self.frames: dict[str, Frame] = {}
        self.figures: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}  # by study and digest of what it shows
        self.assets = assets()

    def answer(self, path: str) -> Answer:
        """What is at this path. Nothing is read from a disk: a path is a name to look up."""
        token = self.state()
        if path == "state.json":
            return Answer(HTTPStatus.OK, "application/json", json.dumps({"token": token}).encode())
        if path in self.assets:
            kind = "text/css" if path.endswith(".css") else "text/javascript"
            return Answer(HTTPStatus.OK, f"{kind}; charset=utf-8", self.assets[path])
        with self.lock:
            if token != self.token:
                self.token, self.pages, self.frames = token, {}, {}
            if path not in self.pages:
                found = self._make(path, Site(self.engine, live=token, place=self.place))
                if found.status is not HTTPStatus.OK:
                    return found
                self.pages[path] = found
            return self.pages[path]

    def state(self) -> str:
        """A digest that changes when a run starts, steps on or ends, or a study or its file changes. Milliseconds."""
        with self.engine.connect() as connection:
            found = [
                connection.execute(
                    select(RunRow.state, func.count(), func.sum(RunRow.attempt))
                    .group_by(RunRow.state)
                    .order_by(RunRow.state)
                ).all(),
                connection.execute(select(func.count(), func.sum(Attempt.step)).where(Attempt.outcome.is_(None))).all(),
                connection.execute(select(func.max(Event.id))).all(),
                connection.execute(select(func.count(), func.sum(StudyRow.revision), func.max(StudyRow.id))).all(),
                [[digest_of_files(connection)]],
            ]
        text = json.dumps([[str(value) for value in row] for rows in found for row in rows])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _make(self, path: str, site: Site) -> Answer:
        if path in ("", "index.html", "agreement.html"):
            frames = [self._frame(name) for name in names(self.engine)]
            summaries = agreement.summarise(map(agreement.of_study, frames))
            if path == "agreement.html":
                return _page(site.agreement_page(summaries, agreement_drawing.images(summaries, for_a_page=True)))
            return _page(site.index_page([site.summary(frame) for frame in frames], summaries))
        if path == "explore.html":
            return _page(site.explorer_page())
        if path == "explore/runs.js":
            with self.engine.connect() as connection:
                return Answer(HTTPStatus.OK, SCRIPT, explorer.read(connection).script())
        told = re.fullmatch(r"(explore|curves)/([^/]+)\.js", path)
        if told:
            with self.engine.connect() as connection:
                script = (
                    explorer.numbers_at(connection, path)
                    if told[1] == "explore"
                    else explorer.curve_of(connection, told[2])
                )
            if script:
                return Answer(HTTPStatus.OK, SCRIPT, script)
            missing = b"No such number\n" if told[1] == "explore" else b"No such run\n"
            return Answer(HTTPStatus.NOT_FOUND, TEXT, missing)
        study = re.fullmatch(r"studies/([^/]+)\.html", path)
        if study and study.group(1) in names(self.engine):
            return _page(self._study(site, study.group(1)))
        run = re.fullmatch(r"(?:runs|pictures)/([^/]+)\.(?:html|png)", path)
        if run:
            with self.engine.connect() as connection:
                run_id = runs.find(connection, run.group(1))
            found = site.run_pages([run_id]) if run_id is not None else {}
            if path in found:
                return _page(found[path]) if path.endswith(".html") else Answer(HTTPStatus.OK, "image/png", found[path])
        return Answer(HTTPStatus.NOT_FOUND, TEXT, b"There is no such page; the list of studies is at /\n")

    def _study(self, site: Site, name: str) -> bytes:
        frame = self._frame(name)
        key = (name, frame.digest)
        if key not in self.figures:
            self.figures = {known: drawn for known, drawn in self.figures.items() if known[0] != name}
            self.figures[key] = figures(frame)
        content = Content(frame, table_of(frame), self.figures[key])
        return site.study_page(content)

    def _frame(self, name: str) -> Frame:
        if name not in self.frames:
            self.frames[name] = load(self.engine, name)
        return self.frames[name]


def _page(content: bytes) -> Answer:
    return Answer(HTTPStatus.OK, HTML, content)


# ---- HTTP --------------------------------------------------------------------------------------------------------


def handler(live: Live, hosts: Callable[[], set[str]]) -> type[BaseHTTPRequestHandler]:
    """GET and HEAD for requests that were meant for this server.

    Another site's name may be made to point here (DNS rebinding); its requests carry its name as their Host.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "ssl-ablations", ""

        def do_GET(self) -> None:
            self._send(self._answer())

        def do_HEAD(self) -> None:
            self._send(self._answer(), with_body=False)

        def _answer(self) -> Answer:
            if self.headers.get("Host", "") not in hosts():
                return Answer(HTTPStatus.FORBIDDEN, TEXT, b"This server answers to its own address only.\n")
            try:
                return live.answer(unquote(urlsplit(self.path).path).removeprefix("/"))
            except DBAPIError as error:
                reason = " ".join(str(error.orig).split())
                return Answer(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f"The database cannot be read: {reason}\n".encode())

        def _send(self, answer: Answer, *, with_body: bool = True) -> None:
            self.send_response(answer.status)
            for name, value in {
                **HEADERS,
                "Content-Type": answer.kind,
                "Content-Length": str(len(answer.body)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Polls would fill the screen."""

    return Handler


def open_server(engine: Engine, port: int, place: Place = HERE) -> ThreadingHTTPServer:
    """A server that is bound and not yet running. Raises UserError where the port cannot be had."""

    def hosts() -> set[str]:
        bound = server.server_address[1]
        found = {f"{name}:{bound}" for name in (HOST, "localhost")}
        return found | {HOST, "localhost"} if bound == 80 else found

    try:
        server = ThreadingHTTPServer((HOST, port), handler(Live(engine, place), hosts))
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(f"port={port} is in use by another program; give another, or port=0 for any") from None
        raise UserError(f"port={port} cannot be had: {error}; give another, or port=0 for any") from None
    server.daemon_threads = True
    return server


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    port = arguments.whole("port", 8000, least=0)
    engine = files.open_results(arguments, is_live=True)
    try:
        with open_server(engine, port, Place.typed(words)) as server:
            print(f"http://{HOST}:{server.server_address[1]}/ until Ctrl-C", flush=True)
            server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print()
    finally:
        engine.dispose()
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
