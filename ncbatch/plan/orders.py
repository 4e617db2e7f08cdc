"""What an operator asks of a run's driver, through the run's folder: any driver obeys, wherever it is.

The order is one small object that the newest one replaces. It is advisory as the status is: whoever can write
to the run may give one, and a driver that cannot read it goes on as it was.
"""

from __future__ import annotations

import getpass
import platform
from datetime import datetime, timezone
from typing import Literal

import pydantic

from ncbatch import layout
from ncbatch.store import ObjectNotFound, Store

Action = Literal["go-on", "pause", "drain"]
"""go-on: nothing special. pause: begin no more units until told otherwise, and stay. drain: finish what is in
flight, and end."""


class Order(pydantic.BaseModel, frozen=True):
    """One order.

    Attributes:
        action: what to do.
        by: who gave it: user and machine.
        at: when, UTC.
    """

    action: Action
    by: str
    at: datetime

    @property
    def origin(self) -> str:
        """Who gave it and when, in words."""
        return f"by {self.by} at {self.at:%Y-%m-%d %H:%M:%S} UTC"


def give(output: Store, action: Action) -> Order:
    """Puts an order into a run's folder, in the place of the one that stands."""
    order = Order(action=action, by=f"{_user()} on {platform.node()}", at=datetime.now(timezone.utc))
    output.put(layout.ORDER, order.model_dump_json().encode())
    return order


def standing_order(output: Store) -> Order | None:
    """The order that stands; None where none was given or it cannot be understood.

    Raises:
        StoreError: the store refused or could not be reached.
    """
    try:
        return Order.model_validate_json(output.get(layout.ORDER))
    except (ObjectNotFound, pydantic.ValidationError):
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user often has no name
        return "somebody"
