"""The command that makes images of bitstreams again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ncbatch.cli.common import Json, open_run
from ncbatch.cli.console import out
from ncbatch.cli.findings import findings_as_json, report_findings
from ncbatch.cli.flags import command
from ncbatch.decoding.options import FileOptions, PackPart
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting

if TYPE_CHECKING:
    from ncbatch.decoding.destination import Destination


@command
def decode(
    source: Annotated[str, Setting("output of a run, or a .ncb or .ncbp file", "SOURCE")],
    destination: Annotated[str, Setting(
        "folder or s3:// prefix for the PNGs; for a single image also the name of a .png file", "DESTINATION",
    )],
    /,
    *,
    overwrite: Annotated[bool, Setting(
        "replace files that are there already with other contents", default="leave them and say so",
    )] = False,
    variant: Annotated[str | None, Setting(
        "decode only this variant of a run", "NAME", default="all of them",
    )] = None,
    json: Json = False,
    part: PackPart,
    options: FileOptions,
) -> ExitCode:  # fmt: skip
    """Decodes a run, or a single file."""
    suffix = source.lower().rpartition(".")[2]
    if part.start is not None and part.image is not None:
        raise UsageError("argument --image: not allowed with argument --from; give one of them")
    if (part.start is not None or part.image is not None) and suffix != "ncbp":
        raise UsageError("--from and --image are of packs, single .ncbp files")

    def opened(*, one_image: bool) -> Destination:
        from ncbatch.decoding.destination import open_destination

        return open_destination(destination, options.store, one_image=one_image, overwrite=overwrite)

    if suffix in ("ncb", "ncbp"):
        from ncbatch.store.objects import require_object

        require_object(source, options.store)
        into = opened(one_image=suffix == "ncb" or part.image is not None)
        files = []
        for name in _decode_file(source, into, options, part if suffix == "ncbp" else None):
            files.append(into.store.uri + name)
            if not json:
                out.print(f"decoded into {files[-1]}")
        if json:
            out.print_json(data={"decoded": len(files), "files": files, "problems": []})
        return ExitCode.OK
    if Path(source).is_file():
        raise UsageError(f"{source} is not a run's output, nor a .ncb or .ncbp file")
    run = open_run(source, options.store)
    into = opened(one_image=False)
    from ncbatch.decoding.run_reader import RunReader

    findings = RunReader(run, variant=variant).decode_into(into)
    if json:
        return findings_as_json(findings, "decoded", {"destination": into.store.uri})
    return report_findings(findings, f"decoded into {into.store.uri}")


def _decode_file(
    source: str, destination: Destination, options: FileOptions, part: PackPart | None
) -> Iterator[str]:
    """The names of the files it writes. part: of a pack; None: the file is no pack."""
    from ncbatch.decoding.files import decode_file, decode_pack_file

    if part is None:
        return iter([decode_file(source, destination, options)])
    alone = part.image is not None
    first = part.image if part.image is not None else part.start or 0
    return decode_pack_file(source, destination, options, first=first, alone=alone)
