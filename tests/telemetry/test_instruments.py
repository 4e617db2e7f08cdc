"""Metrics keep to Prometheus' conventions, and their labels to few values."""

from __future__ import annotations

import re

import pytest

from ncbatch.telemetry import instruments
from ncbatch.telemetry.instruments import INSTRUMENTS
from ncbatch.telemetry.recorder import Counter, Histogram, Instrument

# Of drivers, a run has one for each time that its command was started.
BOUNDED = {"variant", "status", "error_class", "reason", "state", "node", "device", "operation", "code",
           "direction", "driver"}  # fmt: skip
UNITS = ("seconds", "bytes", "ratio", "decibels", "bits_per_pixel", "images", "units", "workers", "state")


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda instrument: instrument.name)
def test_names_and_labels(instrument: Instrument) -> None:
    assert re.fullmatch(r"ncbatch_[a-z_]+", instrument.name)
    assert instrument.name.endswith("_total") == isinstance(instrument, Counter)
    if not isinstance(instrument, Counter):
        assert instrument.name.endswith(UNITS)
    assert set(instrument.labels) <= BOUNDED
    assert instrument.help.endswith(".")
    if isinstance(instrument, Histogram):
        assert min(instrument.bounds) > 0 and sorted(set(instrument.bounds)) == list(instrument.bounds)


def test_every_instrument_is_used_and_has_a_name_of_its_own() -> None:
    names = [instrument.name for instrument in INSTRUMENTS]
    assert len(set(names)) == len(names) > 20
    assert instruments.IMAGES in INSTRUMENTS
