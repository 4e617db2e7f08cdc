"""A loopback HTTP proxy in front of an S3 server that fails on command.

    with FaultProxy(server.endpoint_url) as proxy:
        proxy.fail(status=503, times=3)              # SlowDown, not forwarded
        proxy.fail(status=503, seconds=2.0)          # until two seconds from now
        proxy.drop_answer("PUT", times=1)            # forwarded and stored, but the client hears nothing
        proxy.fail("PUT", status=412, times=1)       # "somebody else was first", not forwarded
        proxy.delay(0.5, "GET")
        proxy.refuse_conditions()                    # 501 to every conditional put
        proxy.refuse_wrong_clocks()                  # 403 to what was signed at another time
        ...
        proxy.count("PUT", key="run.json")

Faults are taken in the order in which they were set, the first that matches a request is used. Requests go
through byte for byte, with their Host header, so that signatures stay valid. Clients use
`proxy.endpoint_url`.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

_CODES = {
    403: "AccessDenied",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    500: "InternalError",
    501: "NotImplemented",
    503: "SlowDown",
}
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "proxy-connection", "expect"})


@dataclass
class _Fault:
    kind: str  # "status", "drop", "delay", "ignore_range", "cut"
    method: str | None
    key: str | None
    times: float = float("inf")
    until: float = float("inf")
    status: int = 0
    seconds: float = 0.0
    header: str | None = None  # that a request must have

    def takes(self, method: str, path: str, headers: Message) -> bool:
        if self.times <= 0 or time.monotonic() > self.until:
            return False
        if self.header is not None and self.header not in headers:
            return False
        return self.method in (None, method) and (self.key is None or path.endswith(self.key))


class FaultProxy:
    """Runs in threads of the test process; listens from construction until `close` or the end of `with`."""

    def __init__(self, target_url: str) -> None:
        target = urlsplit(target_url)
        assert target.hostname is not None
        assert target.port is not None
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._checks_clocks = False
        self._seen: Counter[tuple[str, str]] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, target.hostname, target.port))
        self._server.daemon_threads = True
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(
        self,
        method: str | None = None,
        *,
        status: int,
        key: str | None = None,
        times: float = float("inf"),
        seconds: float = float("inf"),
    ) -> None:
        """Answer `status` without forwarding. seconds: from now. key: end of the path, decoded."""
        self._add(_Fault("status", method, key, times, time.monotonic() + seconds, status=status))

    def drop_answer(self, method: str = "PUT", *, key: str | None = None, times: float = 1) -> None:
        """Forward the request, wait for the server's answer, then close the connection without a word."""
        self._add(_Fault("drop", method, key, times))

    def cut_body(self, method: str = "GET", *, key: str | None = None, times: float = 1) -> None:
        """Send only half of the answer's body and close the connection."""
        self._add(_Fault("cut", method, key, times))

    def delay(self, seconds: float, method: str | None = None, *, key: str | None = None) -> None:
        """Wait before forwarding."""
        self._add(_Fault("delay", method, key, seconds=seconds))

    def ignore_range(self) -> None:
        """Be a server that knows no ranges. Breaks signatures, so the server behind must not check them."""
        self._add(_Fault("ignore_range", "GET", None))

    def refuse_conditions(self) -> None:
        """Be a server that answers 501 to a put with a condition, as old ones and some gateways do."""
        self._add(_Fault("status", "PUT", None, status=501, header="If-None-Match"))

    def refuse_wrong_clocks(self) -> None:
        """Be a server that answers 403 to what was signed over a quarter of an hour before or after now."""
        self._checks_clocks = True

    def clear(self) -> None:
        """Forward everything again."""
        with self._lock:
            self._faults.clear()

    def count(self, method: str, key: str | None = None) -> int:
        """Requests so far with this method (and whose path ends in `key`), the failed ones included."""
        with self._lock:
            return sum(
                n
                for (verb, path), n in self._seen.items()
                if verb == method and (key is None or path.endswith(key))
            )

    def _add(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _take(self, method: str, path: str, headers: Message) -> _Fault | None:
        with self._lock:
            self._seen[method, path] += 1
            if self._checks_clocks and _is_skewed(headers):
                return _Fault("status", None, None, status=403)
            for fault in self._faults:
                if fault.takes(method, path, headers):
                    fault.times -= 1
                    return fault
        return None


def _is_skewed(headers: Message) -> bool:
    signed = headers.get("X-Amz-Date")
    if signed is None:
        return False
    then = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    return abs(datetime.now(timezone.utc) - then) > timedelta(minutes=15)


def _handler(proxy: FaultProxy, host: str, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # one packet for headers and body

        def handle_expect_100(self) -> bool:
            proceed = super().handle_expect_100()
            self.wfile.flush()  # the client waits for this line, a second at most
            return proceed

        def _serve(self) -> None:
            body = self._request_body()
            fault = proxy._take(self.command, unquote(urlsplit(self.path).path), self.headers)
            kind = fault.kind if fault else ""
            if fault and kind == "status":
                self._refuse(fault.status)
                return
            if fault and kind == "delay":
                time.sleep(fault.seconds)
            status, headers, answer = self._forward(body, without_range=kind == "ignore_range")
            if kind == "drop":
                self.close_connection = True
                return
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2] if kind == "cut" else answer)
            self.close_connection = self.close_connection or kind == "cut"

        def _request_body(self) -> bytes:
            length = self.headers.get("Content-Length")
            return self.rfile.read(int(length)) if length else b""

        def _forward(self, body: bytes, without_range: bool) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(host, port, timeout=30)
            with contextlib.closing(connection):
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _HOP_BY_HOP and not (without_range and name.lower() == "range"):
                        connection.putheader(name, value)
                connection.endheaders(body or None)
                answer = connection.getresponse()
                data = answer.read()
                headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in _HOP_BY_HOP]
            if not any(name.lower() == "content-length" for name, _ in headers):
                headers.append(("Content-Length", str(len(data))))
            return answer.status, headers, data

        def _refuse(self, status: int) -> None:
            code = _CODES.get(status, "Error")
            body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: a test's output is for its failures."""

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815 - names http.server looks for

    return Handler
