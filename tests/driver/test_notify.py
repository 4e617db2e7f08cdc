from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import tenacity

from ncbatch.cli.encode import encode_and_summarise
from ncbatch.driver.notify import notified
from ncbatch.driver.options import EncodeOptions
from ncbatch.driver.progress import Snapshot
from ncbatch.errors import LeaseHeldError, RunError, StoppedByPolicyError, Terminated
from ncbatch.metrics.summary import summary_of
from ncbatch.plan.spec import RunSpec
from ncbatch.settings import web_address
from ncbatch.store import StoreError
from tests.workbench import make_variant

SUMMARY = summary_of({})


@dataclass
class Hook:
    """A server on the loopback; answers: the codes of its next answers, 200 when there are no more."""

    url: str
    answers: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("ncbatch.driver.notify._WAIT", tenacity.wait_none())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            found.bodies.append(json.loads(body))
            self.send_response(found.answers.pop(0) if found.answers else 200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Hook(f"http://127.0.0.1:{server.server_port}/secret-path")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_fails_twice_is_told_in_the_end(hook: Hook) -> None:
    hook.answers = [503, 429]
    with notified(hook.url, "s3://b/run/") as ending:
        ending.finished(SUMMARY)
    assert len(hook.bodies) == 3 and hook.bodies[0] == hook.bodies[2]
    assert hook.bodies[2] == {
        "run": "s3://b/run/", "state": "finished", "ok": 0, "failed": 0, "pending": 0, "reason": "",
        "text": "The run s3://b/run/ has finished: 0 images ok, 0 failed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (StoppedByPolicyError("stopped: too many failed"), "stopped", "was stopped: too many failed"),
        (Terminated(), "interrupted", "was interrupted: the same command continues it"),
        (RunError("no such bucket"), "error", "ended with an error: no such bucket"),
        (ZeroDivisionError(), "error", "ended with an error: ZeroDivisionError"),
    ],
)
def test_every_other_end_is_told_too_and_goes_on(
    hook: Hook, error: BaseException, state: str, text: str
) -> None:
    with pytest.raises(type(error)), notified(hook.url, "s3://b/run/"):
        raise error
    (body,) = hook.bodies
    assert body["state"] == state and body["text"] == f"The run s3://b/run/ {text}"


def test_what_a_run_has_done_is_told_when_it_was_stopped(hook: Hook) -> None:
    at = datetime.now(timezone.utc)
    seen = Snapshot(state="stopped", images=9, ok=5, failed=1, pending=3, updated_at=at)
    with pytest.raises(StoppedByPolicyError), notified(hook.url, "s3://b/run/") as ending:
        ending.saw(seen)
        raise StoppedByPolicyError("stopped: drained by ann")
    (body,) = hook.bodies
    assert (body["ok"], body["failed"], body["pending"]) == (5, 1, 3)
    assert body["text"].endswith("was stopped: drained by ann (5 images ok, 1 failed, 3 pending)")


def test_an_address_that_does_not_answer_is_tried_for_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    with notified("http://127.0.0.1:1/secret-path", "s3://b/run/") as ending:
        ending.finished(SUMMARY)
    assert waits and sum(waits) <= 10
    first, last = caplog.messages
    assert "does not take the notification" in first and "Ctrl-C" in first
    assert "127.0.0.1 could not be told" in last and "secret" not in caplog.text


def test_ctrl_c_ends_the_notification_and_not_what_it_is_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ncbatch.driver.notify._post", interrupted)
    with notified("http://127.0.0.1:1/", "s3://b/run/") as ending:
        ending.finished(SUMMARY)
    assert caplog.messages == ["127.0.0.1 was not told how the run ended"]


def test_a_driver_that_is_kept_out_tells_nobody_since_the_run_goes_on(hook: Hook) -> None:
    with pytest.raises(LeaseHeldError), notified(hook.url, "s3://b/run/"):
        raise LeaseHeldError("another driver is at it")
    assert hook.bodies == []


def test_who_cannot_be_told_changes_nothing_and_no_secret_is_logged(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answers = [404] * 9
    with notified(hook.url, "s3://b/run/") as ending:
        ending.finished(SUMMARY)
    assert len(hook.bodies) == 1, "the server says that the request is wrong: it is not repeated"
    with notified("http://127.0.0.1:1/secret-path", "s3://b/run/") as ending:
        ending.finished(SUMMARY)
    told = [message for message in caplog.messages if "could not be told how the run ended" in message]
    assert len(told) == 2 and "secret" not in caplog.text


def test_a_run_that_is_refused_is_told_too(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    options = EncodeOptions(notify=hook.url)
    spec = RunSpec(corpus=str(tmp_path / "in"), variants=(make_variant(),))
    output = str(tmp_path / "in" / "a file" / "out")
    Path(output).parent.write_bytes(b"")
    with pytest.raises(StoreError):
        encode_and_summarise(spec, output, options)
    (body,) = hook.bodies
    assert (body["run"], body["state"]) == (output, "error")
    assert "a file" in body["reason"]


def test_nobody_is_told_unless_an_address_is_given(hook: Hook) -> None:
    with notified(None, "s3://b/run/") as ending:
        ending.finished(SUMMARY)
    assert hook.bodies == []


def test_an_address_is_one_of_the_web() -> None:
    assert web_address("https://example.com/x?y") == "https://example.com/x?y"
    for text in (
        "example.com", "ftp://example.com", "https://", "", "http://a b/", "http://a:abc/", "http://a:99999/",
        "http://a/\n", "http://a/ü",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="is not an address like https"):
            web_address(text)
