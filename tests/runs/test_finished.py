"""At its end a run is what its table holds, not what somebody counted on the way."""

from __future__ import annotations

import pytest

from ncbatch.runs.encoding import finished_summary
from ncbatch.runs.errors import RunError
from tests.runs.workbench import Workbench, picture


def test_a_row_for_every_encoding(local: Workbench) -> None:
    local.add({"a.png": picture(), "b.png": b"text"})
    local.encode(local.spec())
    summary = finished_summary(local.output, 2)
    assert (summary.ok, summary.failed) == (1, 1)
    with pytest.raises(RunError, match="holds 2 rows for 3 encodings; run the same command again"):
        finished_summary(local.output, 3)
