"""What an S3 server's refusal means: whether another try may help, and which error a user sees."""

from __future__ import annotations

from botocore import exceptions as aws

from ncbatch.store.errors import AccessDenied, BucketNotFound, ObjectNotFound, StoreError, StoreFull

_TRANSIENT_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_LASTING_SERVER_STATUS = frozenset({501, 505, 507})  # not implemented, HTTP version, disk full
_LOST_CONNECTION = (
    aws.ConnectionError,
    aws.HTTPClientError,
    aws.IncompleteReadError,
    aws.ResponseStreamingError,
)
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.SSOError,
    aws.TokenRetrievalError,
)
_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId": "the server does not know the access key; check AWS_ACCESS_KEY_ID and the "
    "endpoint URL",
    "SignatureDoesNotMatch": "the secret does not fit the access key; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; obtain fresh credentials",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN",
    "TokenRefreshRequired": "the session token has expired; obtain fresh credentials",
    "RequestTimeTooSkewed": "this machine's clock is wrong; synchronise it",
    "AuthorizationHeaderMalformed": "the request was signed for another region; set AWS_DEFAULT_REGION",
}
_NOT_PERMITTED = (
    "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE) and that they may list, "
    "read, write and delete here"
)


def status_of(error: BaseException | None) -> int:
    """The HTTP status of a server's answer, 0 where there was none."""
    if isinstance(error, aws.ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 0


def code_of(error: Exception) -> str:
    """The S3 error code. Answers to HEAD have no body; there it is the HTTP status as text."""
    if isinstance(error, aws.ClientError):
        return str(error.response.get("Error", {}).get("Code", "")) or str(status_of(error))
    return ""


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later: throttling, a server's fault, a lost connection."""
    if isinstance(error, aws.ClientError):
        status = status_of(error)
        return (
            code_of(error) in _TRANSIENT_CODES
            or status == 429
            or (status >= 500 and status not in _LASTING_SERVER_STATUS)
        )
    if isinstance(error, aws.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return isinstance(error, _LOST_CONNECTION)


def summary(error: BaseException | None) -> str:
    """What was seen, in a few words. Botocore's own text is not used: it may hold URLs with passwords."""
    if isinstance(error, aws.ClientError):
        return f"{code_of(error)}, HTTP status {status_of(error)}"
    if isinstance(error, aws.EndpointConnectionError):
        return "connection refused or host not found"
    if isinstance(error, aws.ConnectTimeoutError):
        return "timed out connecting"
    if isinstance(error, aws.ReadTimeoutError):
        return "timed out waiting for the answer"
    if isinstance(error, aws.ConnectionClosedError):
        return "connection closed without an answer"
    if isinstance(error, (aws.IncompleteReadError, aws.ResponseStreamingError)):
        return "connection lost in the middle of an object"
    return type(error).__name__


def as_store_error(error: Exception, endpoint: str, bucket: str, key: str | None) -> StoreError:
    """The error that a user sees for a failure that no other try would cure.

    Args:
        error: botocore's.
        endpoint: for messages.
        bucket: for messages.
        key: the full key, or None for the bucket itself.
    """
    what = f"s3://{bucket}" if key is None else f"s3://{bucket}/{key}"
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDenied(
            f"no usable S3 credentials were found for {what} ({type(error).__name__}); set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role"
        )
    if isinstance(error, aws.SSLError):
        return StoreError(
            f"the TLS certificate of {endpoint} cannot be verified; set AWS_CA_BUNDLE to the file of its "
            "authority"
        )
    code, status = code_of(error), status_of(error)
    if status in (401, 403) or code in _WRONG_CREDENTIALS:
        hint = _WRONG_CREDENTIALS.get(code, _NOT_PERMITTED)
        return AccessDenied(f"{endpoint} denied access to {what} ({code}): {hint}")
    if code == "NoSuchBucket" or (status == 404 and key is None):
        return BucketNotFound(
            f"the bucket {bucket!r} does not exist at {endpoint}; check its name and the endpoint URL, or "
            "create it"
        )
    # A HEAD has no error code, so "404" may be a missing bucket too. A put answered so is a refusal, seen
    # below.
    if code in ("NoSuchKey", "404") and getattr(error, "operation_name", "") != "PutObject":
        return ObjectNotFound(f"there is no object {what} at {endpoint}; it may have been deleted or renamed")
    if code == "InvalidObjectState":
        return StoreError(f"the object {what} is archived; restore it to a storage class that can be read")
    if code == "EntityTooLarge":
        return StoreError(f"{endpoint} does not accept an object as large as {what}; make the output smaller")
    if status == 507:
        return StoreFull(f"the disk of {endpoint} is full; free space there and run the command again")
    if status in (301, 307, 308):
        return StoreError(
            f"the bucket {bucket!r} is elsewhere than {endpoint}; set its region or endpoint URL"
        )
    if not isinstance(error, aws.ClientError):
        return StoreError(
            f"{what} cannot be used ({summary(error)}); check the AWS configuration and profile"
        )
    if key is None or code == "InvalidBucketName":
        return StoreError(f"{endpoint} refused the bucket {bucket!r} ({summary(error)}); check its name")
    return StoreError(
        f"{endpoint} refused the key {key!r} in the bucket {bucket!r} ({summary(error)}); rename the object "
        "or use another store"
    )
