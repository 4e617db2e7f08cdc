"""Tells an address on the web how a run ended: a webhook."""

from __future__ import annotations

import http.client
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import tenacity

from ncbatch.errors import LeaseHeldError, NcbatchError, StoppedByPolicyError

if TYPE_CHECKING:
    from ncbatch.driver.progress import Snapshot
    from ncbatch.metrics.summary import Summary

log = logging.getLogger(__name__)

State = Literal["finished", "stopped", "interrupted", "error"]

_TRY_SECONDS = 5.0
"""For one try."""
_TRIES = 5
_LONGEST_SECONDS = 10.0
"""For all of them: nobody waits longer for the end of a command because an address does not answer."""
_WAIT = tenacity.wait_exponential(multiplier=0.5, max=4)


@dataclass
class Ending:
    """How a run ended, as it is sent: one JSON object with these fields.

    Attributes:
        run: its URI.
        state: finished: every image has a row; stopped: by policy; interrupted: by a signal; error: by
            something else, which `reason` tells.
        ok: how many images are encoded, each once per variant; None where that is not known.
        failed: how many have failed rows; None where that is not known.
        pending: how many have no row yet; None where that is not known.
        reason: why it did not finish, or nothing.
        text: all of it as a sentence, which chat programs show.
    """

    run: str
    state: State = "error"
    ok: int | None = None
    failed: int | None = None
    pending: int | None = None
    reason: str = ""
    text: str = ""

    def saw(self, snapshot: Snapshot) -> None:
        """So many images are done by now."""
        self.ok, self.failed, self.pending = snapshot.ok, snapshot.failed, snapshot.pending

    def finished(self, summary: Summary) -> None:
        """Every image has a row."""
        self.state, self.ok, self.failed, self.pending = "finished", summary.ok, summary.failed, 0

    def body(self) -> bytes:
        """The JSON object, UTF-8."""
        match self.state:
            case "finished":
                what = f"has finished: {self.ok} images ok, {self.failed} failed"
            case "error":
                what = f"ended with an error: {self.reason}"
            case state:
                what = f"was {state}: {self.reason}"
        if self.state != "finished" and self.ok is not None:
            what += f" ({self.ok} images ok, {self.failed} failed, {self.pending} pending)"
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

    def say(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.info(
                "%s does not take the notification (%s); trying for up to %.0f s, which Ctrl-C ends",
                host, _reason(state.outcome.exception()), _LONGEST_SECONDS,
            )  # fmt: skip

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_TRIES) | tenacity.stop_before_delay(_LONGEST_SECONDS),
        wait=_WAIT,
        retry=tenacity.retry_if_exception(_may_pass),
        before_sleep=say,
        reraise=True,
    )
    try:
        retrying(_post, url, ending.body())
    except (OSError, ValueError, http.client.HTTPException) as error:
        log.warning("%s could not be told how the run ended: %s", host, _reason(error))
    except KeyboardInterrupt:  # of what is told, not of the run, which has ended already
        log.warning("%s was not told how the run ended", host)
    else:
        log.info("told %s how the run ended", host)


def _reason(error: BaseException | None) -> object:
    return getattr(error, "reason", error)


def _may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: not where the server says that the request is wrong."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in (408, 429)
    return isinstance(error, OSError)


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=_TRY_SECONDS):
        pass
