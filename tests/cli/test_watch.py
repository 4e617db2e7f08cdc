"""`ncbatch watch`: a run live, in a terminal, in lines and in a browser."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from benchmarks.synthetic_run import make_synthetic_run
from ncbatch.cli import watch_web
from ncbatch.cli.live_page import LivePage
from ncbatch.cli.main import main
from ncbatch.cli.watch_view import screen
from ncbatch.driver.lease import Lease
from ncbatch.driver.look import Look, look
from ncbatch.driver.progress import (
    KeptFromWork,
    PlanCounts,
    Snapshot,
    UnitInFlight,
    VariantCount,
    write_status,
)
from ncbatch.driver.standing import Standing
from ncbatch.exit_codes import ExitCode
from ncbatch.store import LocalStore, Store, StoreUnavailable, open_store
from tests.browser import browser, complaints_of, fits, needs_chromium

IMAGES = 400


@pytest.fixture
def run(tmp_path: Path) -> Store:
    output = open_store(str(tmp_path / "run"), create=True)
    make_synthetic_run(output, (tmp_path / "images").as_uri() + "/", IMAGES)
    return output


def said(state: Any, driver: str = "me", **fields: Any) -> Snapshot:
    known: dict[str, Any] = {
        "images": IMAGES, "ok": 120, "failed": 3, "pending": 277, "fraction": 0.31, "workers": 3,
        "eta_seconds": 720.0, "images_per_second": 0.5, "elapsed_seconds": 246.0, "worker_seconds": 7200.0,
        "mean_bpp": 0.44, "mean_psnr": 32.1, "failures": {"truncated": 2}, "busy_workers": 2,
        "images_in_flight": 200,
        "variants": (VariantCount(name="sga", images=IMAGES, image_bytes=10**8, bitstream_bytes=10**7),),
        "in_flight": tuple(
            UnitInFlight(unit=f"unit{n}", variant="sga", images=100, worker=f"process {n} on gpu-1",
                         fraction=n / 4 or None, seconds=60.0)
            for n in range(2)
        ),
        "quarantined": (KeptFromWork(node="n", host="gpu-7", device="cuda:3", failures=4, reason="ECC"),),
    }  # fmt: skip
    return Snapshot(state=state, driver=driver, updated_at=datetime.now(timezone.utc), **(known | fields))


@contextmanager
def driven(output: Store, snapshot: Snapshot) -> Iterator[Callable[[Snapshot | None], None]]:
    """A driver that is at work; what is given back lets it say something, or nothing any more."""
    lease = Lease(output)
    lease.take(force=False)

    def say(what: Snapshot | None) -> None:
        if what is None:
            lease.release()
        else:
            write_status(output, what.model_copy(update={"driver": lease.driver}))

    say(snapshot)
    yield say
    lease.release()


def _watched(
    output: Store, monkeypatch: pytest.MonkeyPatch, then: list[Callable[[], None]], *flags: str
) -> int:
    """Watches a run to which something happens while the command sleeps."""

    def sleep(seconds: float) -> None:
        assert seconds == 0.25
        then.pop(0)()

    monkeypatch.setattr("ncbatch.cli.watch.time.sleep", sleep)
    return main(["watch", output.uri, "--every", "0.25", *flags])


@pytest.mark.parametrize(
    ("last", "code", "words"),
    [
        (said("finished", failed=3, pending=0), ExitCode.FAILED, "finished: every image has a row"),
        (said("finished", failed=0, pending=0), ExitCode.OK, "finished: every image has a row"),
        (said("stopped", reason="drained by ann"), ExitCode.STOPPED, "stopped: drained by ann"),
        (said("interrupted"), ExitCode.INTERRUPTED, "interrupted: it was ended by Ctrl-C or SIGTERM"),
        (None, ExitCode.ERROR, "lost: its driver was killed"),
    ],
)
def test_it_ends_with_the_run_and_in_its_sense(
    run: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    last: Snapshot | None, code: int, words: str,
) -> None:  # fmt: skip
    with driven(run, said("running")) as say:

        def end() -> None:
            say(last)
            say(None)

        assert _watched(run, monkeypatch, [lambda: say(said("running", ok=130)), end]) == code
    captured = capsys.readouterr()
    first, *_, final = captured.out.splitlines()
    assert first.startswith("123/400 images, 31 % | 3 failed | ETA 12 min 00 s | 3 workers")
    assert words in final + captured.err


def test_a_store_that_is_away_for_a_while_ends_nothing(
    run: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = LocalStore.get
    with driven(run, said("running")) as say:

        def away() -> None:
            def refuse(*_: Any) -> bytes:
                raise StoreUnavailable("no answer")

            monkeypatch.setattr(LocalStore, "get", refuse)

        def back() -> None:
            monkeypatch.setattr(LocalStore, "get", reads)
            say(said("finished", failed=0))

        assert _watched(run, monkeypatch, [away, back]) == ExitCode.OK
    assert "the store does not answer, and is asked again: no answer" in capsys.readouterr().out


def test_who_watches_and_presses_ctrl_c_ends_nothing_but_the_view(
    run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    with driven(run, said("running")):
        assert _watched(run, monkeypatch, [press]) == ExitCode.OK
        assert look(run).told.state == "running"


def test_a_look_is_two_small_requests(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    get = LocalStore.get

    def noted(self: LocalStore, key: str) -> bytes:
        asked.append(key)
        return get(self, key)

    monkeypatch.setattr(LocalStore, "get", noted)
    monkeypatch.setattr(LocalStore, "list", None)
    with driven(run, said("running")):
        asked.clear()
        look(run)
        assert sorted(asked) == ["lease.json", "status.json"]


def test_there_has_to_be_a_run_and_somebody_at_work(
    run: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["watch", str(tmp_path / "empty")]) == ExitCode.ERROR
    assert "holds no run" in capsys.readouterr().err
    assert main(["watch", run.uri]) == ExitCode.ERROR
    assert "planned: no driver is at work" in capsys.readouterr().err


def test_what_was_planned_since_the_run_was_finished_is_not_done(run: Store) -> None:
    write_status(run, said("finished", plan=PlanCounts(generation=0, units=4, inputs=IMAGES)))
    assert look(run).told.state == "finished"
    run.put("generations/1.json", b"{}")
    assert look(run).told.state == "planned"


def test_a_driver_that_says_nothing_is_given_minutes() -> None:
    def silent(seconds: float, holder: str | None) -> Look:
        now = datetime.now(timezone.utc)
        snapshot = said("running").model_copy(update={"updated_at": now - timedelta(seconds=seconds)})
        return Look(Standing("lost", ""), snapshot, holder, now)

    assert not silent(120, "process 1 on a").is_over
    assert silent(400, "process 1 on a").is_over
    assert silent(120, None).is_over


def test_a_screen_says_who_does_what_and_what_went_wrong() -> None:
    found = Look(Standing("running", ""), said("running"), "process 1 on a", datetime.now(timezone.utc))
    for width in (60, 120):
        sink = io.StringIO()
        console = Console(file=sink, width=width, force_terminal=True, color_system=None)
        console.print(screen(found, "s3://b/run/", 2.5, "", rows=1))
        told = sink.getvalue()
        assert all(len(text) <= width for text in told.splitlines())
        whole = " ".join(told.split())
        for words in (
            "s3://b/run/ running", "31 %", "123 of 400 images", "200 in flight", "2 of 3 workers busy",
            "ETA 12 min 00 s", "100.0 MB became 10.0 MB", "process 0 on gpu", "... and 1 more",
            "failed: 2 truncated, 1 other;", "kept from work: cuda:3 of gpu-7", "cost so far: 5.00",
        ):  # fmt: skip
            assert words in whole, told


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LivePage, str]]:
    """The page of a run that is at work, whose report is yet to be drawn when the first test begins."""
    place = tmp_path_factory.mktemp("served")
    output, folder = open_store(str(place / "run"), create=True), place / "page"
    folder.mkdir()
    make_synthetic_run(output, (place / "images").as_uri() + "/", IMAGES)
    with driven(output, said("running")):
        page = LivePage(output, folder, look(output), 2.5)
        server = watch_web._server(folder, ("127.0.0.1", 0))
        server.page = page
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield page, f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            server.server_close()
            page.close()


def _get(url: str, path: str, host: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def test_a_run_that_is_being_planned_has_a_page_that_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = open_store(str(tmp_path / "run"), create=True)
    with driven(output, said("planning", ok=0)):
        page = LivePage(output, tmp_path / "page", look(output), None)
        page._write_report()
        page.close()
    assert page.version == 0 and (tmp_path / "page" / "index.html").exists()
    assert not caplog.messages


@needs_chromium
def test_the_live_page_in_a_browser(served: tuple[LivePage, str]) -> None:
    """It fits, loads itself anew when the report is there, and asks nobody but its server."""
    _, url = served
    with browser() as chromium:
        tab = chromium.new_page(color_scheme="dark")
        complaints = complaints_of(tab, url)
        tab.goto(url)
        tab.wait_for_selector("#live[data-page='1']", timeout=240_000)
        tab.wait_for_selector("#live .cards .card")
        assert tab.locator("#live .state").text_content() == "running"
        assert tab.locator("#live tbody tr").count() == 2
        assert tab.locator("#throughput img").evaluate("i => i.decode().then(() => i.naturalWidth)") > 100
        assert fits(tab, 400) and fits(tab, 1400)
        assert complaints == []


def test_the_page_has_what_the_driver_says_and_then_the_report(
    served: tuple[LivePage, str],
) -> None:
    page, url = served
    status, body, headers = _get(url, "/status.json")
    now = json.loads(body)
    assert (status, now["state"], now["fraction"]) == (200, "running", 0.31)
    assert {card["title"]: card["value"] for card in now["cards"]}["Busy workers"] == "2 of 3"
    assert [unit["fraction"] for unit in now["in_flight"]] == [None, 0.25]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    deadline = threading.Event()
    while page.version == 0:
        assert page._thread.is_alive()
        deadline.wait(0.1)
    status, body, _ = _get(url, "/")
    assert status == 200 and b'data-page="1"' in body and b"When and where" in body
    assert b'href="file:' not in body and b'href="../' not in body, "nothing that the server does not have"
    assert _get(url, "/figures/throughput.svg")[0] == 200


def test_the_server_has_the_page_and_nothing_else(served: tuple[LivePage, str]) -> None:
    _, url = served
    for path in ("/../run/run.json", "/%2e%2e/run/run.json", "//etc/passwd", "/nothing"):
        assert _get(url, path)[0] == 404
    assert _get(url, "/status.json", host="evil.example.com")[0] == 403
    assert _get(url, "/status.json", host="localhost:1")[0] == 200


def test_other_machines_see_it_only_if_that_is_asked_for(
    run: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", run.uri, "--web", "--address", "0.0.0.0"]) == ExitCode.ERROR
    assert "--public" in capsys.readouterr().err
    assert main(["watch", run.uri, "--web", "--address", "example.com"]) == ExitCode.ERROR
    assert "is not an IP address" in capsys.readouterr().err
    assert main(["watch", run.uri, "--port", "9000"]) == ExitCode.ERROR
    assert "--web" in capsys.readouterr().err
    watch_web.check_address("0.0.0.0", public=True)
    watch_web.check_address("::1", public=False)


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    server = watch_web._server(tmp_path, ("127.0.0.1", 0))
    try:
        with pytest.raises(watch_web.NcbatchError, match="choose another with --port"):
            watch_web._server(tmp_path, ("127.0.0.1", server.server_address[1]))
    finally:
        server.server_close()
