"""Tells an address on the web how a run ended: a webhook."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal
from urllib.parse import urlsplit

import tenacity

from ncbatch.errors import LeaseHeldError, NcbatchError, StoppedByPolicyError
from ncbatch.metrics.summary import Summary

log = logging.getLogger(__name__)

State = Literal["finished", "stopped", "interrupted", "error"]

_TRIES = 5
_TIMEOUT_SECONDS = 10.0
_WAIT = tenacity.wait_exponential(multiplier=1, max=8)


@dataclass
class Ending:
    """How a run ended, as it is sent: one JSON object with these fields.

    Attributes:
        run: its URI.
        state: finished: every image has a row; stopped: by policy; interrupted: by a signal; error: by
            something else, which `reason` tells.
        ok: how many images are encoded; None where that is not known.
        failed: how many have failed rows; None where that is not known.
        reason: why it did not finish, or nothing.
        text: all of it as a sentence, which chat programs show.
    """

    run: str
    state: State = "error"
    ok: int | None = None
    failed: int | None = None
    reason: str = ""
    text: str = ""

    def finished(self, summary: Summary) -> None:
        """Every image has a row."""
        self.state, self.ok, self.failed = "finished", summary.ok, summary.failed

    def body(self) -> bytes:
        """The JSON object, UTF-8."""
        match self.state:
            case "finished":
                what = f"has finished: {self.ok} images ok, {self.failed} failed"
            case "error":
                what = f"ended with an error: {self.reason}"
            case state:
                what = f"was {state}: {self.reason}"
        self.text = f"The run {self.run} {what}"
        return json.dumps(asdict(self), ensure_ascii=False).encode()


@contextmanager
def notified(url: str | None, run: str) -> Iterator[Ending]:
    """Within the block a run is carried out; how it ends is told to the address, if one is given.

    The block says when the run has finished; exceptions say the rest, and go on. That nobody could be told is
    logged, and changes nothing about the run.
    """
    ending = Ending(run)
    try:
        yield ending
    except LeaseHeldError:  # the run goes on, under another driver
        url = None
        raise
    except KeyboardInterrupt:
        ending.state, ending.reason = "interrupted", "the same command continues it"
        raise
    except StoppedByPolicyError as error:
        ending.state, ending.reason = "stopped", str(error).removeprefix("stopped: ")
        raise
    except NcbatchError as error:
        ending.reason = str(error)
        raise
    except BaseException as error:
        ending.reason = type(error).__name__
        raise
    finally:
        if url is not None:
            _tell(url, ending)


def _tell(url: str, ending: Ending) -> None:
    host = urlsplit(url).hostname  # the rest of such an address is often a secret
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=_WAIT,
        retry=tenacity.retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        retrying(_post, url, ending.body())
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        log.warning("%s could not be told how the run ended: %s", host, reason)
    else:
        log.info("told %s how the run ended", host)


def _may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: not where the server says that the request is wrong."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in (408, 429)
    return isinstance(error, OSError)


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
        pass
