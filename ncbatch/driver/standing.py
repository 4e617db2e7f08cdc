"""What becomes of a run at this moment, told from what its driver wrote and from the lease."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ncbatch.driver.lease import LeaseFile
from ncbatch.driver.progress import RunState, Snapshot

_SILENCE_SECONDS = 60.0
"""A driver at work writes its status every ten seconds."""


@dataclass(frozen=True)
class Standing:
    """state: as the driver says; planned: no driver has come yet, or none since more was planned; lost: it
        ended without a word.

    explanation: of the state, for people.
    """

    state: RunState | Literal["planned", "lost"]
    explanation: str


_GO_ON = "run the same command again to continue"
_ENCODES = "the same encode command encodes what is pending"
_TOLD: dict[str, str] = {
    "planning": "it starts workers and measures them; nothing is encoded yet",
    "starting": "it has been started again and starts workers",
    "running": "",
    "paused": "an operator has paused it, and `ncbatch resume` lets it go on",
    "finishing": "it has been interrupted and finishes what is in flight",
    "finished": "every image has a row",
    "planned": f"no driver is at work; {_GO_ON}",
    "interrupted": f"it was ended by Ctrl-C or SIGTERM; {_GO_ON}",
    "stopped": f"it ended before all was done, for a reason that it has named; {_GO_ON}",
}


def with_pending(told: Standing, pending: int) -> Standing:
    """The same, in view of the plan: something may have been planned since the last driver was done."""
    if told.state != "finished" or not pending:
        return told
    return planned_since("1 image has" if pending == 1 else f"{pending} images have")


def planned_since(what_has: str) -> Standing:
    """Of a finished run for which more was planned; what_has: for instance "more has"."""
    return Standing("planned", f"{what_has} been planned since the run was finished; {_ENCODES}")


def standing(snapshot: Snapshot | None, lease: LeaseFile | None, now: datetime) -> Standing:
    """What the run does, as far as its folder tells."""
    alive = lease is not None and not lease.held_by_dead_process()
    if alive and (snapshot is None or snapshot.driver != lease.driver):  # type: ignore[union-attr]
        return Standing("starting", _TOLD["starting"])
    if snapshot is None:
        return Standing("planned", _TOLD["planned"])
    if snapshot.is_over:
        return Standing(snapshot.state, _explained(snapshot))
    if not alive:
        return Standing("lost", f"its driver was killed, or its machine is gone; {_GO_ON}")
    silent = (now - snapshot.updated_at).total_seconds()
    if snapshot.state in ("running", "finishing") and silent > _SILENCE_SECONDS:
        return Standing(
            "lost", f"its driver has said nothing for {silent:.0f} s; if it does not come back, {_GO_ON}"
        )
    return Standing(snapshot.state, _explained(snapshot))


def _explained(snapshot: Snapshot) -> str:
    """What the state means, with the reason that the driver has named."""
    match snapshot.state, snapshot.reason:
        case "finishing", str(reason) if reason:
            return f"it finishes what is in flight and ends then: {reason}"
        case "stopped", str(reason) if reason:
            return reason if _GO_ON in reason else f"{reason}; {_GO_ON}"
        case state, _:
            return _TOLD[state]
