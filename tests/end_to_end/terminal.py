"""The command line on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import uuid
from pathlib import Path
from types import TracebackType

from tests.end_to_end.command_line import MARK, ROOT, environment, marked_processes

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """`ncbatch` in the foreground of a terminal of 120 columns."""

    def __init__(self, *args: str | Path) -> None:
        self._mark = uuid.uuid4().hex
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._process = subprocess.Popen(
            (sys.executable, "-m", "ncbatch", *map(str, args)),
            env={**environment(TERM="xterm"), MARK: self._mark},
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._read: list[bytes] = []
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):  # that is how a terminal says that nobody is left
            while data := os.read(self._master, 65536):
                self._read.append(data)

    def text(self) -> str:
        """Everything shown so far, without colours and cursor movements."""
        return _CONTROL.sub("", b"".join(self._read).decode(errors="replace"))

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def enter(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in marked_processes(self._mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        self._reader.join(5)
        os.close(self._master)
