"""Commands that read a run or a bitstream."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ncbatch.cli.common import open_run, store_options
from ncbatch.cli.console import err, out
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.words import counted

if TYPE_CHECKING:
    from ncbatch.decoding.destination import Destination
    from ncbatch.decoding.run_reader import Finding


def decode(args: argparse.Namespace) -> int:
    suffix = args.source.lower().rpartition(".")[2]
    if (args.start is not None or args.image is not None) and suffix != "ncbp":
        raise UsageError("--from and --image are of packs, single .ncbp files")
    if suffix in ("ncb", "ncbp"):
        return _decode_file(args, pack=suffix == "ncbp")
    if Path(args.source).is_file():
        raise UsageError(f"{args.source} is not a run's output, nor a .ncb or .ncbp file")
    source = open_run(args, args.source)
    destination = _destination(args, one_image=False)
    from ncbatch.decoding.run_reader import RunReader

    reader = RunReader(source, variant=args.variant)
    return report_findings(reader.decode_into(destination), f"decoded into {destination.store.uri}")


def _destination(args: argparse.Namespace, *, one_image: bool) -> Destination:
    from ncbatch.decoding.destination import open_destination

    return open_destination(
        args.destination, store_options(args), one_image=one_image, overwrite=args.overwrite
    )


def _decode_file(args: argparse.Namespace, *, pack: bool) -> int:
    from ncbatch.images.limits import DEFAULT_LIMITS
    from ncbatch.store.objects import require_object

    require_object(args.source, store_options(args))
    alone = args.image is not None
    destination = _destination(args, one_image=alone or not pack)
    from ncbatch.decoding.files import FileOptions, decode_file, decode_pack_file

    options = FileOptions(store_options(args), args.model, args.max_pixels or DEFAULT_LIMITS.max_pixels)
    if pack:
        first = args.image if alone else args.start or 0
        names = decode_pack_file(args.source, destination, options, first=first, alone=alone)
    else:
        names = iter([decode_file(args.source, destination, options)])
    for name in names:
        out.print(f"decoded into {destination.store.uri}{name}")
    return 0


def report_findings(findings: Iterable[Finding], success: str) -> int:
    """Prints what is wrong, and how much is not; returns an exit code."""
    fine = wrong = 0
    for finding in findings:
        if finding.problem is None:
            fine += 1
        else:
            wrong += 1
            err.print(f"{finding.image_key} ({finding.variant}): {finding.problem}")
    with contextlib.suppress(BrokenPipeError):  # the exit code is what was found, whoever reads
        others = f"; {wrong} {'is' if wrong == 1 else 'are'} not" if wrong else ""
        out.print(f"{fine} image{'' if fine == 1 else 's'} {success}{others}")
    return ExitCode.FAILED if wrong else ExitCode.OK


def compact(args: argparse.Namespace) -> int:
    output = open_run(args, args.output)
    from ncbatch.metrics.compact import compact as run_compact

    result = run_compact(output)
    rows, units, parts = (counted(getattr(result, noun), noun) for noun in ("rows", "units", "parts"))
    out.print(f"metrics/ has {rows} of {units} in {parts}")
    return 0
