"""The command that puts several images into one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from ncbatch.cli.common import Storage
from ncbatch.cli.console import out, print_table
from ncbatch.cli.flags import command
from ncbatch.cli.variant_flags import PACKED
from ncbatch.errors import UsageError, first_problem
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Section, Setting
from ncbatch.store import StoreOptions, join_uri, open_store
from ncbatch.words import size

_WHAT = Section("what the images become", 1)


@command
def pack(
    *images: Annotated[str, Setting(
        "image files, folders with images (in the order of their names), or s3:// objects; the pack keeps "
        "their order", "IMAGE",
    )],
    to: Annotated[str, Setting("the pack to write, .ncbp", "FILE", name="out")],
    side_info: Annotated[str | None, Setting(
        "file whose bytes pay for the first image, and come out again at decoding", "FILE",
        default="none, so the first image is coded without bits-back",
    )] = None,
    no_names: Annotated[bool, Setting(
        "leave the files' names out of the pack; its images decode to 00000.png, 00001.png, ...",
    )] = False,
    overwrite: Annotated[bool, Setting("replace a file that is there already", default="refuse")] = False,
    variant: Annotated[dict[str, Any], PACKED, _WHAT],
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Puts several images into one file, with bits-back."""
    import pydantic

    from ncbatch.plan.request import make_variant
    from ncbatch.store.objects import folder_of, require_object

    if not to.endswith(".ncbp"):
        raise UsageError(f"--out {to}: the name of a pack ends in .ncbp")
    destination, name = folder_of(to, store, create=True)
    destination.check()
    if not overwrite and destination.head(name) is not None:
        raise UsageError(f"--out {to} is there already; choose another name, or add --overwrite")
    try:
        asked = make_variant({"method": "sga+bits-back"} | variant, store)
    except pydantic.ValidationError as error:
        raise UsageError(first_problem(error)) from error
    if side_info:
        require_object(side_info, store)
    uris = files(images, store)
    from ncbatch.decoding.files import named_pack, pack_files

    packed = pack_files(uris, asked, store, side_info)
    data = packed.pack.data if no_names else named_pack(packed.pack.data, uris)
    destination.put(name, data)
    rows = [
        (uri, e.outcome.bytes, e.outcome.bytes * 8 / (e.width * e.height), e.outcome.psnr,
         "yes" if e.outcome.bits_back is not None else "no")
        for uri, e in zip(uris, packed.encoded, strict=True)
    ]  # fmt: skip
    print_table(("image", "bytes", "bpp", "PSNR dB", "bits-back"), rows)
    out.print(f"{to}: {size(len(data))}")
    return ExitCode.OK


def files(uris: Sequence[str], options: StoreOptions) -> list[str]:
    """Files, and in the place of each folder the images in it.

    Raises:
        UsageError: a file does not exist, or a folder has no images.
    """
    from ncbatch.store.objects import require_object

    found: list[str] = []
    for uri in uris:
        if not (uri.endswith("/") or Path(uri).is_dir()):
            require_object(uri, options)
            found.append(uri)
            continue
        from ncbatch.plan.corpus import list_corpus

        folder = open_store(uri, options)
        folder.check()
        keys = [image.key for image in list_corpus(folder).images]
        if not keys:
            raise UsageError(f"the folder {uri} holds no images")
        found += [join_uri(uri, key) for key in keys]
    return found
