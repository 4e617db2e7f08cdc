"""One driver at a time, as a courtesy."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

import pytest

from ncbatch import layout
from ncbatch.driver import lease
from ncbatch.driver.lease import Lease, LeaseFile, read_lease
from ncbatch.errors import LeaseHeldError
from ncbatch.store import Store
from tests.workbench import Workbench


@pytest.fixture
def output(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A folder; a holder is taken for dead after a fraction of a second."""
    monkeypatch.setattr(lease, "_PATIENCE_SECONDS", 0.2)
    return local.output


def _elsewhere(renewals: int = 1) -> bytes:
    """The lease of a driver on another machine."""
    held = LeaseFile(driver="other", host="another", boot="b", pid=1, renewals=renewals)
    return held.model_dump_json().encode()


def _no_sleep(seconds: float) -> None:
    raise AssertionError("there is nothing to wait for")


def test_a_free_lease_is_taken_at_once(output: Store) -> None:
    ours = Lease(output)
    ours.take(force=False, sleep=_no_sleep)
    held = read_lease(output)
    assert held is not None
    assert (held.driver, held.host, held.pid) == (ours.driver, platform.node(), os.getpid())
    ours.release()
    assert read_lease(output) is None


def test_a_living_holder_keeps_it(output: Store) -> None:
    output.put(layout.LEASE, _elsewhere())

    def holder_renews(seconds: float) -> None:
        output.put(layout.LEASE, _elsewhere(renewals=2))

    with pytest.raises(LeaseHeldError, match=r"process 1 on another.*--force"):
        Lease(output).take(force=False, sleep=holder_renews)
    held = read_lease(output)
    assert held is not None
    assert held.driver == "other"


def test_a_silent_holder_loses_it(output: Store) -> None:
    output.put(layout.LEASE, _elsewhere())
    began = time.monotonic()
    ours = Lease(output)
    ours.take(force=False, sleep=lambda seconds: time.sleep(0.05))
    assert time.monotonic() - began >= 0.2
    held = read_lease(output)
    assert held is not None
    assert held.driver == ours.driver


def test_a_holder_that_ends_meanwhile_frees_it(output: Store) -> None:
    output.put(layout.LEASE, _elsewhere())
    naps = []

    def holder_ends(seconds: float) -> None:
        naps.append(seconds)
        output.delete(layout.LEASE)

    Lease(output).take(force=False, sleep=holder_ends)
    assert len(naps) == 1


def test_a_dead_process_of_this_machine_is_not_waited_for(output: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    first = Lease(output)
    first.take(force=False)
    held = read_lease(output)
    assert held is not None
    assert not held.held_by_dead_process(), "this very process lives"
    output.put(layout.LEASE, held.model_copy(update={"pid": child.pid}).model_dump_json().encode())
    Lease(output).take(force=False, sleep=_no_sleep)


def test_the_same_pid_on_another_machine_may_live(output: Store) -> None:
    held = LeaseFile(driver="other", host=platform.node(), boot="another boot", pid=2**22 + 1, renewals=1)
    assert not held.held_by_dead_process()


def test_force_does_not_wait(output: Store) -> None:
    output.put(layout.LEASE, _elsewhere())
    ours = Lease(output)
    ours.take(force=True, sleep=_no_sleep)
    held = read_lease(output)
    assert held is not None
    assert held.driver == ours.driver


def test_a_damaged_lease_holds_nobody_off(output: Store) -> None:
    output.put(layout.LEASE, b"{")
    Lease(output).take(force=False, sleep=_no_sleep)


def test_renewing_shows_life_and_sees_a_takeover(output: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Lease(output), Lease(output)
    first.take(force=False)
    before = output.get(layout.LEASE)
    assert first.renew()
    assert output.get(layout.LEASE) == before, "it is not time yet"
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.0)
    assert first.renew()
    assert output.get(layout.LEASE) != before
    second.take(force=True)
    assert not first.renew()
    assert second.renew()
    first.release()
    held = read_lease(output)
    assert held is not None
    assert held.driver == second.driver, "only the holder gives it back"
    second.release()
    assert output.head(layout.LEASE) is None
