"""The command that says what a file is: a bitstream, a pack or a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from ncbatch.cli.common import Json, Storage
from ncbatch.cli.console import out, print_table
from ncbatch.cli.flags import command
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting
from ncbatch.words import size

if TYPE_CHECKING:
    from ncbatch.codec.bits_back.pack_file import PackFile
    from ncbatch.images.carried import Carried

_KINDS = {
    "bitstream": "bitstream of one image (.ncb)",
    "pack": "pack of several images (.ncbp)",
    "checkpoint": "checkpoint of a model (.safetensors)",
}
"""What a person reads; programs get the short word."""

_NO_LIMIT = 1 << 62  # nothing is decoded, so no image is too large to be described


@command
def info(
    file: Annotated[str, Setting("an .ncb file, an .ncbp file or a checkpoint (.safetensors)", "FILE")],
    /,
    *,
    json: Json = False,
    store: Storage,
) -> ExitCode:
    """Says what a bitstream, a pack or a checkpoint is; decodes nothing."""
    from ncbatch.store import ObjectNotFound
    from ncbatch.store.objects import no_file, read_object

    try:
        data = read_object(file, store)
    except ObjectNotFound as error:
        raise no_file(file) from error
    images: list[dict[str, Any]] = []
    if data.startswith(b"NCB"):
        facts = _bitstream(data)
    elif data.startswith(b"NCP"):
        facts, images = _pack(data)
    elif file.lower().endswith(".safetensors"):
        facts = _checkpoint(data, file)
    else:
        raise UsageError(f"{file} is not an .ncb file, an .ncbp file or a checkpoint (.safetensors)")
    facts = {"file": file, "bytes": len(data), **facts}
    if json:
        out.print_json(data=facts | ({"images": images} if images else {}))
        return ExitCode.OK
    for name, value in facts.items():
        if value is not None:
            out.print(f"{name.replace('_', ' ')}: {_told(name, value)}")
    if images:
        print_table(list(images[0]), [list(image.values()) for image in images])
    return ExitCode.OK


def _told(name: str, value: Any) -> str:
    """A fact as a person reads it."""
    if name.rpartition("_")[2] == "bytes":
        return f"{value:,} ({size(value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(_KINDS[value] if name == "kind" else value)


def _bitstream(data: bytes) -> dict[str, Any]:
    from ncbatch.codec.bitstream import parse

    stream = parse(data, max_pixels=_NO_LIMIT)
    return {
        "kind": "bitstream",
        "format_version": data[3],
        "whole": True,  # or it would not have been parsed
        "method": stream.method,
        "width": stream.width,
        "height": stream.height,
        "bpp": _bpp(len(data), stream.width * stream.height),
        **_carried(stream.carried),
        **_model(stream.model_digest),
    }


def _carried(carried: Carried) -> dict[str, Any]:
    """What a file carries beside the image: sizes in bytes, and the name of a profile."""
    from ncbatch.images.colour import profile_name

    facts: dict[str, Any] = {
        f"{name}_bytes": len(getattr(carried, name)) for name in ("icc", "exif", "xmp", "alpha")
    }
    facts = {name: count for name, count in facts.items() if count}
    if carried.icc:
        facts["icc_profile"] = profile_name(carried.icc)
    if carried.cicp:
        primaries, transfer, matrix, full_range = carried.cicp
        facts["cicp"] = f"{primaries}/{transfer}/{matrix}/{full_range}"
    return facts


def _named(names: Sequence[bytes] | None, index: int) -> dict[str, str]:
    return {} if names is None else {"name": names[index].decode("utf-8", "backslashreplace")}


def _pack(data: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from ncbatch.codec.bits_back.pack_file import PackFile
    from ncbatch.codec.errors import BitstreamError

    file = PackFile(data, max_pixels=_NO_LIMIT)
    header, entries, problem = file.header, [], None
    for _ in range(header.images):
        try:
            entries.append(file.next_section().entry)
        except BitstreamError as error:  # those in front of the damage decode
            problem = f"{error}; {len(entries)} of {header.images} images can be decoded"
            break
    else:
        problem = _problem_behind(file)
    # The last image stands first in the file.
    images = [
        {
            "image": header.images - 1 - place,
            **_named(file.names, header.images - 1 - place),
            "width": entry.width,
            "height": entry.height,
            "method": entry.method,
            "bits-back": "no" if entry.posterior is None else "yes",
        }
        for place, entry in reversed(list(enumerate(entries)))
    ]
    pixels = sum(entry.width * entry.height for entry in entries)
    facts = {
        "kind": "pack",
        "format_version": header.version,
        "whole": problem is None,
        "damage": problem,
        "image_count": header.images,
        "bpp": None if problem else _bpp(len(data), pixels),
        "inference": f"{header.inference.steps} steps at a rate of {header.inference.learning_rate:g}"
        if header.inference.steps
        else "none",
        "side_information": f"{header.side_bytes:,} bytes" if header.side_bytes else None,
        **_model(header.model_digest),
    }
    return facts, images


def _problem_behind(file: PackFile) -> str | None:
    """What is wrong with the parts of a pack that are no images, whose sections were all read."""
    from ncbatch.codec.errors import BitstreamError

    try:
        if file.header.side_bytes:
            file.side_words()
        else:
            file.check_end()
    except BitstreamError as error:
        return f"{error}; the images can be decoded all the same"
    if file.header.names_bytes and file.names is None:
        return "the images' names are damaged; all images can be decoded"
    return None


def _bpp(count: int, pixels: int) -> float | None:
    return round(8 * count / pixels, 4) if pixels else None


def _model(short: str) -> dict[str, Any]:
    """The model that made a file, by name where it is a built-in one."""
    from ncbatch.models.catalog import builtin_facts

    names = [name for name, facts in builtin_facts().items() if facts.digest.startswith(short)]
    return {"model": names[0] if names else "not a built-in one", "model_digest_prefix": short}


def _checkpoint(data: bytes, name: str) -> dict[str, Any]:
    from ncbatch.codec.model.info import describe

    described = describe(data, name)
    about = described.info
    return {
        "kind": "checkpoint",
        "whole": True,  # its digest was compared
        "model_kind": about.kind,
        "lmbda": about.lmbda,
        "N": about.n,
        "M": about.m,
        **({"widths": about.widths} if about.widths else {}),
        "digest": described.digest,
    }
