"""What can go wrong with a store; every message is one sentence that names the fix and never a credential."""

from ncbatch.errors import NcbatchError


class StoreError(NcbatchError):
    """The store cannot do what was asked: a key it does not accept, a full disk, an unexpected answer."""


class ObjectNotFound(StoreError):  # noqa: N818
    """No object stands at the key."""


class NotAFolder(StoreError):  # noqa: N818
    """A file stands where a folder was named."""


class Obstructed(StoreError):  # noqa: N818
    """A file stands where the object's folder belongs, or a folder where the object belongs."""


class DestinationRefused(StoreError):  # noqa: N818
    """Nothing can be written where a user wants to have results, and trying it again will not help."""


class BucketNotFound(StoreError):  # noqa: N818
    """The S3 bucket does not exist (buckets are never created here)."""


class AccessDenied(StoreError):  # noqa: N818
    """Credentials are missing, wrong or expired, or they do not permit the operation. Never retried."""


class StoreUnavailable(StoreError):  # noqa: N818
    """Still throttled, failing, timing out or unreachable after all retries."""


class StoreFull(StoreError):  # noqa: N818
    """Nothing more can be written: the disk is full, or a quota used up."""
