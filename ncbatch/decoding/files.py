"""Single files, outside of runs: decoding an `.ncb` or `.ncbp` file, and making a pack."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence

from ncbatch import layout
from ncbatch.codec.bits_back.encode import VerifiedPack, encode_pack, find
from ncbatch.codec.bits_back.image_stack import borrowed_bytes
from ncbatch.codec.bits_back.pack import PackReader, pays_for
from ncbatch.codec.bits_back.pack_file import PackFile, with_names
from ncbatch.codec.bitstream import parse
from ncbatch.codec.decode import decode_stream, with_alpha
from ncbatch.codec.errors import DivergedError, PackCheckError
from ncbatch.codec.model.hyperprior import Model, to_pixels
from ncbatch.codec.recipe import PackedRecipe
from ncbatch.decoding.decoded_names import DecodedNames, file_name
from ncbatch.decoding.destination import Destination
from ncbatch.decoding.options import FileOptions
from ncbatch.errors import UsageError
from ncbatch.images.checks import ImageError
from ncbatch.images.read import read_file
from ncbatch.images.write import write_png
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.schema import parquet_to_table
from ncbatch.models.loading import load_model, model_of_file, on_device
from ncbatch.plan.spec import Variant
from ncbatch.store import ObjectNotFound, StoreError, StoreOptions, open_store
from ncbatch.store.objects import folders_above, name_in_uri, no_file, read_object

log = logging.getLogger(__name__)

SIDE_INFORMATION = "side-information"


def _read(uri: str, options: StoreOptions) -> bytes:
    try:
        return read_object(uri, options)
    except ObjectNotFound as error:
        raise no_file(uri) from error


def _model(uri: str, digest: str, options: FileOptions) -> Model:
    """The model of a file, which names it by a short digest."""
    if options.model:
        return on_device(load_model(options.model, options.store))
    return on_device(model_of_file(uri, digest, options.store))


def decode_file(uri: str, destination: Destination, options: FileOptions) -> str:
    """Decodes one `.ncb` file; returns the name of the PNG.

    Raises:
        BitstreamError, ModelError: the file is no bitstream, or its model is unknown here.
        OccupiedError: something else stands where the PNG belongs.
    """
    data = _read(uri, options.store)
    stream = parse(data, max_pixels=options.max_pixels)
    image = with_alpha(decode_stream(_model(uri, stream.model_digest, options), stream), stream)
    name = file_name(name_in_uri(uri))
    return destination.write(name, write_png(image, stream.carried))


def decode_pack_file(
    uri: str, destination: Destination, options: FileOptions, *, first: int = 0, alone: bool = False
) -> Iterator[str]:
    """Decodes an `.ncbp` file from its last image to number `first`, and yields the name of each object
    written.

    Images are named by the pack itself, else by the run that it lies in, else by their numbers. The side
    information, if there is any, comes with image 0, in an object of its own.

    Args:
        uri: of the file.
        destination: where the images are written.
        options: of decoding.
        first: the number of the first image wanted, counted from 0.
        alone: writes that image only.

    Raises:
        BitstreamError: the file is damaged; what was yielded is good.
        ModelError: the file's model is unknown here.
        OccupiedError: something else stands where an object belongs; the rest was not decoded.
    """
    data = _read(uri, options.store)
    file = PackFile(data, max_pixels=options.max_pixels)
    if not 0 <= first < max(file.header.images, 1):
        raise UsageError(f"there is no image {first}: the pack has {file.header.images}, counted from 0")
    known = _model(uri, file.header.model_digest, options)
    names = _png_names(file, uri, options.store)
    reader = PackReader(known, data, max_pixels=options.max_pixels)
    for unpacked in reader.images(first):
        if alone and unpacked.index != first:
            continue
        image = to_pixels(
            known.synthesise(unpacked.y_hat.float()), unpacked.entry.height, unpacked.entry.width
        )
        yield destination.write(names[unpacked.index], write_png(image))
    if reader.side_information and not alone:
        yield destination.write(SIDE_INFORMATION, reader.side_information)


def _png_names(file: PackFile, uri: str, options: StoreOptions) -> list[str]:
    """Distinct names for a pack's images, whichever of them are decoded; they differ in more than case."""
    if file.names is not None:
        # What a file says is not to lead out of the destination, nor into folders of it.
        keys = [name.decode("utf-8", "backslashreplace").rpartition("/")[2] for name in file.names]
    else:
        keys = _keys_in_run(uri, options)
    if len(keys) != file.header.images:
        return [f"{index:05d}.png" for index in range(file.header.images)]
    distinct: dict[str, int] = {}
    for index, key in enumerate(keys):
        while key in distinct:  # images of several folders may have one name; the first keeps it
            stem, dot, suffix = key.rpartition(".")
            key = f"{stem}~{index}{dot}{suffix}" if stem else f"{key}~{index}"
        distinct[key] = index
    names = DecodedNames(distinct)
    return [names[key] for key in distinct]


def _keys_in_run(uri: str, options: StoreOptions) -> list[str]:
    """The keys of the images in a run's pack, in the order of packing; empty for a pack that is in no run."""
    folders = list(itertools.islice(folders_above(uri), 3))
    name = uri.rpartition("/")[2]
    with contextlib.suppress(StoreError, MetricsError, IndexError):
        commit = open_store(folders[2], options).get(layout.unit_key(name.partition("-")[0]))
        rows = parquet_to_table(commit, ["image_key", "bitstream_key", "offset"]).to_pylist()
        ours = [row for row in rows if str(row["bitstream_key"]).endswith(f"/{name}")]
        return [row["image_key"] for row in sorted(ours, key=lambda row: -row["offset"])]
    return []


def named_pack(data: bytes, uris: Sequence[str]) -> bytes:
    """The pack with the names of the files that its images came from."""
    return with_names(data, [name_in_uri(uri).encode() for uri in uris])


def pack_files(
    uris: Sequence[str], variant: Variant, options: StoreOptions, side_information: str | None
) -> VerifiedPack:
    """Packs images, in their order.

    Args:
        uris: of the image files.
        variant: method and model.
        options: how to reach an S3 server.
        side_information: URI of a file whose bytes pay for the first image, and come out again; or None.

    Raises:
        UsageError: a file is no image or cannot be coded, or the side information is too short.
    """
    recipe = variant.recipe
    assert variant.model is not None and isinstance(recipe, PackedRecipe)
    model = on_device(load_model(variant.model, options))
    side = _read(side_information, options) if side_information is not None else b""
    images = []
    for uri in uris:
        try:
            images.append(read_file(_read(uri, options), variant.reading, name=uri).pixels)
        except ImageError as error:
            raise UsageError(f"{uri} cannot be packed: {error}") from error
    found = []
    for uri, pixels in zip(uris, images, strict=True):
        try:
            found += find(model, [pixels], recipe)
        except DivergedError as error:
            raise UsageError(f"{uri} cannot be packed: {error}") from error
        log.info("%s: done in %.0f s", uri, found[-1].seconds)
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
        raise UsageError(f"{uris[error.image]} cannot be packed: {error}") from error
