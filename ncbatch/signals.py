"""What SIGINT (Ctrl-C), SIGTERM and SIGHUP do: the one place where their handlers are set.

SIGHUP, which comes when a terminal is closed, does what SIGTERM does, unless it is ignored (nohup).

All raise an exception in the main thread, and nothing but that thread may set handlers: in any other thread
of a program that uses the library, all of this does nothing.

An exception that a handler raises can be lost: Python drops it inside destructors and fork hooks, Ray's
waiting makes a plain KeyboardInterrupt of it. So what was raised is remembered until the outermost block of
`handled` or `deferred` ends.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from ncbatch.errors import Terminated

_TO_END = (signal.SIGTERM, signal.SIGHUP)
_NUMBERS = (signal.SIGINT, *_TO_END)


class _Memory:
    """depth: of nested blocks. raised: signals for which a handler of ours has raised an exception."""

    def __init__(self) -> None:
        self.depth = 0
        self.raised: list[int] = []


_memory = _Memory()


class Request:
    """Whether a signal has asked for an end that was put off.

    Attributes:
        number: the signal, or None as long as there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def obey(self) -> None:
        """Raises KeyboardInterrupt, or Terminated, if an end was asked for."""
        if self.number is not None:
            raise _exception(self.number)


@contextmanager
def handled() -> Iterator[None]:
    """Within the block SIGINT raises KeyboardInterrupt, and SIGTERM and SIGHUP raise Terminated."""
    with _installed(_end):
        yield


@contextmanager
def deferred(*numbers: signal.Signals) -> Iterator[Request]:
    """Within the block the first of these signals only asks for an end. The next one, or another, raises."""
    request = Request()

    def ask(number: int, frame: FrameType | None) -> None:
        if request or number not in numbers:
            _end(number, frame)
        request.number = number

    with _installed(ask):
        check()
        yield request


def at_first(number: signal.Signals, action: Callable[[], None]) -> None:
    """From now on the first of these signals calls the action, in the main thread; the next does what the
    signal did before.
    """
    if not _main_thread():
        return
    before = signal.getsignal(number)

    def act(_: int, __: FrameType | None) -> None:
        _set({number: before})
        action()

    signal.signal(number, act)


@contextmanager
def restored() -> Iterator[None]:
    """Undoes handlers that a call within the block sets in the place of ours, as `ray.init()` does.

    At the end of the block ours are back. They are given the signals that went to the other handlers, whose
    exceptions are forgotten, and an exception of ours that got lost on the way is raised again.
    """
    if not _main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        # The interpreter writes the number of every signal there, whichever handler it then calls.
        outer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(outer)
            replaced = {number for number in _NUMBERS if signal.getsignal(number) != before[number]}
            _set(before)
            came = b""
            with contextlib.suppress(BlockingIOError):  # none came
                came = reader.recv(4096)
            for number in came:
                if number in replaced:
                    signal.raise_signal(number)
            check()


def check() -> None:
    """Raises again what a handler has raised since the outermost block began, if the exception got lost."""
    if _memory.raised and _main_thread():
        raise _exception(_memory.raised[-1])


def _end(number: int, frame: FrameType | None) -> NoReturn:
    _memory.raised.append(number)
    raise _exception(number)


def _exception(number: int) -> KeyboardInterrupt:
    return Terminated() if {number, *_memory.raised} & {*_TO_END} else KeyboardInterrupt()


@contextmanager
def _installed(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if not _main_thread():
        yield
        return
    heard = [n for n in _NUMBERS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    _memory.depth += 1
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if {*_memory.raised} & {*_TO_END} and not isinstance(interrupt, Terminated):
            raise Terminated from None
        raise
    finally:
        _set(before)
        _memory.depth -= 1
        if not _memory.depth:
            _memory.raised.clear()


def _set(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # set by something other than Python, which cannot set it again
            signal.signal(number, handler)


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
