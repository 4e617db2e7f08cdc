"""One client per process, and the retries around every request."""

from __future__ import annotations

import functools
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore
import botocore.loaders
import botocore.session
import tenacity
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ncbatch.errors import UsageError
from ncbatch.layout import BITSTREAMS_PREFIX, PACKS_PREFIX, TARS_PREFIX
from ncbatch.store.errors import StoreUnavailable
from ncbatch.store.interface import StoreOptions
from ncbatch.store.s3_errors import as_store_error, is_transient, status_of, summary
from ncbatch.store.s3_options import S3Options
from ncbatch.store.s3_telemetry import watch
from ncbatch.store.waiting import waits
from ncbatch.telemetry import instruments

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 10  # seconds
_READ_TIMEOUT = 60  # seconds without a byte; a put of some hundred MB may be silent for a while at its end
_POOL = 32  # connections, so that threads of one process do not wait for each other
_FIRST_WAIT = 0.5  # seconds at most; doubled by every failure
_LONGEST_WAIT = 20.0

_CONFIG = Config(
    connect_timeout=_CONNECT_TIMEOUT,
    read_timeout=_READ_TIMEOUT,
    max_pool_connections=_POOL,
    tcp_keepalive=True,
    # One loop tries again, and it is ours: botocore counts attempts, and knows neither how long a caller
    # has time nor that some servers answer 500 to keys that they can never hold.
    retries={"mode": "standard", "total_max_attempts": 1},
    # By default botocore sends puts with a trailing CRC32, in a chunked form that several servers
    # (rclone, older Ceph) refuse or store as part of the object, and expects checksums back that they do
    # not send.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)

_PAYLOAD = (BITSTREAMS_PREFIX, PACKS_PREFIX, TARS_PREFIX)
"""What is written once and read seldom; state is small, and read or replaced all the time."""

T = TypeVar("T")


class S3Connection:
    """Sends requests to one bucket and knows which failures deserve another try.

    The client is made by the first request of each process: clients are neither picklable nor safe across a
    fork.
    """

    def __init__(self, bucket: str, options: StoreOptions, prefix: str = "") -> None:
        self.bucket = bucket
        self.options = options
        self._prefix = prefix
        self._more = options.of_bucket(bucket)
        self._lock = threading.Lock()
        self._client: tuple[int, Any] | None = None

    def request(
        self,
        send: Callable[[Any], T],
        key: str | None,
        *,
        seconds: float | None = None,
        diagnose: Callable[[int], None] | None = None,
    ) -> T:
        """Sends a request, again and again while it fails in passing.

        Args:
            send: makes the request with the client that it is given.
            key: the full key, for messages; None for the bucket itself.
            seconds: how long failures are tried again: by default as the options say; 0 sends the request
                once.
            diagnose: called with the number of failures after a status 500; raises if no other try would
                help.

        Returns:
            What `send` returned.

        Raises:
            StoreError: the request failed for good; botocore's error is its `__cause__`.
        """
        began = time.monotonic()
        deadline = began + (self.options.retry_seconds if seconds is None else seconds)

        def unless_refused(attempt: tenacity.RetryCallState) -> bool:
            error = attempt.outcome.exception() if attempt.outcome else None
            if not isinstance(error, BotoCoreError | ClientError) or not is_transient(error):
                return False
            if diagnose is not None and status_of(error) == 500:
                diagnose(attempt.attempt_number)
            return True

        def next_try(attempt: tenacity.RetryCallState) -> float:
            return min(max(deadline - time.monotonic(), 0.0), _backoff()(attempt))

        def warn(attempt: tenacity.RetryCallState) -> None:
            assert attempt.outcome is not None and attempt.next_action is not None
            seen = summary(attempt.outcome.exception())
            _log.warning("%s: %s; next try in %.1f s", self.endpoint(), seen, attempt.next_action.sleep)
            instruments.STORE_RETRIES.add()
            waits()

        attempts = tenacity.Retrying(
            retry=unless_refused,
            wait=next_try,
            stop=lambda _: time.monotonic() >= deadline,
            before_sleep=warn,
            reraise=True,
        )
        try:
            return attempts(lambda: send(self.client()))
        except (BotoCoreError, ClientError) as error:
            if not is_transient(error):
                raise as_store_error(error, self.endpoint(), self.bucket, key) from error
            raise StoreUnavailable(
                f"{self.endpoint()} was still failing after {time.monotonic() - began:.0f} s of retries "
                f"({summary(error)}); check that the server is up and the endpoint URL right, then run "
                "the command again"
            ) from error

    def client(self) -> Any:
        """This process's client, made at the first call."""
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                self._client = (os.getpid(), self._new_client())
            return self._client[1]

    def endpoint(self) -> str:
        """Scheme, host and port for messages; whatever else an endpoint URL holds may be secret."""
        url = self._more.endpoint or (self._client[1].meta.endpoint_url if self._client else None)
        if not url:
            return "the S3 endpoint"
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def _new_client(self) -> Any:
        more = self._more
        if more.ca_bundle is not None and not Path(more.ca_bundle).is_file():
            raise UsageError(
                f"--storage-option ca-bundle={more.ca_bundle}: there is no such file on {platform.node()}; "
                "put it there, or name another"
            )
        session = botocore.session.Session()
        session.register_component("data_loader", _loader())
        try:
            client = boto3.session.Session(botocore_session=session).client(
                "s3",
                endpoint_url=more.endpoint,
                region_name=more.region,
                config=_CONFIG.merge(_config(more)),
                verify=more.ca_bundle,
            )
        except ValueError as error:
            # Neither repeated nor chained: an endpoint URL from the environment may hold a password.
            raise UsageError(
                f"the S3 settings of the environment are not valid ({type(error).__name__}); check "
                "AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION and the AWS profile"
            ) from None
        events: Any = client.meta.events
        events.register("provide-client-params.s3", self._with_options)
        watch(events)
        return client

    def _with_options(self, params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
        """The parameters of any request, with what the options add to its kind."""
        known = model.input_shape.members
        added = {name: v for name, v in self._more.of_every_request.items() if name in known}
        if model.name == "PutObject":
            added |= self._more.of_put(payload=params["Key"].removeprefix(self._prefix).startswith(_PAYLOAD))
        return {**params, **added}


def _config(options: S3Options) -> Config:
    """What the options say of the client itself."""
    told: dict[str, Any] = {}
    if options.unsigned:
        told["signature_version"] = botocore.UNSIGNED
    if options.addressing is not None:
        told["s3"] = {"addressing_style": options.addressing}
    return Config(**told)


@functools.cache
def _loader() -> botocore.loaders.Loader:
    """Botocore's model of S3, read once per process: that is most of what making a client costs."""
    return botocore.loaders.create_loader()


def _backoff() -> tenacity.wait.wait_base:
    """Exponential, of which a random part is waited ("full jitter")."""
    return tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)
