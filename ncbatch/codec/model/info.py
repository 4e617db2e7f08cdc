"""What a checkpoint says of itself, read without torch: to list models, and to check a request at once."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ncbatch.codec.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

ModelKind = Literal["base", "bits-back"]
"""base: p(z) is convolved with a box. bits-back: h_a gives mean and log-variance of q(z|y), and p(z) is a
density."""

_Channels = Annotated[int, pydantic.Field(gt=0, le=1024)]
Widths = tuple[_Channels, _Channels, _Channels]
"""Channels of g_a at a half, a quarter and an eighth of the image's resolution; g_s has them in reverse."""

_MAX_HEADER = 16_000_000  # bytes; ours take a few thousand


class ModelInfo(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What a checkpoint says of itself."""

    format: Literal[1] = 1
    kind: ModelKind = "base"
    n: int = pydantic.Field(gt=0, le=1024, description="channels of the transforms and of z")
    m: int = pydantic.Field(gt=0, le=1024, description="channels of y")
    widths: Widths | None = pydantic.Field(
        None, description="channels within g_a and g_s, from the image inwards, where they are not all N"
    )
    lmbda: float = pydantic.Field(gt=0, description="weight of the MSE the model was trained with")
    shifts: tuple[int, ...] = pydantic.Field(description="binary scale of each integer layer of h_s")

    @pydantic.model_serializer(mode="wrap")
    def _without_widths(self, serialized: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models of one width are written, and have digests, as they were before there were others."""
        fields: dict[str, Any] = serialized(self)
        if self.widths is None:
            del fields["widths"]
        return fields


@dataclass(frozen=True)
class Described:
    """A checkpoint without its tensors."""

    info: ModelInfo
    digest: str


def read_header(data: bytes, name: str) -> tuple[ModelInfo, str | None]:
    """What a checkpoint's first bytes say: the metadata, and the digest that it was written with.

    The digest is None in files of the first versions.

    Args:
        data: the file, or at least its safetensors header.
        name: what messages call it.

    Raises:
        ModelError: not a safetensors file, not one of ours, or of a newer format.
    """
    # A safetensors file begins with the length of its header, which may look like either.
    if data.startswith((b"PK", b"\x80")) and data[8:9] != b"{":
        raise ModelError(
            f"{name} is a pickled torch file, which could run code when loaded; "
            f"convert one you trust with `ncbatch convert {name} model.safetensors`"
        )
    try:
        length = struct.unpack("<Q", data[:8])[0]
        described = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ncbatch"])
        written = described.pop("digest", None) if isinstance(described, dict) else None
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise not_a_checkpoint(name) from error
    try:
        return ModelInfo.model_validate(described), written
    except pydantic.ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ModelError(
            f"{name} has metadata this version does not understand ({where}); "
            "upgrade ncbatch or export it again"
        ) from error


def not_a_checkpoint(name: str) -> ModelError:
    """The error for a file that is no checkpoint of ours; `name` is what the message calls it."""
    return ModelError(f"{name} is not an ncbatch checkpoint (a whole safetensors file with metadata)")


def digest_of(info: ModelInfo, arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """SHA-256, hexadecimal, over names, types, shapes and bytes, whatever their order in the file."""
    digest = hashlib.sha256(info.model_dump_json().encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_digest(written: str | None, digest: str, name: str) -> None:
    """Raises ModelError where the tensors are not those that the file was written with."""
    if written not in (None, digest):
        raise ModelError(f"{name} is damaged: its digest is not the one it was written with; fetch it again")


def describe(data: bytes, name: str) -> Described:
    """A checkpoint's metadata and its digest, against which its tensors are checked.

    Raises:
        ModelError: as `read_header`, or the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    info, written = read_header(data, name)
    try:
        digest = digest_of(info, load(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise not_a_checkpoint(name) from error
    check_digest(written, digest, name)
    return Described(info, digest)


def read_head(file: IO[bytes], name: str) -> tuple[ModelInfo, str | None]:
    """As `read_header`, for an open file whose tensors are not read."""
    head = file.read(8)
    return read_header(head + file.read(min(int.from_bytes(head, "little"), _MAX_HEADER)), name)
