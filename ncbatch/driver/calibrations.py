"""How long each variant takes on the workers of a pool, measured side by side."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from ncbatch.driver.health import Place
from ncbatch.driver.lost_calls import LostCall
from ncbatch.driver.pool import Pool
from ncbatch.driver.slots import Measurement
from ncbatch.errors import RunError, StoppedByPolicyError
from ncbatch.worker.worker import GivenBack, StoreFailure

log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0
_TELLING = ("internal_error", "deadline")
"""What says something of the variant, when it happens in two processes; other losses are the worker's."""
_TROUBLES = 3
"""Besides one for each worker, before there is no use in asking others."""


def calibrate(pool: Pool, variants: Iterable[str], wanted: int) -> dict[str, float]:
    """Seconds per pixel of variants, each measured by one worker, by as many at a time as there are.

    Args:
        wanted: workers that the run could keep busy.

    Raises:
        RunError: one of them cannot be encoded with.
        StoppedByPolicyError: workers die over it.
    """
    waiting = deque(dict.fromkeys(variants))
    left, found, troubles = len(waiting), dict[str, float](), list[tuple[str, Place]]()
    while len(found) < left:
        pool.grow(wanted)
        # What went wrong is tried again elsewhere, where there is more than one worker.
        bad = Counter(place.key for _, place in troubles)
        idle = deque(sorted(pool.idle(), key=lambda slot: bad[slot.place.key] if slot.place else 0))
        while waiting and idle:
            pool.measure(idle.popleft(), Measurement(waiting.popleft()))
        for call, result, _, place in pool.events(_WAIT_SECONDS):
            assert isinstance(call, Measurement)
            if isinstance(result, float):
                found[call.variant] = result
                continue
            waiting.append(call.variant)
            if isinstance(result, GivenBack) or (isinstance(result, LostCall) and result.blameless):
                continue
            troubles.append((call.variant, place))
            _check(call.variant, result, troubles, pool)
        if pool.stop_reason:
            raise StoppedByPolicyError(f"stopped: {pool.stop_reason}")
    return found


def _check(
    variant: str, result: LostCall | StoreFailure, troubles: Sequence[tuple[str, Place]], pool: Pool
) -> None:
    """Raises an error where a failure is not the fault of one place."""
    processes = {place for name, place in troubles if name == variant}
    enough = len(troubles) >= _TROUBLES + pool.size
    if isinstance(result, StoreFailure):
        log.warning("a worker (%s) cannot use the store: %s", troubles[-1][1], result.message)
        if enough:
            raise RunError(f"no worker can use the store: {result.message}")
    elif result.reason in _TELLING and len(processes) >= 2:
        raise RunError(f"no worker can encode with {variant}: {result.detail}")
    elif enough:
        raise StoppedByPolicyError(
            f"stopped: workers died {len(troubles)} times over {variant} (last: {result.detail}); "
            "look at the workers' logs"
        )
