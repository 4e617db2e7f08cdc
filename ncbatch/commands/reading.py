"""Commands that read a run or a bitstream."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ncbatch.commands.common import open_run, store_options
from ncbatch.console import duration, err, out, size
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode

if TYPE_CHECKING:
    from ncbatch.metrics.summary import Summary
    from ncbatch.runs.destination import Destination
    from ncbatch.runs.reading import Finding


def status(args: argparse.Namespace) -> int:
    from ncbatch.codec.recipe import Recipe

    output = open_run(args, args.output)
    from ncbatch.runs.status import run_status

    run = run_status(output)
    summary, snapshot = run.summary, run.snapshot
    if args.json:
        content = {
            "images": run.images,
            "ok": summary.ok,
            "failed": summary.failed,
            "pending": run.pending,
            "units": run.units,
            "committed_units": run.committed_units,
            "mean_bpp": summary.mean_bpp,
            "mean_psnr": summary.mean_psnr,
            "driver": run.holder,
            "snapshot": snapshot.model_dump(mode="json") if snapshot else None,
        }
        out.print_json(json.dumps(content))
        return 0
    for variant in run.spec.variants:
        recipe = variant.recipe
        if isinstance(recipe, Recipe):
            what = f"{variant.model}, {recipe.method}, lmbda {recipe.lmbda:g}, {recipe.steps} steps"
        else:
            what = f"{recipe.method}, quality {recipe.quality}"
        out.print(f"variant {variant.name}: {what}")
    out.print(f"corpus {run.spec.corpus}: {run.images} images in {run.units} units")
    out.print(f"{run.pending} pending; {run.committed_units} units are committed")
    print_summary(summary)
    if run.holder:
        out.print(f"driver: {run.holder}")
    if snapshot:
        ago = duration((datetime.now(timezone.utc) - snapshot.updated_at).total_seconds())
        eta = f", ETA {duration(snapshot.eta_seconds)}" if run.pending and snapshot.eta_seconds else ""
        out.print(f"the driver's last word, {ago} ago: {snapshot.state}, {snapshot.workers} workers{eta}")
    return 0


def print_summary(summary: Summary) -> None:
    line = f"{summary.ok} images ok, {summary.failed} failed"
    if summary.mean_bpp is not None:
        psnr = f", {summary.mean_psnr:.2f} dB" if summary.mean_psnr is not None else ""
        line += f"; mean {summary.mean_bpp:.3f} bpp{psnr}"
        line += f"; {size(summary.image_bytes)} became {size(summary.bitstream_bytes)}"
    out.print(line)


def decode(args: argparse.Namespace) -> int:
    suffix = args.source.lower().rpartition(".")[2]
    if (args.start is not None or args.picture is not None) and suffix != "ncbp":
        raise UsageError("--from and --picture are of packs, single .ncbp files")
    if suffix in ("ncb", "ncbp"):
        return _decode_file(args, pack=suffix == "ncbp")
    source = open_run(args, args.source)
    destination = _destination(args, one_image=False)
    from ncbatch.runs.reading import RunReader

    reader = RunReader(source, variant=args.variant)
    return report_findings(reader.decode_into(destination), f"decoded into {destination.store.uri}")


def _destination(args: argparse.Namespace, *, one_image: bool) -> Destination:
    from ncbatch.runs.destination import open_destination

    return open_destination(
        args.destination, store_options(args), one_image=one_image, overwrite=args.overwrite
    )


def _decode_file(args: argparse.Namespace, *, pack: bool) -> int:
    from ncbatch.codec.limits import DEFAULT_LIMITS
    from ncbatch.runs.objects import require_object

    require_object(args.source, store_options(args))
    alone = args.picture is not None
    destination = _destination(args, one_image=alone or not pack)
    from ncbatch.runs.files import FileOptions, decode_file, decode_pack_file

    options = FileOptions(store_options(args), args.model, args.max_pixels or DEFAULT_LIMITS.max_pixels)
    if pack:
        first = args.picture if alone else args.start or 0
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
        out.print(f"{fine} pictures {success}" + (f"; {wrong} are not" if wrong else ""))
    return ExitCode.FAILED if wrong else ExitCode.OK


def compact(args: argparse.Namespace) -> int:
    output = open_run(args, args.output)
    from ncbatch.metrics.compact import compact as run_compact

    result = run_compact(output)
    out.print(f"metrics/ has {result.rows} rows of {result.units} units in {result.parts} parts")
    return 0
