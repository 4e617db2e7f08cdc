"""What a run would be: `--dry-run` of the commands that encode. Nothing is written."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ncbatch.cli.console import out, print_table
from ncbatch.exit_codes import ExitCode
from ncbatch.words import cost, counted, duration, money, size

if TYPE_CHECKING:
    from ncbatch.driver.options import EncodeOptions
    from ncbatch.plan.generations import Wanted
    from ncbatch.plan.outlook import Outlook
    from ncbatch.plan.spec import RunSpec

log = logging.getLogger(__name__)


def print_plan(spec: RunSpec, output_uri: str, options: EncodeOptions) -> ExitCode:
    """Images, units, time, cost and size of a run, by a calibration of a few steps on this machine."""
    from ncbatch.plan.places import check_programs, open_places

    places = open_places(spec, output_uri, options.store)
    check_programs(spec)
    import torch  # takes seconds; what is wrong with the request has been told before

    from ncbatch.codec.allocator import keep_freed_memory
    from ncbatch.plan.outlook import outlook
    from ncbatch.plan.run import list_inputs, require_images
    from ncbatch.plan.scan import Scan
    from ncbatch.plan.sizing import local_workers, wall_seconds
    from ncbatch.worker.calibration import estimate

    torch.set_num_threads(options.pool.threads)  # as a worker does
    keep_freed_memory()
    listing = list_inputs(spec, places.corpus, options.store, places.output)
    wanted: Wanted = {variant.name: listing.images for variant in spec.variants}
    if places.stored is None:
        require_images(spec, listing)
    else:
        found = outlook(places.stored, listing.images, places.corpus, places.output, options.retry)
        _print_outlook(found)
        wanted = {variant: images for variant, images in found.wanted.items() if images}
        if not wanted:
            return ExitCode.OK
    pool = options.pool
    workers = local_workers(pool.workers, pool.cpus, pool.gpus, torch.cuda.device_count())
    if not options.no_scan:
        wanted = Scan(places.corpus, spec.max_pixels).of(wanted)
    log.info("calibrating %s on this machine", counted(len(wanted), "variants"))
    estimates = estimate(spec, wanted, places.corpus, options.store, options.unit_seconds, workers)
    rows = [(e.variant, e.images, len(e.units), _time(e.device_seconds), size(e.bytes)) for e in estimates]
    print_table(("variant", "images", "units", "device time", "output"), rows)
    device = sum(e.device_seconds for e in estimates)
    wall = wall_seconds(
        [u for e in estimates for u in e.units], {e.variant: e.seconds_per_pixel for e in estimates}, workers
    )
    out.print(
        f"in all {_time(device)} of device time, {_time(wall)} with {counted(workers, 'workers')} like this "
        f"machine, {size(sum(e.bytes for e in estimates))} of output"
    )
    print_cost(wall * workers, options.budget.price_per_hour)
    return ExitCode.OK


def _print_outlook(found: Outlook) -> None:
    """What is left of a run that stands, in encodings."""
    changes, variants = found.again.changes, len(found.wanted)
    counts = (
        (found.pending + sum(map(len, found.again.unfinished.values())), "pending"),
        (changes.new * variants, "new"),
        (changes.changed * variants, "changed"),
        (found.retried, "failed and tried again"),
    )
    to_do = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing"
    out.print(f"{found.done} of {counted(found.encodings, 'encodings')} done; left to do: {to_do}")
    if found.failed:
        classes = ", ".join(f"{count} {name}" for name, count in found.failed.items())
        out.print(f"failed rows that stay unless --retry-failed is given: {classes}")
    if found.superseded:
        out.print(f"superseded by later versions of their inputs, and never done: {found.superseded}")
    if changes.same:
        out.print(f"inputs whose etag changed and whose bytes did not: {len(changes.same)}")


def print_cost(worker_seconds: float, price_per_hour: float | None) -> None:
    """What it costs to have workers for so long, where their price is known."""
    if price_per_hour is not None:
        out.print(
            f"cost: {money(cost(worker_seconds, price_per_hour))}, at {price_per_hour:g} per device hour"
        )


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "less than 1 s"
