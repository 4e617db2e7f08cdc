"""A soft lease: keeps a second driver from doing the work of the first by mistake.

It is a courtesy, not a lock: nothing breaks when two drivers work at once, they only waste each other's time.
So it needs no conditional writes, and clocks are not compared: a lease is alive when it changes while one
looks.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pydantic

from ncbatch import layout
from ncbatch.errors import LeaseHeldError
from ncbatch.store import ObjectNotFound, Store, StoreError

log = logging.getLogger(__name__)

RENEW_SECONDS = 5.0
_TICK_SECONDS = 1.0
_JOIN_SECONDS = 5.0
_PATIENCE_SECONDS = 3 * RENEW_SECONDS


class LeaseFile(pydantic.BaseModel, frozen=True):
    """`lease.json`.

    Attributes:
        driver: a random name of the driver.
        host: the machine's name.
        boot: the machine's boot, which tells machines of one name apart.
        pid: the driver's process.
        renewals: how often the lease was renewed; a change is a sign of life.
    """

    driver: str
    host: str
    boot: str
    pid: int
    renewals: int

    @property
    def holder(self) -> str:
        """Who holds the lease, for messages."""
        return f"process {self.pid} on {self.host}"

    def held_by_dead_process(self) -> bool:
        """Certain only for processes of this very machine."""
        if (self.host, self.boot) != (platform.node(), _boot_id()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def _boot_id() -> str:
    """Tells machines (and containers on one host by their names) apart that share a host name."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def read_lease(output: Store) -> LeaseFile | None:
    """The lease that stands in an output folder; None where there is none, or a damaged one."""
    try:
        return LeaseFile.model_validate_json(output.get(layout.LEASE))
    except (ObjectNotFound, pydantic.ValidationError):
        return None


class Lease:
    """Held by one driver from `take` to `release`; `renew` it every few seconds."""

    def __init__(self, output: Store) -> None:
        self._output = output
        self.driver = uuid.uuid4().hex[:8]
        self._renewals = 0
        self._renewed_at = 0.0

    def take(self, *, force: bool, sleep: Callable[[float], None] = time.sleep) -> None:
        """Takes the lease, waiting for a holder that may be dead to show a sign of life.

        Raises:
            LeaseHeldError: another driver is alive.
        """
        first = read_lease(self._output)
        if first is not None and not force and not first.held_by_dead_process():
            holder = f"process {first.pid} on {first.host}"
            log.info("the run was last driven by %s; waiting to see whether it is alive", holder)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while time.monotonic() < deadline:
                sleep(1.0)
                now = read_lease(self._output)
                if now is None:
                    break
                if now != first:
                    raise LeaseHeldError(
                        f"{self._output.uri} is being worked on by another driver ({holder}); "
                        "wait for it, stop it, or use --force to take the run over from it"
                    )
        self._write()

    def _write(self) -> None:
        self._renewals += 1
        content = LeaseFile(
            driver=self.driver,
            host=platform.node(),
            boot=_boot_id(),
            pid=os.getpid(),
            renewals=self._renewals,
        )
        self._output.put(layout.LEASE, content.model_dump_json().encode())
        self._renewed_at = time.monotonic()

    def renew(self) -> bool:
        """Renews the lease when it is time; False when another driver has taken it over."""
        if time.monotonic() - self._renewed_at < RENEW_SECONDS:
            return True
        current = read_lease(self._output)
        if current is not None and current.driver != self.driver:
            return False
        self._write()
        return True

    def release(self) -> None:
        """Gives the lease back, if it is still ours."""
        current = read_lease(self._output)
        if current is not None and current.driver == self.driver:
            self._output.delete(layout.LEASE)


class Heartbeat:
    """Renews a lease for as long as the `with` block lasts.

    A thread, since starting Ray, listing a large corpus and a store that is throttling each take longer than
    another driver waits for a sign of life.
    """

    def __init__(self, lease: Lease) -> None:
        self.driver = lease.driver
        self._lease = lease
        self._over = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another driver has taken the run over."""
        return self._lost.is_set()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_JOIN_SECONDS)  # not for ever: it may be in the middle of a store's retries

    def _beat(self) -> None:
        while not self._over.wait(_TICK_SECONDS):
            try:
                if not self._lease.renew():
                    self._lost.set()
                    return
            except StoreError as error:  # a courtesy is not worth a run
                log.debug("cannot renew the lease: %s", error)
