"""SIGINT, SIGTERM and SIGHUP: what they raise, what is put off, and what nobody can lose."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from ncbatch import signals
from ncbatch.cli import jobs
from ncbatch.errors import Terminated

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    of_the_tests = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where they run under nohup
    before = [signal.getsignal(number) for number in ALL]
    yield
    assert [signal.getsignal(number) for number in ALL] == before
    signal.signal(signal.SIGHUP, of_the_tests)
    with signals.handled():
        signals.check()  # nothing is remembered beyond the outermost block


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def lose(number: int) -> None:
    """As Python does inside destructors and fork hooks."""
    with pytest.raises(KeyboardInterrupt):
        send(number)


def exits(number: int, frame: object) -> None:
    """Ray's handler during ray.init()."""
    sys.exit(number)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_each_raises_its_own(number: int, kind: type[KeyboardInterrupt]) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, signals.handled():
        send(number)
    assert type(caught.value) is kind


def test_a_closed_terminal_ends_nothing_that_ignores_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.handled(), signals.deferred(signal.SIGINT) as asked:
            send(signal.SIGHUP)
            signals.check()
            assert not asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_of_which_a_library_made_a_plain_interrupt() -> None:
    with pytest.raises(Terminated), signals.handled(), signals.handled():
        lose(signal.SIGTERM)
        raise KeyboardInterrupt


def test_the_first_is_put_off_and_the_second_is_not() -> None:
    with signals.deferred(signal.SIGINT) as asked:
        asked.obey()
        send(signal.SIGINT)
        assert asked
        with pytest.raises(KeyboardInterrupt):
            asked.obey()
        signals.check()  # which was not lost
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_what_is_not_put_off_ends_at_once() -> None:
    with pytest.raises(Terminated), signals.deferred(signal.SIGINT) as asked:
        send(signal.SIGINT)
        assert asked
        send(signal.SIGTERM)


def test_sigterm_that_is_put_off_is_obeyed_as_sigterm() -> None:
    with signals.deferred(*ALL) as asked:
        send(signal.SIGTERM)
        with pytest.raises(Terminated):
            asked.obey()


def test_an_interrupt_that_got_lost_ends_what_begins_next() -> None:
    with pytest.raises(KeyboardInterrupt), signals.handled():
        lose(signal.SIGINT)
        with signals.deferred(signal.SIGINT):
            pytest.fail("begun in spite of Ctrl-C")


@pytest.mark.parametrize("swallowed", [False, True])
def test_sigterm_under_the_handler_of_a_library(swallowed: bool) -> None:
    def start() -> None:
        signal.signal(signal.SIGTERM, exits)
        try:
            send(signal.SIGTERM)
        except SystemExit:
            if not swallowed:
                raise

    with pytest.raises(Terminated), signals.handled(), signals.restored():
        start()


def test_an_interrupt_that_got_lost_in_a_library() -> None:
    with pytest.raises(KeyboardInterrupt), signals.handled(), signals.restored():
        lose(signal.SIGINT)


def test_errors_of_a_library_pass_and_nothing_else_is_raised() -> None:
    with signals.handled():
        with pytest.raises(OSError, match="no room"), signals.restored():
            signal.signal(signal.SIGTERM, exits)
            raise OSError("no room")
        with pytest.raises(SystemExit), signals.restored():
            sys.exit(3)


def test_a_program_that_uses_the_library_hears_of_its_own_signals() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with signals.restored():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda number, frame: None)
            send(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_first_signal_is_a_notice_and_the_next_does_what_it_did() -> None:
    heard: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append("the end"))
    try:
        signals.at_first(signal.SIGTERM, lambda: heard.append("notice"))
        for _ in range(2):
            send(signal.SIGTERM)
        assert heard == ["notice", "the end"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_off_the_main_thread_nothing_is_touched() -> None:
    before = [signal.getsignal(number) for number in ALL]
    seen: list[object] = []

    def work() -> None:
        with signals.handled(), signals.restored(), signals.deferred(*ALL) as asked:
            seen.append([signal.getsignal(number) for number in ALL] == before and not asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_who_follows_a_job_ends_by_the_signal(
    monkeypatch: pytest.MonkeyPatch, raised: type[KeyboardInterrupt], code: int
) -> None:
    def interrupted(*_: object) -> int:
        raise raised

    monkeypatch.setattr("ncbatch.driver.jobs.follow", interrupted)
    follow: Callable[..., int] = jobs.follow
    from ncbatch.driver.jobs import DEFAULT_DASHBOARD, Dashboard

    assert follow(None, "job", Dashboard(DEFAULT_DASHBOARD, "the default")) == code
