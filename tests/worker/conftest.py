"""What holds for every test of a worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """However a unit ends, the threads beside it have ended, too."""
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith(("Ahead", "Behind"))] == []
