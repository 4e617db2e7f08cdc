"""The status is written beside the driver's loop, whatever the store does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import cast

import pytest

from ncbatch.driver.progress import Snapshot
from ncbatch.driver.status_writer import StatusWriter
from ncbatch.store import Store, StoreUnavailable


class PlayedStore:
    """Keeps what is put there, after whatever `before` does."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before, self.written = before, list[int]()

    def put(self, key: str, data: bytes) -> None:
        self.before()
        self.written.append(Snapshot.model_validate_json(data).ok)


def writer(store: PlayedStore) -> StatusWriter:
    return StatusWriter(cast("Store", store))


def snapshot(ok: int) -> Snapshot:
    return Snapshot(state="running", ok=ok, updated_at=datetime.now(timezone.utc))


def test_a_store_that_does_not_answer_holds_nobody_up_and_the_newest_snapshot_is_written() -> None:
    answers, asked = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        answers.wait()

    store = PlayedStore(wait)
    with writer(store) as status:
        status.offer(snapshot(0))
        asked.wait()
        for ok in range(1, 100):
            status.offer(snapshot(ok))
        assert not store.written, "all of this went on while the store was silent"
        answers.set()
    assert store.written == [0, 99]


def test_an_outage_is_reported_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    down = True
    tried = threading.Semaphore(0)

    def fail() -> None:
        tried.release()
        if down:
            raise StoreUnavailable("the server is away")

    store = PlayedStore(fail)
    with caplog.at_level(logging.INFO), writer(store) as status:
        for ok in range(3):
            status.offer(snapshot(ok))
            tried.acquire()
        down = False
        status.offer(snapshot(3))
        tried.acquire()
    assert store.written == [3]
    messages = [record.message for record in caplog.records]
    assert messages == [
        "the run's status cannot be written, and encoding goes on without it: the server is away",
        "the run's status is written again",
    ]


def test_nothing_offered_nothing_written() -> None:
    store = PlayedStore()
    with writer(store):
        pass
    assert not store.written
