"""Single files, outside of runs: decoding a `.ncb` or a `.ncbp`, and making a pack."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from ncbatch.codec.bits_back import borrowed_bytes
from ncbatch.codec.bitstream import parse
from ncbatch.codec.checkpoint import Checkpoint
from ncbatch.codec.decode import decode
from ncbatch.codec.encode_pack import Packed, encode_pack, find
from ncbatch.codec.errors import DivergedError, PackCheckError
from ncbatch.codec.model import Model, to_pixels
from ncbatch.codec.pack_file import PackFile
from ncbatch.codec.packing import PackReader, pays_for
from ncbatch.codec.pictures import PictureError, PictureLimits, read_picture, write_png
from ncbatch.codec.recipe import Recipe
from ncbatch.errors import UsageError
from ncbatch.runs.decoded_names import file_name
from ncbatch.runs.models import builtin_by_digest, load_model, on_device
from ncbatch.runs.objects import read_object
from ncbatch.runs.spec import Variant
from ncbatch.store import ObjectNotFound, Store, StoreOptions

log = logging.getLogger(__name__)

SIDE_INFORMATION = "side-information"


def _read(uri: str, options: StoreOptions) -> bytes:
    try:
        return read_object(uri, options)
    except ObjectNotFound as error:
        raise UsageError(f"there is no file {uri}") from error


def _model(name: str | None, digest: str, options: StoreOptions) -> Model:
    """A model by name, or the built-in one of a short digest."""
    checkpoint: Checkpoint = load_model(name, options) if name else builtin_by_digest(digest)
    return on_device(checkpoint)


def decode_file(
    uri: str, destination: Store, options: StoreOptions, *, model: str | None, max_pixels: int
) -> str:
    """Decodes one `.ncb` file; returns the name of the PNG.

    Args:
        model: a model's name; by default the built-in one that made the file.

    Raises:
        BitstreamError, ModelError: the file is no bitstream, or its model is unknown here.
    """
    data = _read(uri, options)
    stream = parse(data, max_pixels=max_pixels)
    picture = decode(_model(model, stream.model_digest, options), data, max_pixels=max_pixels)
    name = file_name(PurePosixPath(uri).name)
    destination.put(name, write_png(picture))
    return name


def decode_pack_file(
    uri: str,
    destination: Store,
    options: StoreOptions,
    *,
    model: str | None,
    max_pixels: int,
    first: int = 0,
    alone: bool = False,
) -> Iterator[str]:
    """Decodes a `.ncbp` file from its last picture to `first`, and yields the name of each object written.

    Args:
        alone: of those, only `first` is written.

    The side information, if there is any, comes with picture 0, in an object of its own.

    Raises:
        BitstreamError: the file is damaged; what was yielded is good. ModelError: its model is unknown here.
    """
    data = _read(uri, options)
    header = PackFile(data, max_pixels=max_pixels).header
    if not 0 <= first < max(header.pictures, 1):
        raise UsageError(f"there is no picture {first}: the pack has {header.pictures}, counted from 0")
    known = _model(model, header.model_digest, options)
    reader = PackReader(known, data, max_pixels=max_pixels)
    for unpacked in reader.pictures(first):
        if alone and unpacked.index != first:
            continue
        picture = to_pixels(
            known.synthesise(unpacked.y_hat.float()), unpacked.entry.height, unpacked.entry.width
        )
        name = f"{unpacked.index:05d}.png"
        destination.put(name, write_png(picture))
        yield name
    if reader.side_information and not alone:
        destination.put(SIDE_INFORMATION, reader.side_information)
        yield SIDE_INFORMATION


def pack_files(
    uris: Sequence[str], variant: Variant, options: StoreOptions, side_information: str | None
) -> Packed:
    """Packs pictures, in their order.

    Args:
        side_information: a file whose bytes pay for the first picture, and come out again.

    Raises:
        UsageError: a picture is none or cannot be coded, or the side information is too short.
    """
    recipe = variant.recipe
    assert variant.model is not None and isinstance(recipe, Recipe)
    model = on_device(load_model(variant.model, options))
    side = _read(side_information, options) if side_information is not None else b""
    limits, pictures = PictureLimits(max_pixels=variant.max_pixels), []
    for uri in uris:
        try:
            data = _read(uri, options)
            pictures.append(read_picture(data, alpha=variant.alpha, limits=limits, name=uri))
        except PictureError as error:
            raise UsageError(f"{uri} cannot be packed: {error}") from error
    found = []
    for uri, pixels in zip(uris, pictures, strict=True):
        try:
            found += find(model, [pixels], recipe)
        except DivergedError as error:
            raise UsageError(f"{uri} cannot be packed: {error}") from error
        log.info("%s: refined in %.0f s", uri, found[-1].seconds)
        first = side_information is not None and len(found) == 1
        if first and not pays_for(model, found[0].inferred, side):
            raise UsageError(
                f"--side-info {side_information} has {len(side):,} bytes, too few to pay for {uri}, "
                f"which takes some {borrowed_bytes(found[0].inferred):,}; give a longer file, or leave it out"
            )
    log.info("packing; then the pack is decoded again, which repeats the inference")
    try:
        return encode_pack(model, found, recipe, side_information=side)
    except PackCheckError as error:
        raise UsageError(f"{uris[error.picture]} cannot be packed: {error}") from error
