"""What ends or holds a run from outside: its budget, and orders in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from ncbatch import layout
from ncbatch.driver.budget import Budget
from ncbatch.driver.order_watch import OrderWatch
from ncbatch.driver.steering import Steering
from ncbatch.errors import UsageError
from ncbatch.plan.orders import Action, give, standing_order
from ncbatch.store import LocalStore, Store, StoreUnavailable
from tests.end_to_end.command_line import wait_for


class PlayedOrders:
    """Says what it is told to say."""

    def __init__(self, action: Action = "go-on") -> None:
        self.action, self.origin = action, "by ann on desk at noon"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def steering(budget: Budget, orders: PlayedOrders | None = None) -> tuple[Steering, Clock]:
    clock = Clock()
    return Steering(budget, cast("OrderWatch", orders or PlayedOrders()), clock), clock


def test_hours_are_those_of_the_command() -> None:
    asked, clock = steering(Budget(max_hours=2))
    for hour in range(3):
        clock.now = 1000 + hour * 3600
        asked.count(workers=0)
        assert (asked.stop_reason is None) == (hour < 2)
    assert asked.stop_reason == "2 hours are over (--max-hours)"
    assert asked.cost is None


def test_the_cost_is_that_of_the_workers_that_were_there() -> None:
    asked, clock = steering(Budget(max_cost=10, price_per_hour=4))
    clock.now += 1800
    asked.count(workers=2)
    clock.now += 1800
    asked.count(workers=1)
    assert asked.cost == pytest.approx(6) and asked.stop_reason is None
    clock.now += 3600
    asked.count(workers=1)
    assert asked.stop_reason == "the workers have cost 10.00, and 10 are allowed (--max-cost)"
    assert asked.worker_seconds == 9000


def test_a_limit_of_the_cost_needs_a_price() -> None:
    with pytest.raises(UsageError, match="--max-cost needs --price-per-hour"):
        Budget(max_cost=10)


def test_an_operators_orders_pause_and_end_a_run(caplog: pytest.LogCaptureFixture) -> None:
    orders = PlayedOrders("pause")
    asked, _ = steering(Budget(), orders)
    assert asked.paused and asked.paused and asked.stop_reason is None
    assert caplog.messages == ["paused by ann on desk at noon; `ncbatch resume` lets the run go on"]
    orders.action = "go-on"
    assert not asked.paused
    orders.action = "drain"
    assert not asked.paused and asked.stop_reason == "drained by ann on desk at noon"


@pytest.fixture
def output(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_the_newest_order_is_seen_within_seconds(output: LocalStore) -> None:
    with OrderWatch(output, seconds=0.01) as watch:
        assert watch.action == "go-on"
        order = give(output, "pause")
        wait_for(lambda: watch.action == "pause", "the order is seen")
        assert watch.origin == order.origin and " on " in order.by
        give(output, "drain")
        wait_for(lambda: watch.action == "drain", "the next order is seen")


def test_a_pause_stands_for_the_next_driver_and_a_drain_does_not(output: LocalStore) -> None:
    give(output, "pause")
    with OrderWatch(output) as watch:
        assert watch.action == "pause"
    give(output, "drain")
    with OrderWatch(output) as watch:
        assert watch.action == "go-on"
    found = standing_order(output)
    assert found is not None and found.action == "go-on", "the driver after that is not drained either"


def test_what_is_no_order_is_none(output: LocalStore) -> None:
    for data in (b"", b"{}", b'{"action": "explode", "by": "x", "at": "2026-01-01T00:00:00Z"}', b"\xff"):
        output.put(layout.ORDER, data)
        assert standing_order(output) is None


def test_a_store_that_is_away_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        asked = 0

        def get(self, key: str) -> bytes:
            self.asked += 1
            raise StoreUnavailable("it is away")

    store = Away()
    with OrderWatch(cast("Store", store), seconds=0.01) as watch:
        wait_for(lambda: store.asked > 3, "it goes on asking")
        assert watch.action == "go-on"
    assert len(caplog.messages) == 1 and "it begins: it is away" in caplog.messages[0]
