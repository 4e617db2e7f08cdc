"""What Ray's errors mean for a call: the only module that knows how Ray reports a death."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from ncbatch.driver.health import Blame
from ncbatch.driver.schedule import DEVICE_FAILED
from ncbatch.driver.slots import Slot
from ncbatch.metrics.failures import Failure
from ncbatch.worker.worker import DeviceFailure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LostCall:
    """A call whose worker is gone, or has to be replaced.

    reason: an error class. blameless: the node is gone, or the call was lost on its way, which says nothing
    about anybody. died: the process has ended. unreachable: Ray does not know yet whether it has.
    """

    reason: str
    detail: str
    blameless: bool = False
    died: bool = False
    unreachable: bool = False


def outcome(slot: Slot) -> Any:
    """What came of what a worker was asked: its answer, or LostCall."""
    try:
        result = ray.get(slot.ref)
    except RayTaskError as error:  # the worker lives; its code raised
        log.error("a worker (%s) raised:\n%s", slot.name, error)
        return LostCall("internal_error", explained(error))
    except RayError as error:
        reason = "deadline" if slot.flight is not None and slot.flight.killed else "process_killed"
        died, detail = isinstance(error, ActorDiedError), explained(error)
        log.warning("lost a worker (%s): %s", slot.name, detail)
        return LostCall(reason, detail, died and _is_loss_of_node(error), died, not died)
    if not isinstance(result, DeviceFailure):
        return result
    log.warning("the device of a worker (%s) failed: %s", slot.name, result.message)
    return LostCall(DEVICE_FAILED, result.message)


def failure_by(blame: Blame) -> Failure:
    """What the row of an image says that every worker was lost with."""
    places = "; ".join(map(str, blame.places))
    lost = f"the worker was lost every time it came to this image ({places}); see its log"
    return Failure(blame.reason, lost)


def _is_loss_of_node(error: Exception) -> bool:
    """Whether an actor died with its node. Ray marks those that were preempted, if it was told before."""
    return bool(getattr(error, "preempted", False)) or "its node has died" in str(error)


def explained(error: Exception) -> str:
    """What happened in one line; Ray's messages are pages."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # Of an exception in the constructor the traceback's last line says what it was.
    last_says_it = "creation task" in lines[0] or _is_loss_of_node(error)
    return lines[-1] if last_says_it else lines[0]
