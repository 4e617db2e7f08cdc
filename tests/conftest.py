"""What all tests have: servers and workbenches on request, and logging as it was before each of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.servers", "tests.workbenches", "tests.datasets.encoded_runs"]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command run in this process leaves a handler that writes to the test's own stream, which closes."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
