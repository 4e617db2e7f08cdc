"""Counts and times what is asked of an S3 server, by the events that botocore tells of each request."""

from __future__ import annotations

import time
from typing import Any

from ncbatch.telemetry import instruments

_BEGAN = "ncbatch-began"


def watch(events: Any) -> None:
    """Registers with a client's events."""
    events.register("before-call.s3", _before)
    events.register("after-call.s3", _after)
    events.register("after-call-error.s3", _failed)


def _before(context: dict[str, Any], **_: Any) -> None:
    context[_BEGAN] = time.monotonic()


def _after(model: Any, context: dict[str, Any], http_response: Any, **_: Any) -> None:
    _count(model.name, str(http_response.status_code))
    if _BEGAN in context:
        instruments.STORE_SECONDS.observe(time.monotonic() - context[_BEGAN], operation=model.name)


def _failed(event_name: str, **_: Any) -> None:
    """No answer came: the event's name ends with the operation's."""
    _count(event_name.rpartition(".")[2], "none")


def _count(operation: str, code: str) -> None:
    instruments.STORE_REQUESTS.add(operation=operation, code=code)
