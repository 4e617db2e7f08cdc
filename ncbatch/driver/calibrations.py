"""How long each variant takes on the workers of a pool, measured side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ncbatch.driver.lost_calls import LostCall
from ncbatch.driver.pool import Pool
from ncbatch.driver.slots import Measurement
from ncbatch.errors import RunError, StoppedByPolicyError
from ncbatch.worker.worker import GivenBack, StoreFailure

_WAIT_SECONDS = 1.0
_TELLING = ("internal_error", "deadline")
"""What says something of the variant; other losses are the worker's, and another one is asked."""


def calibrate(pool: Pool, variants: Iterable[str], wanted: int) -> dict[str, float]:
    """Seconds per pixel of variants, each measured by one worker, by as many at a time as there are.

    Args:
        wanted: workers that the run could keep busy.

    Raises:
        RunError: one of them cannot be encoded with.
        StoppedByPolicyError: workers die over it.
    """
    waiting = deque(dict.fromkeys(variants))
    left, found = len(waiting), dict[str, float]()
    while len(found) < left:
        pool.grow(wanted)
        while waiting and pool.has_idle:
            pool.measure(Measurement(waiting.popleft()))
        for call, result, _ in pool.events(_WAIT_SECONDS):
            assert isinstance(call, Measurement)
            match result:
                case StoreFailure():
                    raise RunError(f"a worker cannot use the store: {result.message}")
                case LostCall() if result.reason in _TELLING:
                    raise RunError(f"no worker can encode with {call.variant}: {result.detail}")
                case LostCall() | GivenBack():
                    waiting.append(call.variant)
                case _:
                    found[call.variant] = float(result)
        if pool.stop_reason:
            raise StoppedByPolicyError(f"stopped: {pool.stop_reason}")
    return found
