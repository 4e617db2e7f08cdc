"""The run's page while the run goes on: what the driver says, and every now and then the report."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ncbatch import layout
from ncbatch.cli.status import cost_words
from ncbatch.cli.watch_view import troubles
from ncbatch.driver.look import Look, look
from ncbatch.driver.progress import Snapshot
from ncbatch.errors import NcbatchError
from ncbatch.report.errors import ReportError
from ncbatch.report.options import PageOptions
from ncbatch.store import Store, StoreError, open_store
from ncbatch.words import duration, size

log = logging.getLogger(__name__)

_LEAST_SECONDS = 30.0
"""Between two versions of the report."""
_SHARE = 10
"""Of the time, one part in so many may go into reports."""
_TICK_SECONDS = 1.0


class LivePage:
    """What a browser is shown. A thread writes the report anew while commits come in.

    Args:
        output: the run's folder.
        folder: where the page and its figures and tables are written.
        first: the first look.
        price_per_hour: of a device; None leaves the cost out.
    """

    def __init__(self, output: Store, folder: Path, first: Look, price_per_hour: float | None) -> None:
        self._output, self._folder, self._price = output, folder, price_per_hour
        self._files = open_store(str(folder), create=True)
        self.found = first
        self._trouble = ""
        self.version = 0
        self._over = threading.Event()
        self._write_waiting()
        self._thread = threading.Thread(target=self._write_reports, name="report", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after the report that it may be at."""
        self._over.set()
        self._thread.join()

    def look_again(self) -> None:
        """Brings what the driver says up to date; a store that does not answer is told on the page."""
        try:
            self.found, self._trouble = look(self._output), ""
        except StoreError as error:
            self._trouble = f"the store does not answer, and is asked again: {error}"

    def content(self) -> dict[str, Any]:
        """What the page asks for every two seconds."""
        found, snapshot = self.found, self.found.snapshot
        notes = [self._trouble] if self._trouble else []
        when = ""
        if snapshot is not None:
            notes += troubles(snapshot)
            when = f"The driver's last word is {duration(found.age_seconds)} old."
        return {
            "page": self.version,
            "state": found.told.state,
            "told": found.told.explanation,
            "fraction": _share(snapshot) if snapshot is not None else 0.0,
            "cards": list(self._cards(snapshot)) if snapshot is not None and snapshot.images else [],
            "in_flight": _in_flight(found),
            "notes": notes,
            "when": when,
        }

    def _cards(self, snapshot: Snapshot) -> Iterator[dict[str, str]]:
        done = snapshot.ok + snapshot.failed
        yield _card("Done", f"{done:,}", f"of {snapshot.images:,} {snapshot.noun}")
        yield _card("Failed so far", f"{snapshot.failed:,}", "", "bad" if snapshot.failed else "")
        if not snapshot.is_over:
            if snapshot.time_left is not None:
                yield _card("Time left", duration(snapshot.time_left), "at the workers' pace")
            busy = f"{snapshot.images_in_flight:,} {snapshot.noun} in flight"
            yield _card("Busy workers", f"{snapshot.busy_workers} of {snapshot.workers}", busy)
        if snapshot.images_per_second is not None:
            pace = f"{snapshot.images_per_second * 3600:,.0f}"
            yield _card("Pace", pace, f"{snapshot.noun} an hour, for {duration(snapshot.elapsed_seconds)}")
        before = sum(variant.image_bytes for variant in snapshot.variants)
        after = sum(variant.bitstream_bytes for variant in snapshot.variants)
        if before:
            yield _card("Encoded so far", size(after), f"of {size(before)} of originals")
        if self._price is not None:
            told, _, price = cost_words(snapshot, self._price).removeprefix("cost so far: ").partition(", ")
            yield _card("Cost so far", told, price)

    def _write_waiting(self) -> None:
        from ncbatch.report.rendering import waiting_page

        self._files.put("index.html", waiting_page(self._output.uri, self.version))

    def _write_reports(self) -> None:
        """Writes the report anew when something has been committed since, and not too often."""
        written, due = -1, 0.0
        while not self._over.is_set():
            snapshot = self.found.snapshot
            committed = snapshot.committed_units if snapshot is not None else 0
            if committed != written and time.monotonic() >= due:
                begun = time.monotonic()
                try:
                    self._write_report()
                except (NcbatchError, OSError) as error:
                    log.warning("the figures could not be brought up to date: %s", error)
                took = time.monotonic() - begun
                written, due = committed, time.monotonic() + max(_LEAST_SECONDS, (_SHARE - 1) * took)
            self._over.wait(_TICK_SECONDS)

    def _write_report(self) -> None:
        from ncbatch.report.evaluation import evaluate
        from ncbatch.report.page import build
        from ncbatch.report.rendering import write
        from ncbatch.report.rows import Rows

        if self._output.head(layout.RUN) is None:  # it is still being planned
            return
        options = PageOptions(price_per_hour=self._price, no_images=True)
        with Rows.of(self._output) as rows:
            try:
                evaluation = evaluate(self._output, rows)
            except ReportError:  # no image is done yet
                return
            found = build(evaluation, rows, self._output, options=options)
            if self.found.snapshot is not None:
                found.worker_seconds = self.found.snapshot.worker_seconds
            write(found, self._files, self._output, live=self.version + 1)
        self.version += 1


def _card(title: str, value: str, note: str, tone: str = "") -> dict[str, str]:
    return {"title": title, "value": value, "note": note, "tone": tone}


def _share(snapshot: Snapshot) -> float:
    done = snapshot.ok + snapshot.failed
    return snapshot.fraction if snapshot.fraction is not None else done / max(snapshot.images, 1)


def _in_flight(found: Look) -> list[dict[str, Any]]:
    snapshot = found.snapshot
    if snapshot is None or snapshot.is_over:
        return []
    return [
        {
            "worker": unit.worker,
            "unit": unit.unit,
            "images": unit.images,
            "fraction": unit.fraction,
            "time": duration(unit.seconds + found.age_seconds),
        }
        for unit in snapshot.in_flight
    ]
