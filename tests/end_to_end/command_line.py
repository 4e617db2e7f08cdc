"""Running the command line as its users do: as a process of its own, in a process group of its own.

Every process a test starts carries a mark in its environment, which all its children inherit (Ray's too).
So a test finds, and ends, exactly its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import clean_aws_environment

ROOT = Path(__file__).resolve().parents[2]
SABOTEUR = Path(__file__).parent / "saboteur"
HANG_SECONDS = 900.0
"""A command that takes longer hangs, however slow the machine."""
MARK = "NCBATCH_TESTMARK"


def environment(**extra: str) -> dict[str, str]:
    """The machine's environment without anything that would reach into a test."""
    with pytest.MonkeyPatch.context() as patch:
        clean_aws_environment(patch)
        env = dict(os.environ)
    for name in list(env):
        # Without compiled files every process of Ray takes three times as long to start.
        if name.startswith(("RAY_", "PYTHONDONTWRITEBYTECODE", "COLUMNS")):
            del env[name]
    env |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    env["PYTHONPATH"] = os.pathsep.join([str(SABOTEUR), str(ROOT)])
    # `python` means this one, also in a job's entry point.
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    return env | extra


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    def expect(self, code: int) -> Done:
        assert self.code == code, str(self)
        assert "Traceback" not in self.err, str(self)
        return self

    @property
    def message(self) -> str:
        """The only line on standard error."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, str(self)
        return lines[0]


Said = Callable[..., Done]
"""The fixture `said`: a command in the test's own process."""


class Running:
    """A command that runs."""

    def __init__(self, args: tuple[str, ...], env: Mapping[str, str] | None, cwd: Path | None) -> None:
        self._mark = uuid.uuid4().hex
        self._out, self._err = _scratch_file(), _scratch_file()
        self.process = subprocess.Popen(
            args,
            env={**(env or environment()), MARK: self._mark},
            cwd=cwd or ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    def wait(self, timeout: float = HANG_SECONDS) -> Done:
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"still running after {timeout} s\n{self.done}")
        return self.done

    @property
    def done(self) -> Done:
        return Done(self.process.returncode or 0, _text(self._out), _text(self._err))

    @property
    def err(self) -> str:
        return _text(self._err)

    def assert_runs(self) -> None:
        """Shows all that it said where it has ended."""
        if self.process.poll() is not None:
            pytest.fail(f"it ended with {self.process.returncode}:\n{self.err}")

    def signal_group(self, number: int) -> None:
        """As a terminal does it: to the command and its children in the foreground."""
        os.killpg(self.process.pid, number)

    def descendants(self) -> dict[int, str]:
        """Process ids of the command and everything it started, with their command lines."""
        return marked_processes(self._mark)

    def busy_workers(self) -> list[int]:
        """Ray names a process after the method it executes."""
        return [pid for pid, line in self.descendants().items() if "ray::Worker.run_unit" in line]

    def kill(self) -> None:
        """Ends the command and whatever it left behind."""
        for pid in self.descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def marked_processes(mark: str) -> dict[int, str]:
    """Process ids and command lines of all processes with a mark in their environment."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            if mark.encode() in (folder / "environ").read_bytes():
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = line
    return found


def _scratch_file() -> tempfile._TemporaryFileWrapper[bytes]:
    """Not a pipe: nobody reads while the command runs, and a full pipe would stop it."""
    return tempfile.NamedTemporaryFile()


def _text(file: tempfile._TemporaryFileWrapper[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


@contextlib.contextmanager
def running(
    *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Running]:
    """`ncbatch` with arguments, going on while the block is executed."""
    command = Running((sys.executable, "-m", "ncbatch", *map(str, args)), env, cwd)
    try:
        yield command
    finally:
        command.kill()


def ncbatch(
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = HANG_SECONDS,
) -> Done:
    """`ncbatch` with arguments, to its end."""
    with running(*args, env=env, cwd=cwd) as command:
        return command.wait(timeout)


def wait_for(condition: Callable[[], object], what: str, seconds: float = HANG_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.1)
