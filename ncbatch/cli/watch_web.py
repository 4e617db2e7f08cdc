"""Serves a run's page while the run goes on, to browsers on this machine."""

from __future__ import annotations

import http.server
import ipaddress
import json
import logging
import tempfile
import threading
import time
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ncbatch.cli.console import out, say
from ncbatch.cli.live_page import LivePage
from ncbatch.cli.watch_view import line
from ncbatch.driver.look import Look
from ncbatch.errors import NcbatchError, UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.store import Store

log = logging.getLogger(__name__)

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}


def check_address(address: str, *, public: bool) -> None:
    """Raises UsageError: it is no IP address, or other machines could reach it and nobody asked for that."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        raise UsageError(f"--address {address} is not an IP address like 127.0.0.1 or ::1") from None
    if not found.is_loopback and not public:
        raise UsageError(
            f"--address {address} would show the run to other machines, without a password; "
            "give --public as well if that is meant, or reach the loopback through `ssh -L`"
        )


def serve(
    output: Store, first: Look, every: float, price_per_hour: float | None, at: tuple[str, int]
) -> ExitCode:
    """Serves the page until Ctrl-C.

    Args:
        output: the run's folder.
        first: what it looked like at first.
        every: seconds between two looks.
        price_per_hour: of a device; None leaves the cost out.
        at: the address and the port.

    Raises:
        NcbatchError: the port is taken.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ncbatch-watch-")))
        server = _server(folder, at)
        stack.callback(server.server_close)
        page = LivePage(output, folder, first, price_per_hour)
        server.page = page
        thread = threading.Thread(target=server.serve_forever, name="web", daemon=True)
        thread.start()
        stack.callback(server.shutdown)
        host = f"[{at[0]}]" if ":" in at[0] else at[0]
        out.print(f"http://{host}:{server.server_address[1]}/")
        say("the page is served until Ctrl-C, which ends the page and not the run")
        stack.callback(page.close)
        told = ""
        while True:
            if page.found.told.state != told:
                told = page.found.told.state
                say(line(page.found))
            time.sleep(every)
            page.look_again()


class _Server(http.server.ThreadingHTTPServer):
    """Knows the page that its handlers show, and the folder with its files."""

    daemon_threads = True
    page: LivePage
    folder: Path

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a browser has gone away", exc_info=True)


def _server(folder: Path, at: tuple[str, int]) -> _Server:
    kind = type("Server", (_Server,), {"address_family": 10 if ":" in at[0] else 2})
    try:
        server: _Server = kind(at, _Handler)
    except OSError as error:
        raise NcbatchError(
            f"the page cannot be served at {at[0]} port {at[1]}: {error.strerror}; choose another with --port"
        ) from error
    server.folder = folder
    return server


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        if not self._is_meant():
            self._answer(HTTPStatus.FORBIDDEN, b"this name is not one of this page", ".html")
            return
        path = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
        if path == "status.json":
            self._answer(HTTPStatus.OK, json.dumps(self.server.page.content()).encode(), ".json")
            return
        file = (self.server.folder / path).resolve()
        if not file.is_relative_to(self.server.folder.resolve()) or not file.is_file():
            self._answer(HTTPStatus.NOT_FOUND, b"there is no such page", ".html")
            return
        self._answer(HTTPStatus.OK, file.read_bytes(), file.suffix)

    def _is_meant(self) -> bool:
        """Whether the browser wants this very address. A name of somebody else's that leads here would let
        pages of theirs read this one.
        """
        wanted = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if wanted == "localhost":
            return True
        try:
            ipaddress.ip_address(wanted)
        except ValueError:
            return False
        return True

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", _KINDS.get(kind, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
