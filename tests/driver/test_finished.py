"""At its end a run is what its table holds, not what somebody counted on the way."""

from __future__ import annotations

import pytest

from ncbatch.driver.encode_corpus import encode_corpus, finished_summary
from ncbatch.driver.lease import Lease
from ncbatch.driver.options import EncodeOptions
from ncbatch.errors import RunError
from ncbatch.plan.places import open_places
from ncbatch.store import StoreOptions, StoreUnavailable
from tests.workbench import Workbench, make_image


def test_a_row_for_every_encoding(local: Workbench) -> None:
    local.add({"a.png": make_image(), "b.png": b"text"})
    local.encode(local.spec())
    summary = finished_summary(local.output, 2)
    assert (summary.ok, summary.failed) == (1, 1)
    with pytest.raises(RunError, match="holds 2 rows for 3 encodings; run the same command again"):
        finished_summary(local.output, 3)


def test_a_store_that_fails_at_the_end_hides_nothing(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def unavailable(*_: object) -> None:
        raise StoreUnavailable("gone")

    local.add({"a.png": make_image()})
    places = open_places(local.spec(), local.output.uri, StoreOptions())
    monkeypatch.setattr("ncbatch.driver.encode_corpus._drive", interrupted)
    monkeypatch.setattr("ncbatch.driver.encode_corpus.end_early", unavailable)
    monkeypatch.setattr(Lease, "release", unavailable)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(places, EncodeOptions(), lambda _: None)
