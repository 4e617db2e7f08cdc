"""What Ray's errors mean for a call: the only module that knows how Ray reports a death."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from ncbatch.driver.schedule import DEVICE_FAILED
from ncbatch.driver.slots import Slot
from ncbatch.worker.worker import DeviceFailure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LostCall:
    """A call whose worker is gone.

    reason: an error class; preempted: the node was taken away, which is nobody's fault; died: for good;
    device_failed: its device does not compute.
    """

    reason: str
    detail: str
    preempted: bool = False
    died: bool = False
    device_failed: bool = False


def outcome(slot: Slot) -> Any:
    """What came of what a worker was asked: its answer, or LostCall."""
    try:
        result = ray.get(slot.ref)
    except RayTaskError as error:  # the worker lives; its code raised
        log.error("a worker raised:\n%s", error)
        return LostCall("internal_error", explained(error))
    except RayError as error:
        reason = "deadline" if slot.flight is not None and slot.flight.killed else "process_killed"
        preempted = isinstance(error, ActorDiedError) and bool(getattr(error, "preempted", False))
        where = f" ({slot.place})" if slot.info else ""
        detail = explained(error)
        log.warning("lost a worker%s: %s", where, detail)
        return LostCall(reason, detail, preempted, died=isinstance(error, ActorDiedError))
    if not isinstance(result, DeviceFailure):
        return result
    log.warning("the device of a worker (%s) failed: %s", slot.place, result.message)
    return LostCall(DEVICE_FAILED, f"{result.message} ({slot.place})", device_failed=True)


def explained(error: Exception) -> str:
    """What happened in one line; Ray's messages are pages."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # Of an exception in the constructor the traceback's last line says what it was.
    return lines[-1] if "creation task" in lines[0] else lines[0]
