"""Packs: images chained by bits-back in one file, each paid for by those before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ncbatch.codec import ans
from ncbatch.codec.bits_back import pack_file
from ncbatch.codec.bits_back.bbvi import BbviSettings
from ncbatch.codec.bits_back.image_stack import (
    CodingCost,
    DecodedLatents,
    InferredPosterior,
    checksum,
    give_back,
    pop_image,
    push_image,
    push_plain,
)
from ncbatch.codec.bits_back.pack_file import Entry, PackFile, PackHeader, Section, Words
from ncbatch.codec.bitstream import short_digest
from ncbatch.codec.errors import BitstreamError, ModelError, WrongModelError
from ncbatch.codec.model.hyperprior import Model, to_pixels
from ncbatch.images.pixels import Pixels

_HEAD_BYTES = 8  # of the stack, where leading zeros take no room


@dataclass(frozen=True)
class PackItem:
    """An image to be packed.

    Attributes:
        inferred: its latents and their posterior.
        method: the name of the method that found them, for the file.
        width: in pixels.
        height: in pixels.
        plain: code it without bits-back, whatever the stack holds.
    """

    inferred: InferredPosterior
    method: str
    width: int
    height: int
    plain: bool = False


@dataclass(frozen=True)
class Share:
    """An image's part in a pack.

    Attributes:
        offset: where its bytes begin in the file. The image at the front of the file has the header, too.
        length: of its bytes. All images' bytes cover the file up to the words that only the side information
            needs.
        net_bytes: by how much the file grew for it. Bytes that later images borrow from it count as its own.
        coded: what it cost on the stack.
    """

    offset: int
    length: int
    net_bytes: int
    coded: CodingCost


@dataclass(frozen=True)
class Pack:
    """A written pack.

    Attributes:
        data: the file.
        shares: of the images, in their order.
        side_bytes: what the side information takes; together with the images' net bytes, this is the whole
            file.
    """

    data: bytes
    shares: list[Share]
    side_bytes: int


def write_pack(
    model: Model, items: Sequence[PackItem], settings: BbviSettings, side_information: bytes = b""
) -> Pack:
    """Codes images one after the other, each with bits-back as soon as the stack holds enough for it."""
    stack = _stack_of(side_information)
    side_words = stack.num_words()
    coded = []
    for item in items:
        done = None if item.plain else push_image(stack, model, item.inferred)
        coded.append(done or push_plain(stack, model, item.inferred))
    words = stack.get_compressed()
    # An image's section begins above what it and all after it leave untouched.
    bounds = [min(c.untouched for c in coded[i:]) for i in range(len(coded))] + [len(words)]
    header = pack_file.write_header(
        PackHeader(short_digest(model.digest), settings, len(items), len(side_information))
    )
    entries = [_entry(item, c) for item, c in zip(items, coded, strict=True)]
    sections = [
        pack_file.write_section(entry, words[bounds[i] : bounds[i + 1]], in_front)
        for i, (entry, in_front) in enumerate(zip(entries, [*entries[1:], None], strict=True))
    ]
    side = pack_file.write_side_words(words[: bounds[0]]) if side_information else b""
    overheads = [len(s) - 4 * (bounds[i + 1] - bounds[i]) for i, s in enumerate(sections)]
    overheads[-1] += len(header)
    sections[-1] = header + sections[-1]
    ends = np.cumsum([len(s) for s in reversed(sections)])[::-1].tolist()
    shares = [
        Share(end - len(s), len(s), 4 * c.words + extra, c)
        for end, s, c, extra in zip(ends, sections, coded, overheads, strict=True)
    ]
    side_bytes = 4 * side_words + 4 if side_information else 0
    return Pack(b"".join([*reversed(sections), side]), shares, side_bytes)


def pays_for(model: Model, image: InferredPosterior, side_information: bytes) -> bool:
    """Whether side information is long enough for the first image of a pack to be coded with bits-back."""
    return push_image(_stack_of(side_information), model, image) is not None


def _stack_of(side_information: bytes) -> ans.AnsCoder:
    stack = ans.new_coder()
    ans.push_bytes(stack, _whitened(side_information))
    return stack


def _whitened(data: bytes) -> bytes:
    """Bytes that look random; applied twice it gives the bytes back.

    z is drawn from them, and must not fall far from q's mean.
    """
    stream = hashlib.shake_256(b"ncbatch side information").digest(len(data))
    return (np.frombuffer(data, np.uint8) ^ np.frombuffer(stream, np.uint8)).tobytes()


def _entry(item: PackItem, coded: CodingCost) -> Entry:
    inferred = item.inferred
    with_bits_back = coded.bits_back is not None
    return Entry(
        item.method,
        item.width,
        item.height,
        checksum(inferred.y_hat[0].cpu().numpy()),
        inferred.posterior.checksum if with_bits_back else None,
        inferred.corrections if with_bits_back else (),
    )


@dataclass(frozen=True)
class Unpacked:
    """An image out of a pack.

    Attributes:
        index: its number in the order of packing.
        offset: where its share of the file begins.
        entry: what the file says of it.
        y_hat: int32[1, M, h, w].
    """

    index: int
    offset: int
    entry: Entry
    y_hat: Tensor


class PackReader:
    """Decodes a pack, from the image packed last to the first.

    Args:
        max_pixels: refuses larger images.
        disturbance: relative change of the start of every repeated inference (see `bbvi.infer`); a pack that
            decodes with it decodes on other machines, too.

    Attributes:
        side_information: the bytes that paid for the first image; None until all images are decoded.

    Raises:
        BitstreamError: the bytes are no pack, or its header is damaged.
        ModelError: the pack was made by another model, or the model is of the kind base.
    """

    def __init__(self, model: Model, data: bytes, *, max_pixels: int, disturbance: float = 0.0) -> None:
        file = PackFile(data, max_pixels=max_pixels)
        self.header = file.header
        if self.header.model_digest != short_digest(model.digest):
            raise WrongModelError(
                f"the pack was made with model {self.header.model_digest}, not with {model.digest[:16]}; "
                "name the right one with --model"
            )
        if model.info.kind != "bits-back":
            raise ModelError("a pack names a model of the kind base, which makes none; the file is damaged")
        self._model, self._disturbance = model, disturbance
        self._damage: BitstreamError | None = None
        self.side_information: bytes | None = None
        """Known once all images are decoded."""
        self._sections, self._side_words = self._read(file)

    def _read(self, file: PackFile) -> tuple[list[Section], Words | None]:
        """The sections up to the first damaged one."""
        sections: list[Section] = []
        try:
            for _ in range(self.header.images):
                sections.append(file.next_section())
            if self.header.side_bytes:
                return sections, file.side_words()
            file.check_end()
        except BitstreamError as error:
            self._damage = error
        return sections, None

    def images(self, first: int = 0) -> Iterator[Unpacked]:
        """Decodes the images from the last to number `first`, and after number 0 the side information.

        Raises:
            BitstreamError: an image is damaged. It is lost, and so are those packed before it.
        """
        words = [section.words for section in self._sections]
        if self._side_words is not None:
            words.append(self._side_words)
        stack = ans.new_coder(pack_file.joined(words).astype("<u4").tobytes())
        index = self.header.images
        waiting: DecodedLatents | None = None
        for section in self._sections:
            if index <= first:
                return
            index -= 1
            try:
                self._give_back(stack, waiting)
                waiting = pop_image(stack, self._model, section.entry, with_coarse=self.header.coarse)
            except BitstreamError as error:
                raise self._lost(index, error) from error
            offset = 0 if section is self._sections[0] else section.start  # the first has the header, too
            yield Unpacked(index, offset, section.entry, waiting.y_hat)
        if self._damage is not None and index > first:
            raise self._lost(index - 1, self._damage) from self._damage
        if first == 0:
            self._finish(stack, waiting)

    def _finish(self, stack: ans.AnsCoder, waiting: DecodedLatents | None) -> None:
        """Takes the side information off the stack, which must be empty then."""
        if self._damage is not None:
            raise self._behind(self._damage) from self._damage
        try:
            self._give_back(stack, waiting)
        except BitstreamError as error:
            raise self._behind(error) from error
        # A stack gives zeros for what it does not hold, as many as a lying header asks for.
        if self.header.side_bytes > 4 * stack.num_words() + _HEAD_BYTES:
            raise BitstreamError("the pack has less side information than it says; it is damaged")
        self.side_information = _whitened(ans.pop_bytes(stack, self.header.side_bytes))
        if not stack.is_empty():
            raise BitstreamError("the pack holds more than its images; it is damaged")

    def _give_back(self, stack: ans.AnsCoder, popped: DecodedLatents | None) -> None:
        if popped is not None:
            give_back(stack, self._model, popped, self.header.inference, self._disturbance)

    def _behind(self, error: BitstreamError) -> BitstreamError:
        return type(error)(f"all images of the pack came out, but not what is behind them: {error}")

    def _lost(self, index: int, error: BitstreamError) -> BitstreamError:
        lost = "image 0 is lost" if index == 0 else f"images 0 to {index} are lost"
        kind = type(error)
        return kind(f"{lost} of the pack's {self.header.images}: {error}")


class OpenPack:
    """A pack whose images are asked for one by one. What is decoded on the way to one is kept.

    Arguments and errors are those of `PackReader`.
    """

    def __init__(self, model: Model, data: bytes, *, max_pixels: int) -> None:
        self._model = model
        self._pending = PackReader(model, data, max_pixels=max_pixels).images()
        self._decoded: dict[int, Pixels] = {}
        self._problem = BitstreamError("the pack has no image there")

    def image(self, offset: int) -> Pixels:
        """The image whose share of the file begins at `offset`, uint8[height, width, 3].

        Raises:
            BitstreamError: it is damaged, or lost together with one that was packed after it.
        """
        try:
            while offset not in self._decoded:
                unpacked = next(self._pending, None)
                if unpacked is None:
                    raise self._problem
                image, entry = self._model.synthesise(unpacked.y_hat.float()), unpacked.entry
                self._decoded[unpacked.offset] = to_pixels(image, entry.height, entry.width)
        except BitstreamError as error:
            self._problem = error
            raise
        return self._decoded[offset]
