"""One client per process, and the retries around every request."""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ncbatch.errors import UsageError
from ncbatch.store.errors import StoreUnavailable
from ncbatch.store.interface import StoreOptions
from ncbatch.store.s3_errors import as_store_error, is_transient, status_of, summary

_log = logging.getLogger(__name__)

BOTOCORE_ATTEMPTS = 8  # AWS_MAX_ATTEMPTS or the profile's max_attempts changes it
_CONNECT_TIMEOUT = 10  # seconds
_READ_TIMEOUT = 60  # seconds without a byte; a put of some hundred MB may be silent for a while at its end
_POOL = 32  # connections, so that threads of one process do not wait for each other
_FIRST_WAIT = 0.5  # seconds; doubled by every failure, of which a random part is waited ("full jitter")
_LONGEST_WAIT = 20.0

T = TypeVar("T")


class S3Connection:
    """Sends requests to one bucket and knows which failures deserve another try.

    The client is made by the first request of each process: clients are neither picklable nor safe across a
    fork.
    """

    def __init__(self, bucket: str, options: StoreOptions) -> None:
        self.bucket = bucket
        self.options = options
        self._lock = threading.Lock()
        self._client: tuple[int, Any] | None = None
        self._thread = threading.local()

    def request(
        self,
        send: Callable[[Any], T],
        key: str | None,
        *,
        seconds: float | None = None,
        diagnose: Callable[[int], None] | None = None,
    ) -> T:
        """What `send(client)` returns; transient failures are tried again for `seconds`.

        key: full key for messages, None for the bucket itself.
        seconds: None for the options'; 0 sends the request once.
        diagnose: called with the number of failures after a status 500; raises if no other try would help.

        Raises StoreError with botocore's error as its `__cause__`.
        """
        began = time.monotonic()
        seconds = self.options.retry_seconds if seconds is None else seconds
        deadline = began + seconds
        failures = 0
        while True:
            # Nested requests (from `diagnose`) have set their own.
            self._thread.deadline = deadline
            try:
                return send(self.client())
            except (BotoCoreError, ClientError) as error:
                if not is_transient(error):
                    raise as_store_error(error, self.endpoint(), self.bucket, key) from error
                seen = error
            failures += 1
            if diagnose is not None and status_of(seen) == 500:
                diagnose(failures)
            left = deadline - time.monotonic()
            if left <= 0:
                raise StoreUnavailable(
                    f"{self.endpoint()} was still failing after {time.monotonic() - began:.0f} s of retries "
                    f"({summary(seen)}); check that the server is up and the endpoint URL right, then run "
                    "the command again."
                ) from seen
            longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(failures - 1, 10))
            wait = min(left, random.uniform(0, longest))
            _log.warning("%s: %s; next try in %.1f s", self.endpoint(), summary(seen), wait)
            time.sleep(wait)

    def client(self) -> Any:
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                self._client = (os.getpid(), self._new_client())
            return self._client[1]

    def endpoint(self) -> str:
        """Scheme, host and port for messages; whatever else an endpoint URL holds may be secret."""
        url = self.options.endpoint_url or (self._client[1].meta.endpoint_url if self._client else None)
        if not url:
            return "the S3 endpoint"
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def _new_client(self) -> Any:
        session = botocore.session.Session()
        session.register_component("data_loader", _loader())
        try:
            client = boto3.session.Session(botocore_session=session).client(
                "s3",
                endpoint_url=self.options.endpoint_url,
                region_name=self.options.region,
                config=_config(session.get_config_variable("max_attempts") or BOTOCORE_ATTEMPTS),
            )
        except ValueError as error:
            # Neither repeated nor chained: an endpoint URL from the environment may hold a password.
            raise UsageError(
                f"The S3 settings of the environment are not valid ({type(error).__name__}); check "
                "AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION, AWS_MAX_ATTEMPTS and the AWS "
                "profile."
            ) from None
        client.meta.events.register_first("needs-retry.s3", self._stop_botocore_retries)
        return client

    def _stop_botocore_retries(
        self, response: Any, caught_exception: Exception | None, operation: Any, **_: Any
    ) -> None:
        """Botocore asks this before it decides about another try; raising ends its loop in favour of ours.

        It does so when time is up, which botocore knows nothing of (eight attempts can take minutes), and for
        a put that is answered with status 500: servers over a file system say so to keys they can never hold.
        """
        late = time.monotonic() > getattr(self._thread, "deadline", float("inf"))
        if caught_exception is not None:
            if late:
                raise caught_exception
            return
        parsed = response[1]
        status = parsed.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if (late and status >= 500) or (status == 500 and operation.name == "PutObject"):
            raise ClientError(parsed, operation.name)


@functools.cache
def _loader() -> botocore.loaders.Loader:
    """Botocore's model of S3, read once per process: that is most of what making a client costs."""
    return botocore.loaders.create_loader()


def _config(attempts: int) -> Config:
    return Config(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        max_pool_connections=_POOL,
        tcp_keepalive=True,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # By default botocore sends puts with a trailing CRC32, in a chunked form that several servers
        # (rclone, older Ceph) refuse or store as part of the object, and expects checksums back that they do
        # not send.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
