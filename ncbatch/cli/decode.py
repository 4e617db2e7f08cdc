"""The command that makes images of bitstreams again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ncbatch.cli.common import Json, open_run
from ncbatch.cli.console import out
from ncbatch.cli.findings import (
    Found,
    OnACluster,
    SampleOf,
    check_and_show,
    check_options,
    findings_as_json,
    report_findings,
)
from ncbatch.cli.flags import command
from ncbatch.decoding.options import FileOptions, PackPart
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting

if TYPE_CHECKING:
    from ncbatch.decoding.destination import Destination
    from ncbatch.decoding.sample import Sample
    from ncbatch.driver.options import CheckOptions
    from ncbatch.store import Store


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
    sample: SampleOf = None,
    output_format: Annotated[Literal["files", "tar"], Setting(
        "what the images of a run are written as: files, one for each; or tar, one for some 256 MB of PNGs, "
        "which webdataset reads",
    )] = "files",
    part: PackPart,
    cluster: OnACluster,
    options: FileOptions,
) -> ExitCode:  # fmt: skip
    """Decodes a run, or a single file."""
    _refuse_contradictions(source, part, sample, cluster)
    if output_format == "tar" and _suffix(source) in ("ncb", "ncbp"):
        raise UsageError("--output-format tar is of runs, not of single files")
    if _suffix(source) in ("ncb", "ncbp"):
        return _decode_alone(source, destination, part, options, overwrite=overwrite, json=json)
    if Path(source).is_file():
        raise UsageError(f"{source} is not a run's output, nor a .ncb or .ncbp file")
    run = open_run(source, options.store)
    from ncbatch.decoding.destination import TAR_BYTES, open_destination

    into = open_destination(destination, options.store, one_image=False, overwrite=overwrite)
    if output_format == "tar":
        into = replace(into, tar_bytes=TAR_BYTES)
    if cluster.ray_address is None:
        found = _decoded_here(run, into, variant, sample)
    else:
        from ncbatch.decoding.check_plan import Scope

        scope = Scope(
            kind="decode",
            variant=variant,
            sample=sample.text if sample else None,
            destination=into.store.uri,
            overwrite=overwrite,
            output_format=output_format,
        )
        found = check_and_show(run, scope, cluster, options.store, into)
    if json:
        return findings_as_json(found, "decoded", {"destination": into.store.uri})
    return report_findings(found, f"decoded into {into.store.uri}")


def _suffix(source: str) -> str:
    return source.lower().rpartition(".")[2]


def _refuse_contradictions(source: str, part: PackPart, sample: Sample | None, cluster: CheckOptions) -> None:
    """Raises UsageError: flags that do not go together, or not with what is to be decoded."""
    suffix = _suffix(source)
    if part.start is not None and part.image is not None:
        raise UsageError("argument --image: not allowed with argument --from; give one of them")
    if (part.start is not None or part.image is not None) and suffix != "ncbp":
        raise UsageError("--from and --image are of packs, single .ncbp files")
    check_options(cluster)
    if suffix in ("ncb", "ncbp") and (sample is not None or cluster.ray_address is not None):
        raise UsageError("--sample and --ray-address are of runs, not of single files")


def _decode_alone(
    source: str, destination: str, part: PackPart, options: FileOptions, *, overwrite: bool, json: bool
) -> ExitCode:
    """Decodes a single file; a pack is several images."""
    from ncbatch.store.objects import require_object

    is_pack = _suffix(source) == "ncbp"
    require_object(source, options.store)
    from ncbatch.decoding.destination import open_destination

    one = not is_pack or part.image is not None
    into = open_destination(destination, options.store, one_image=one, overwrite=overwrite)
    files = []
    for name in _decode_file(source, into, options, part if is_pack else None):
        files.append(into.store.uri + name)
        if not json:
            out.print(f"decoded into {files[-1]}")
    if json:
        out.print_json(data={"decoded": len(files), "files": files, "problems": []})
    return ExitCode.OK


def _decoded_here(run: Store, into: Destination, variant: str | None, sample: Sample | None) -> Found:
    from ncbatch.decoding.chosen_rows import read_rows
    from ncbatch.decoding.run_reader import RunReader

    rows = None if sample is None else read_rows(run, variant, sample)
    return Found(RunReader(run, variant=variant, rows=rows).decode_into(into))


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
