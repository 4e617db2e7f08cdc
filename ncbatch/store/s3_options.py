"""What operators need of S3 beyond an endpoint: encryption, billing, owners, addressing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from ncbatch.errors import UsageError, first_problem, unknown

_ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")


def _dashed(field: str) -> str:
    return field.replace("_", "-")


class S3Options(pydantic.BaseModel, frozen=True, extra="forbid", alias_generator=_dashed):
    """Options of one bucket. Each is given as `key=value`, under its name with dashes."""

    endpoint: str | None = pydantic.Field(
        None, description="the server's URL, in the place of --endpoint-url"
    )
    region: str | None = pydantic.Field(None, description="the server's region, in the place of --region")
    addressing: Literal["auto", "path", "virtual"] | None = pydantic.Field(
        None, description="whether the bucket stands in the path or in the host's name: auto, path or virtual"
    )
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = pydantic.Field(
        None, description="encryption of what is written: AES256, aws:kms or aws:kms:dsse"
    )
    sse_kms_key_id: str | None = pydantic.Field(None, description="the KMS key for it; implies sse=aws:kms")
    storage_class: str | None = pydantic.Field(
        None,
        description="storage class of bitstreams and packs, such as STANDARD_IA; all else is the bucket's",
    )
    requester_pays: bool = pydantic.Field(False, description="whether you pay for requests to the bucket")
    expected_bucket_owner: str | None = pydantic.Field(
        None, description="account that owns the bucket; requests fail where it is another one"
    )
    unsigned: bool = pydantic.Field(False, description="whether requests go without credentials")
    ca_bundle: str | None = pydantic.Field(
        None, description="file with the certificates that the server's is checked by, on every machine"
    )

    @pydantic.field_validator("storage_class")
    @classmethod
    def _readable_class(cls, name: str | None) -> str | None:
        if name in _ARCHIVED:
            raise ValueError(f"{name} cannot be read without being restored; use another class")
        return name

    @pydantic.model_validator(mode="after")
    def _one_encryption(self) -> S3Options:
        if self.sse_kms_key_id and self.sse == "AES256":
            raise ValueError("sse-kms-key-id is of sse=aws:kms; leave it out, or sse=AES256")
        return self

    @property
    def of_every_request(self) -> dict[str, str]:
        """Parameters of every request that has them."""
        found = {}
        if self.requester_pays:
            found["RequestPayer"] = "requester"
        if self.expected_bucket_owner:
            found["ExpectedBucketOwner"] = self.expected_bucket_owner
        return found

    def of_put(self, *, payload: bool) -> dict[str, str]:
        """Parameters of a put. payload: whether it is a bitstream or a pack."""
        sse = self.sse or ("aws:kms" if self.sse_kms_key_id else None)
        found = {
            "ServerSideEncryption": sse,
            "SSEKMSKeyId": self.sse_kms_key_id,
            "StorageClass": self.storage_class if payload else None,
        }
        return {name: value for name, value in found.items() if value}


KNOWN: Mapping[str, str] = {
    _dashed(name): field.description or "" for name, field in S3Options.model_fields.items()
}
"""What may be given, and what it means."""


def parse(words: Iterable[str]) -> dict[str, S3Options]:
    """The options of each bucket that some words name; those of all others under "".

    Args:
        words: as they were typed, `key=value` or `bucket:key=value`.

    Raises:
        UsageError: a word is none of these.
    """
    given: dict[str, dict[str, Any]] = {"": {}}
    for word in words:
        name, equals, value = word.partition("=")
        bucket, _, key = name.rpartition(":")
        if not equals or not value:
            raise UsageError(f"--storage-option {word}: give it as KEY=VALUE, or as BUCKET:KEY=VALUE")
        if key not in KNOWN:
            raise UsageError(f"--storage-option {word}: {unknown(key, KNOWN)}")
        mine = given.setdefault(bucket, {})
        if key in mine:
            raise UsageError(f"--storage-option {word}: {key} is given twice; leave one of them out")
        mine[key] = str(Path(value).expanduser().absolute()) if key == "ca-bundle" else value
    return {bucket: _checked(given[""] | mine, bucket) for bucket, mine in given.items()}


def _checked(fields: dict[str, Any], bucket: str) -> S3Options:
    try:
        return S3Options.model_validate(fields)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0]) if problem["loc"] else ""
        what = first_problem(error).removeprefix(f"--{key}: ")
        of = f"{bucket}:" if bucket else ""
        raise UsageError(f"--storage-option {of}{f'{key}={fields[key]}: ' if key else ''}{what}") from error
