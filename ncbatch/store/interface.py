"""The vocabulary all stores share: options, what is known about an object, and the operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Protocol
from urllib.parse import urlsplit

from ncbatch.errors import UsageError
from ncbatch.settings import Setting
from ncbatch.store.errors import StoreError

if TYPE_CHECKING:
    from ncbatch.store.s3_options import S3Options

_ENDPOINT_FORM = "the endpoint URL must look like http://host:port or https://host"


@dataclass(frozen=True)
class StoreOptions:
    """How to reach a store. Holds no secrets, so it may be pickled, logged and stored.

    Credentials come from boto3's own chain only: environment, profile, instance role.

    Attributes:
        endpoint_url: the S3 endpoint; without it boto3 reads AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or its
            profile.
        region: of the S3 server; without it boto3 decides.
        retry_seconds: how long one operation goes on trying against throttling, 5xx answers and lost
            connections. No wait begins after this time; the last one begun may overrun it by up to 20 s plus
            one time-out.
        storage_option: more about S3, each as `key=value`, or as `bucket:key=value` for one bucket only (see
            `ncbatch.store.s3_options`).

    Raises:
        UsageError: the endpoint URL is none, or carries a user name or password; or there is no such storage
            option.
    """

    endpoint_url: Annotated[
        str | None,
        Setting("S3 endpoint", "URL", default="AWS_ENDPOINT_URL, else Amazon's", environment=True),
    ] = None
    region: Annotated[
        str | None, Setting("S3 region", "NAME", default="AWS_DEFAULT_REGION", environment=True)
    ] = None
    retry_seconds: float = 120.0
    storage_option: Annotated[tuple[str, ...], Setting(
        "more about S3, such as requester-pays=true, sse=aws:kms or ca-bundle=FILE; BUCKET:KEY=VALUE is for "
        "one bucket only; may be given several times (docs/how-to/s3.md lists the keys)",
        "KEY=VALUE", default="none", environment=True,
    )] = ()  # fmt: skip

    def __post_init__(self) -> None:
        if self.endpoint_url is not None:
            _check_endpoint(self.endpoint_url)
        if self.storage_option:
            for options in self._parsed().values():
                if options.endpoint is not None:
                    _check_endpoint(options.endpoint)

    def of_bucket(self, bucket: str) -> S3Options:
        """What holds for a bucket, with its endpoint and region."""
        parsed = self._parsed()
        found = parsed.get(bucket, parsed[""])
        endpoint, region = found.endpoint or self.endpoint_url, found.region or self.region
        return found.model_copy(update={"endpoint": endpoint, "region": region})

    def _parsed(self) -> Mapping[str, S3Options]:
        from ncbatch.store.s3_options import parse  # pydantic, which folders need nothing of

        return parse(self.storage_option)


def _check_endpoint(url: str) -> None:
    # The URL is not repeated in these messages: it may hold a password.
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError(_ENDPOINT_FORM) from None
    if "@" in parts.netloc:
        raise UsageError(
            "the endpoint URL carries a user name or password; give credentials as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or in an AWS profile"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(_ENDPOINT_FORM)


@dataclass(frozen=True)
class ObjectInfo:
    """An object as listed or looked up.

    Attributes:
        key: relative to the store's root.
        size: in bytes.
        etag: changes whenever the bytes do; without quotes. S3's is the server's, a local file's is made of
            its modification time and size.
        modified: when it was written, in seconds since 1970 by the store's clock; None where nobody asked
            (it is told by `Store.list`) or nobody knows.
    """

    key: str
    size: int
    etag: str
    modified: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class KeyRange:
    """Keys behind `after`, up to and including `last`, in UTF-8 byte order; None: to the end."""

    after: str = ""
    last: str | None = None

    def __contains__(self, key: str) -> bool:
        return _bytes(self.after) < _bytes(key) and not self.is_before(key)

    def is_before(self, key: str) -> bool:
        """Whether the key comes behind all of them."""
        return self.last is not None and _bytes(key) > _bytes(self.last)


def check_range(start: int, length: int) -> None:
    """Raises ValueError: a number is negative."""
    if start < 0 or length < 0:
        raise ValueError(f"a range starts at {start} and has {length} bytes; neither can be negative")


ALL_KEYS = KeyRange()
"""Of a store."""


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


class Store(Protocol):
    """Objects below one root. Stores can be pickled, and one store may be used by several threads.

    Every method may raise StoreError or its kinds: AccessDenied, BucketNotFound, StoreUnavailable.
    """

    @property
    def uri(self) -> str:
        """Canonical URI of the root, ending in "/"; `open_store` of it gives an equal store."""

    def get(self, key: str) -> bytes:
        """All bytes of the object.

        Raises:
            ObjectNotFound: no object stands there.
        """

    def get_with_info(self, key: str) -> tuple[ObjectInfo, bytes]:
        """The object's bytes with the size and etag of these very bytes, in one request.

        Raises:
            ObjectNotFound: no object stands there.
        """

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from offset `start`: fewer at the object's end, none behind it.

        Raises:
            ObjectNotFound: no object stands there.
            ValueError: a number is negative.
        """

    def get_range_with_info(self, key: str, start: int, length: int) -> tuple[ObjectInfo, bytes]:
        """As `get_range`, with the etag of the object that these bytes are of and the size of that object, in
        one request where the range does not begin behind the object's end.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """Size and etag, or None when no object stands there (S3 says the same of a missing bucket)."""

    def put(self, key: str, data: bytes) -> None:
        """Writes the object, replacing what stands there; readers see all old or all new bytes."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes the object unless one stands there.

        This is guaranteed by local folders and by servers that honour `If-None-Match: *` on a put, whatever
        is retried or runs at the same time. On a server that ignores the condition (see
        `honours_create_only`) the answer is what was read back after the write, and a later concurrent writer
        may still replace the bytes after both were told True; there, write bytes that must not be lost to
        keys that only one attempt uses.

        Returns:
            True if the object at the key has exactly these bytes, written by this call or by an earlier try
            of it; False if other bytes stood there first, and still do.
        """

    def ranges(self, most: int) -> Sequence[KeyRange]:
        """Ranges that together hold all keys, in order, for listings side by side.

        A listing goes on where its last page ended, so a single one of many objects takes long. One range
        where there are few objects, or where they cannot be told apart by folders.

        Args:
            most: ranges.
        """
        return (ALL_KEYS,)

    def list(
        self,
        prefix: str = "",
        *,
        within: KeyRange = ALL_KEYS,
        unreadable: Callable[[str, StoreError], None] | None = None,
    ) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in UTF-8 byte order of the keys.

        Pages are fetched as the objects are consumed.

        Args:
            prefix: of the key as a string: "a" finds "a", "a/b" and "ab".
            within: only keys of this range.
            unreadable: called with the key of a folder that the operating system does not let us read, and
                with the error; the listing goes on without that folder. Where it is not given, such a folder
                is an error, as it always is for the root. (S3 has no folders.)
        """

    def delete(self, key: str) -> None:
        """Deletes the object; no error where none stands there."""

    def check(self) -> None:
        """Fails at once where the store cannot be used.

        Raises:
            StoreError: the bucket or folder is missing, or the credentials are missing or wrong.
        """
