"""Objects in an S3 bucket, below a prefix, on any server that speaks S3."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from botocore.exceptions import ClientError
from typing_extensions import override

from ncbatch.store.errors import ObjectNotFound, StoreError, StoreUnavailable
from ncbatch.store.interface import ALL_KEYS, KeyRange, ObjectInfo, Store, StoreOptions, check_range
from ncbatch.store.s3_connection import S3Connection
from ncbatch.store.s3_errors import status_of
from ncbatch.store.s3_refusals import explain_refused_put
from ncbatch.telemetry import instruments

_CHECK_SECONDS = 15.0  # a person is waiting for this answer
_LONGEST_KEY = 1024  # bytes of UTF-8, S3's limit
_NOT_IMPLEMENTED = 501
_CONFLICT_WAIT = 0.2  # seconds
_DEEPEST = 16  # folders that hold nothing but one folder
_PAGES_OF_FOLDERS = 10


class S3Store(Store):
    """A `Store` in a bucket. Objects have keys `prefix/key`; credentials come from boto3's own chain only.

    Nothing is sent before the first operation. A key is refused before it is sent if it is empty, not text
    that UTF-8 can hold, or over 1024 bytes with its prefix; what else is refused is the server's choice.
    """

    def __init__(self, bucket: str, prefix: str = "", options: StoreOptions | None = None) -> None:
        self.bucket = bucket
        self.prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        self.options = options or StoreOptions()
        self._connection = S3Connection(bucket, self.options, self.prefix)
        self._knows_conditions = True

    @property
    @override
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Store) and (self.uri, self.options) == (other.uri, other.options)

    def __hash__(self) -> int:
        return hash((self.uri, self.options))

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self.bucket, self.prefix, self.options)

    @override
    def get(self, key: str) -> bytes:
        return self.get_with_info(key)[1]

    @override
    def get_with_info(self, key: str) -> tuple[ObjectInfo, bytes]:
        full = self._full(key)

        def send(client: Any) -> tuple[ObjectInfo, bytes]:
            answer = client.get_object(Bucket=self.bucket, Key=full)
            # Read here, inside the retries: a connection may be lost in the middle of the body.
            data = answer["Body"].read()
            instruments.STORE_BYTES.add(len(data), direction="read")
            return ObjectInfo(key, len(data), _unquoted(answer["ETag"])), data

        return self._connection.request(send, full)

    @override
    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._ranged(key, start, length)[1]

    @override
    def get_range_with_info(self, key: str, start: int, length: int) -> tuple[ObjectInfo, bytes]:
        info, data = self._ranged(key, start, length)
        info = info or self.head(key)
        if info is None:
            raise ObjectNotFound(f"{self.uri}{key} was deleted while it was read")
        return info, data

    def _ranged(self, key: str, start: int, length: int) -> tuple[ObjectInfo | None, bytes]:
        """The bytes of a range; nothing is known of an object that ends before."""
        check_range(start, length)
        full = self._full(key)
        # S3 cannot ask for no bytes at all; one is asked for, so that a missing object is still noticed.
        last = start + max(length, 1) - 1

        def send(client: Any) -> tuple[ObjectInfo | None, bytes]:
            try:
                answer = client.get_object(Bucket=self.bucket, Key=full, Range=f"bytes={start}-{last}")
            except ClientError as error:
                if status_of(error) == 416:  # the object exists and ends before `start`
                    return None, b""
                raise
            info = ObjectInfo(key, _whole_size(answer), _unquoted(answer["ETag"]))
            # Not `with body`: that hands out urllib3's reader, whose errors are not botocore's.
            with contextlib.closing(answer["Body"]) as body:
                if _is_the_range(answer, start):
                    return info, body.read()[:length]
                # A server that ignores ranges sends the object from its beginning.
                return info, body.read(start + length)[start:] if length else b""

        return self._connection.request(send, full)

    @override
    def head(self, key: str) -> ObjectInfo | None:
        full = self._full(key)
        try:
            answer = self._connection.request(lambda c: c.head_object(Bucket=self.bucket, Key=full), full)
        except ObjectNotFound:
            return None
        except StoreError as error:
            if status_of(error.__cause__) == 400:
                # An answer to HEAD has no body: only a GET tells a refused key from an expired token.
                self.get_range(key, 0, 1)
            raise
        return ObjectInfo(key, int(answer["ContentLength"]), _unquoted(answer["ETag"]))

    @override
    def put(self, key: str, data: bytes) -> None:
        self._put(self._full(key), data)

    @override
    def put_if_absent(self, key: str, data: bytes) -> bool:
        deadline = time.monotonic() + self.options.retry_seconds
        while True:
            # Asked first for the sake of servers that ignore the condition: most often this is all that keeps
            # an object of theirs from being replaced.
            standing = self.head(key)
            if standing is None:
                etag = self._create(key, data)
                # Whatever the put was answered, what is there now counts: a refusal may be due to our own
                # earlier try whose answer was lost, and a success may have been overwritten where conditions
                # are ignored.
                standing = self.head(key)
                if standing is not None and (standing.etag, standing.size) == (etag, len(data)):
                    return True
            if standing is not None:
                same = self._holds(standing, data)
                if same is not None:
                    return same
            # Refused, yet nothing stands there: deleted meanwhile, or a conflict with a put that then failed.
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"{self._connection.endpoint()} neither stores nor shows the object {self.uri}{key}; "
                    "check the server, and that nothing deletes objects there while ncbatch runs"
                )
            time.sleep(_CONFLICT_WAIT)

    def put_with_condition(self, key: str, data: bytes) -> bool:
        """One create-only put; False when the server answers that an object stands there or is being written.

        The answer alone is not to be relied on: after a lost answer, False may mean our own bytes, and a
        server that ignores the condition always says True. `put_if_absent` settles both.
        """
        return self._create(key, data) is not None

    @override
    def ranges(self, most: int) -> Sequence[KeyRange]:
        prefix = self.prefix
        if not self._page(prefix).get("IsTruncated"):
            return (ALL_KEYS,)
        folders: list[str] = []
        for _ in range(_DEEPEST):
            folders, files = self._level(prefix)
            if files or len(folders) != 1:
                break
            prefix = folders[0]
        step = max(-(-len(folders) // most), 1)
        ends = [folder[len(self.prefix) :] for folder in folders[step::step]]
        return [KeyRange(*pair) for pair in zip(["", *ends], [*ends, None], strict=True)]

    def _level(self, prefix: str) -> tuple[list[str], bool]:
        """The folders right below a prefix, the first ten thousand of them; and whether there are objects."""
        folders, files = list[str](), False
        more: dict[str, Any] = {}
        for _ in range(_PAGES_OF_FOLDERS):
            page = self._page(prefix, Delimiter="/", **more)
            folders += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
            files = files or any(entry["Key"] != prefix for entry in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                break
            more = {"ContinuationToken": page["NextContinuationToken"]}
        return folders, files

    @override
    def list(
        self,
        prefix: str = "",
        *,
        within: KeyRange = ALL_KEYS,
        unreadable: Callable[[str, StoreError], None] | None = None,
    ) -> Iterator[ObjectInfo]:
        full = self.prefix + prefix
        more: dict[str, Any] = {"StartAfter": self.prefix + within.after} if within.after else {}
        while True:
            page = self._page(full, **more)
            for entry in page.get("Contents", ()):
                key = entry["Key"][len(self.prefix) :]
                if within.is_before(key):
                    return
                # The empty key is the marker that some tools put where they show a folder.
                if key not in within:
                    continue
                modified = entry.get("LastModified")
                yield ObjectInfo(
                    key,
                    int(entry["Size"]),
                    _unquoted(entry["ETag"]),
                    modified.timestamp() if modified is not None else None,
                )
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    @override
    def delete(self, key: str) -> None:
        full = self._full(key)
        try:
            self._connection.request(lambda c: c.delete_object(Bucket=self.bucket, Key=full), full)
        except ObjectNotFound:
            return

    @override
    def check(self) -> None:
        # A listing, not HEAD of the bucket: its refusal says why, and every run needs the permission to list.
        self._page(self.prefix, min(_CHECK_SECONDS, self.options.retry_seconds), MaxKeys=1)

    def _create(self, key: str, data: bytes) -> str | None:
        """The new object's etag, None if the server says that an object stands there or is being written.

        A server that does not know the condition ignores it, or answers that it is not implemented; then the
        put is made without.
        """
        if self._knows_conditions:
            try:
                return self._put(self._full(key), data, IfNoneMatch="*")
            except StoreError as error:
                status = status_of(error.__cause__)
                if status in (409, 412):
                    return None
                if status != _NOT_IMPLEMENTED:
                    raise
            self._knows_conditions = False
        return self._put(self._full(key), data)

    def _put(self, full: str, data: bytes, **condition: str) -> str:
        answer = self._connection.request(
            lambda c: c.put_object(Bucket=self.bucket, Key=full, Body=data, **condition),
            full,
            diagnose=lambda failures: explain_refused_put(self._connection, full, failures),
        )
        instruments.STORE_BYTES.add(len(data), direction="written")
        return _unquoted(answer["ETag"])

    def _page(self, full_prefix: str, seconds: float | None = None, **arguments: Any) -> dict[str, Any]:
        return self._connection.request(
            lambda c: c.list_objects_v2(Bucket=self.bucket, Prefix=full_prefix, **arguments),
            None,
            seconds=seconds,
        )

    def _holds(self, standing: ObjectInfo, data: bytes) -> bool | None:
        """Whether the object has these bytes; None if it is gone. The etag may be other than their MD5."""
        if standing.size != len(data):
            return False
        try:
            return self.get(standing.key) == data
        except ObjectNotFound:
            return None

    def _full(self, key: str) -> str:
        full = self.prefix + key
        try:
            length = len(full.encode())
        except UnicodeEncodeError:
            raise StoreError(f"the key {key!r} is not valid Unicode text; rename the object") from None
        if not key:
            raise StoreError(f"an empty key does not name an object in {self.uri}; name one")
        if length > _LONGEST_KEY:
            raise StoreError(
                f"the key {full!r} has {length} bytes and S3 allows {_LONGEST_KEY}; use a shorter name or "
                "prefix"
            )
        return full


def _is_the_range(answer: Any, start: int) -> bool:
    """Whether the body begins at `start`; rclone sends the right bytes with status 200, not 206."""
    sent = re.match(r"bytes (\d+)-", answer.get("ContentRange", ""))
    if sent is not None:
        return int(sent[1]) == start
    return answer["ResponseMetadata"]["HTTPStatusCode"] == 206


def _whole_size(answer: Any) -> int:
    """The size of the object that a range is of."""
    total = answer.get("ContentRange", "").rpartition("/")[2]
    return int(total) if total.isdecimal() else int(answer["ContentLength"])


def _unquoted(etag: str) -> str:
    # rclone quotes it in some answers and not in others.
    return etag.strip('"')
