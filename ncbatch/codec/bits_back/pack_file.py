"""The `.ncbp` file: several images' payloads in one ANS stack.

    header      "NCP", version, first 8 bytes of the model's digest, float64 learning rate of the inference;
                LEB128: its steps, number of images, bytes of side information, and in versions 3 and 5
                bytes of the names; CRC-32 of the header
    names       in versions 3 and 5 only: the images' file names in UTF-8, in the order of packing, with a
                zero byte between two of them, compressed by zlib; CRC-32 of that
    sections    one an image, the last coded first; then, if there is side information, the words for it
    a section   its length; entry; its words of the stack; CRC-32 of all that
    an entry    method and flags in a byte; unless they are those of the section in front, width and height;
                checksums of y_hat and of the posterior; corrections, where there are any

An image's words are those that neither it nor an image coded after it takes off the stack again, the last
pushed first. So whoever decodes from the front has, behind every section, read all that its image needs: a
file cut short or damaged loses the images from there on, and the images before come out. The index of the
pack is these entries; each stands in front of what it describes, where damage to it takes no others along.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ncbatch.codec.bits_back.bbvi import BbviSettings
from ncbatch.codec.bits_back.fixed_posterior import Corrections
from ncbatch.codec.bitstream import METHODS, PACK_MAGIC, check_size
from ncbatch.codec.errors import BitstreamError
from ncbatch.codec.leb128 import leb128, read_leb128
from ncbatch.codec.methods import LEARNED
from ncbatch.codec.model.hyperprior import PADDING
from ncbatch.codec.recipe import MAX_BBVI_LEARNING_RATE, MAX_BBVI_STEPS

MAGIC = PACK_MAGIC
_VERSIONS = {2: (False, False), 3: (False, True), 4: (True, False), 5: (True, True)}
"""Whether y is coded with coarse parameters, and whether the images' names are in the pack. The older ones,
which are not coarse, are still read, but no longer written."""
_DIGEST_BYTES = 8
_FIXED = len(MAGIC) + 1 + _DIGEST_BYTES + 8
_CHECKSUM = 4
_LATENTS_BYTES = 2
"""A section's CRC-32 finds what happens to a file, the posterior's an inference that differs; these 16 bits a
decoder whose integer arithmetic does, which plain files do not look for."""
_MOST_NAMES_BYTES = 1 << 24
"""Of a pack's names together; no header talks a reader into more."""
_MAX_CORRECTIONS = 32
"""Of 64x64 pixels; of as many parameters as those have, 2 N, encoders list one in 4,096."""
_WITH_POSTERIOR, _WITH_CORRECTIONS, _SIZE_AS_BEFORE, _METHOD = 1, 2, 4, 8  # a method's number comes above

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Entry:
    """What a pack says of an image beside its words.

    Attributes:
        method: by name.
        width: in pixels.
        height: in pixels.
        latents: 16 bits of a CRC-32 of y_hat.
        posterior: CRC-32 of q(z|y_hat); None for an image that was coded without bits-back.
        corrections: of the posterior's parameters.
    """

    method: str
    width: int
    height: int
    latents: int
    posterior: int | None
    corrections: Corrections = ()


@dataclass(frozen=True)
class PackHeader:
    """A pack's header.

    Attributes:
        model_digest: the model's short digest, hexadecimal.
        inference: how the posteriors were inferred.
        images: how many there are.
        side_bytes: of side information.
        names_bytes: of the images' names as they are stored; 0 where there are none.
        coarse: whether y is coded with coarse means and standard deviations (see `image_stack`).
    """

    model_digest: str
    inference: BbviSettings
    images: int
    side_bytes: int
    names_bytes: int = 0
    coarse: bool = True

    @property
    def version(self) -> int:
        """The number of the format's version."""
        wanted = (self.coarse, self.names_bytes > 0)
        return next(version for version, told in _VERSIONS.items() if told == wanted)


@dataclass(frozen=True)
class Section:
    """An image of a pack.

    Attributes:
        entry: what the file says of it.
        words: its words of the stack.
        start: where its bytes begin in the file.
    """

    entry: Entry
    words: Words
    start: int


def write_header(header: PackHeader) -> bytes:
    """The bytes of a header, with their checksum."""
    content = b"".join(
        [
            MAGIC,
            bytes([header.version]),
            bytes.fromhex(header.model_digest),
            struct.pack("<d", header.inference.learning_rate),
            leb128(header.inference.steps),
            leb128(header.images),
            leb128(header.side_bytes),
            leb128(header.names_bytes) if header.names_bytes else b"",
        ]
    )
    return content + _checksum(content)


def with_names(data: bytes, names: Sequence[bytes]) -> bytes:
    """A pack with its images' file names; all else in it stays as it was.

    Args:
        data: the pack.
        names: in the order of packing.

    Raises:
        ValueError: not one name for each image, or a name with a zero byte.
    """
    header, position = _read_header(data)
    if len(names) != header.images or any(b"\0" in name for name in names):
        raise ValueError("a pack takes one name an image, without zero bytes")
    if header.names_bytes:
        position += header.names_bytes + _CHECKSUM
    content = zlib.compress(b"\0".join(names), 9)
    named = write_header(replace(header, names_bytes=len(content)))
    return named + content + _checksum(content) + data[position:]


def write_section(entry: Entry, words: Words, in_front: Entry | None) -> bytes:
    """An image's section.

    Args:
        entry: what the file says of the image.
        words: in the order of the stack, the last pushed last.
        in_front: the entry of the section in front, with which this one may share its size; None at the
            front.
    """
    flags = _METHOD * LEARNED[entry.method].number
    size = leb128(entry.width) + leb128(entry.height)
    if in_front is not None and (in_front.width, in_front.height) == (entry.width, entry.height):
        flags, size = flags | _SIZE_AS_BEFORE, b""
    posterior = b""
    if entry.posterior is not None:
        flags |= _WITH_POSTERIOR
        posterior = entry.posterior.to_bytes(_CHECKSUM, "little")
    if entry.corrections:
        flags |= _WITH_CORRECTIONS
    content = b"".join(
        [
            bytes([flags]),
            size,
            entry.latents.to_bytes(_LATENTS_BYTES, "little"),
            posterior,
            _coded_corrections(entry.corrections),
            words[::-1].astype("<u4").tobytes(),
        ]
    )
    content = leb128(len(content)) + content
    return content + _checksum(content)


def _coded_corrections(corrections: Corrections) -> bytes:
    if not corrections:
        return b""
    coded, previous = [leb128(len(corrections))], 0
    for index, last_bit in corrections:
        coded.append(leb128(2 * (index - previous) + last_bit))
        previous = index
    return b"".join(coded)


def write_side_words(words: Words) -> bytes:
    """The section of the words that only the side information needs."""
    content = words[::-1].astype("<u4").tobytes()
    return content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM, "little")


class PackFile:
    """A pack's bytes, read from the front.

    Args:
        max_pixels: refuses larger images.

    Attributes:
        header: of the pack.
        names: file names of the images, in the order of packing; None where the pack has none, or damaged
            ones.

    Raises:
        BitstreamError: there is no header, or it is damaged.
    """

    def __init__(self, data: bytes, *, max_pixels: int) -> None:
        self._data, self._max_pixels = data, max_pixels
        self.header, self._position = _read_header(data)
        self.names: tuple[bytes, ...] | None = self._read_names()
        """File names of the images, in the order of packing; None: not in the pack, or damaged there."""
        self._in_front: Entry | None = None

    def _read_names(self) -> tuple[bytes, ...] | None:
        if not self.header.names_bytes:
            return None
        start, end = self._position, self._position + self.header.names_bytes + _CHECKSUM
        self._position = end
        try:
            self._check(start, end)
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(self._data[start : end - _CHECKSUM], _MOST_NAMES_BYTES)
        except (BitstreamError, zlib.error):
            return None  # the images are worth more than their names
        whole = unpacker.eof and content.count(b"\0") + 1 == self.header.images
        return tuple(content.split(b"\0")) if whole else None

    def next_section(self) -> Section:
        """The next image's section.

        Raises:
            BitstreamError: the file ends before it, or the section is damaged.
        """
        start = self._position
        length, content = read_leb128(self._data, start)
        end = content + length + _CHECKSUM
        self._check(start, end)
        entry, words = self._parsed(self._data[content : end - _CHECKSUM])
        self._position, self._in_front = end, entry
        return Section(entry, words, start)

    def side_words(self) -> Words:
        """The words behind the last image's section: all the rest of the file.

        Raises:
            BitstreamError: they are damaged or cut short.
        """
        start, end = self._position, len(self._data)
        if end - start < _CHECKSUM or (end - start) % 4:
            raise BitstreamError("the file is cut short")
        self._check(start, end)
        return _words(self._data[start : end - _CHECKSUM])

    def check_end(self) -> None:
        """Checks that the file ends behind the last section.

        Raises:
            BitstreamError: it does not.
        """
        if self._position != len(self._data):
            raise BitstreamError("bytes follow the last image; the file is damaged")

    def _parsed(self, content: bytes) -> tuple[Entry, Words]:
        """A section's content."""
        flags, position = _read_number(content, 0, 1)
        method = flags // _METHOD
        if method not in METHODS:
            raise BitstreamError(
                f"method number {method} is unknown here; the file is damaged, or upgrade ncbatch"
            )
        if not flags & _SIZE_AS_BEFORE:
            width, position = read_leb128(content, position)
            height, position = read_leb128(content, position)
        elif self._in_front is not None:
            width, height = self._in_front.width, self._in_front.height
        else:
            raise BitstreamError("the file is damaged: its first image has no size")
        check_size(width, height, self._max_pixels)
        latents, position = _read_number(content, position, _LATENTS_BYTES)
        posterior: int | None = None
        corrections: Corrections = ()
        if flags & _WITH_POSTERIOR:
            posterior, position = _read_number(content, position, _CHECKSUM)
        if flags & _WITH_CORRECTIONS:
            limit = _MAX_CORRECTIONS * -(-width // PADDING) * -(-height // PADDING)
            corrections, position = _read_corrections(content, position, limit)
        if position > len(content) or (len(content) - position) % 4:
            raise BitstreamError("the file is damaged: an image's section is not made of whole words")
        entry = Entry(METHODS[method], width, height, latents, posterior, corrections)
        return entry, _words(content[position:])

    def _check(self, start: int, end: int) -> None:
        """Compares a section's checksum."""
        if end > len(self._data):
            raise BitstreamError("the file is cut short")
        content = self._data[start : end - _CHECKSUM]
        if _checksum(content) != self._data[end - _CHECKSUM : end]:
            raise BitstreamError("the file is damaged: a checksum does not match")


def _read_header(data: bytes) -> tuple[PackHeader, int]:
    if data[: len(MAGIC)] != MAGIC:
        raise BitstreamError(
            "not an .ncbp file, or damaged: it does not start with NCP, so no image comes out"
        )
    if len(data) < _FIXED + _CHECKSUM:
        raise BitstreamError(f"cut short: {len(data)} bytes cannot hold a header")
    version = data[len(MAGIC)]
    if version not in _VERSIONS:
        raise BitstreamError(
            f".ncbp version {version} is unknown ({max(_VERSIONS)} is known), so no image comes out; "
            "use the encoder's version of ncbatch, or fetch the file again if it is damaged"
        )
    digest = data[len(MAGIC) + 1 : len(MAGIC) + 1 + _DIGEST_BYTES].hex()
    (learning_rate,) = struct.unpack_from("<d", data, len(MAGIC) + 1 + _DIGEST_BYTES)
    steps, position = read_leb128(data, _FIXED)
    images, position = read_leb128(data, position)
    side_bytes, position = read_leb128(data, position)
    names_bytes = 0
    coarse, named = _VERSIONS[version]
    if named:
        names_bytes, position = read_leb128(data, position)
    if _checksum(data[:position]) != data[position : position + _CHECKSUM]:
        raise BitstreamError("the header is damaged, so none of the images comes out; fetch the file again")
    # NaN is not within the bounds, either.
    if steps > MAX_BBVI_STEPS or not 0 <= learning_rate <= MAX_BBVI_LEARNING_RATE:
        raise BitstreamError(
            f"the header asks for {steps} steps of inference at the rate {learning_rate:g}, which no encoder "
            "writes; the file is damaged"
        )
    inference = BbviSettings(steps, learning_rate)
    header = PackHeader(digest, inference, images, side_bytes, names_bytes, coarse)
    return header, position + _CHECKSUM


def _read_number(data: bytes, position: int, size: int) -> tuple[int, int]:
    return int.from_bytes(data[position : position + size], "little"), position + size


def _read_corrections(data: bytes, position: int, limit: int) -> tuple[Corrections, int]:
    listed, position = read_leb128(data, position)
    if listed > limit:
        raise BitstreamError(f"the file is damaged: it corrects {listed:,} parameters")
    corrections: list[tuple[int, int]] = []
    index = 0
    for _ in range(listed):
        coded, position = read_leb128(data, position)
        index += coded >> 1
        corrections.append((index, coded & 1))
    return tuple(corrections), position


def _words(data: bytes) -> Words:
    return np.frombuffer(data, dtype="<u4")[::-1].astype(np.uint32)


def joined(sections: Sequence[Words]) -> Words:
    """The stack's words, given those of each section in the order of the file."""
    return np.concatenate([*sections[::-1], np.empty(0, np.uint32)])
