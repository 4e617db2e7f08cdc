"""What a run would be: `--dry-run` of the commands that encode. Nothing is written."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ncbatch.cli.common import open_run_store
from ncbatch.cli.console import out, print_table
from ncbatch.exit_codes import ExitCode
from ncbatch.store import open_store
from ncbatch.words import duration, size

if TYPE_CHECKING:
    from ncbatch.driver.options import EncodeOptions
    from ncbatch.plan.spec import RunSpec

log = logging.getLogger(__name__)


def print_plan(spec: RunSpec, output_uri: str, options: EncodeOptions, price: float | None) -> ExitCode:
    """Images, units, time, cost and size of a run, by a calibration of a few steps on this machine."""
    from ncbatch.plan.places import check_new_output, check_programs
    from ncbatch.plan.spec import stored_spec

    corpus = open_run_store(spec.corpus, options.store)
    output = open_store(output_uri, options.store, create=True)
    if stored_spec(output) is None:
        check_new_output(output, corpus, options.store)
    check_programs(spec)
    import torch  # takes seconds; what is wrong with the request has been told before

    from ncbatch.codec.allocator import keep_freed_memory
    from ncbatch.plan.run import list_inputs, require_images
    from ncbatch.plan.sizing import local_workers, wall_seconds
    from ncbatch.worker.calibration import estimate

    torch.set_num_threads(options.pool.threads)  # as a worker does
    keep_freed_memory()
    listing = list_inputs(spec, corpus, options.store, output)
    require_images(spec, listing)
    pool = options.pool
    workers = local_workers(pool.workers, pool.cpus, pool.gpus, torch.cuda.device_count())
    count = len(spec.variants)
    log.info("calibrating %d variant%s on this machine", count, "" if count == 1 else "s")
    found = estimate(spec, listing.images, corpus, options.store, options.unit_seconds, workers)
    rows = [(e.variant, e.images, len(e.units), _time(e.device_seconds), size(e.bytes)) for e in found]
    print_table(("variant", "images", "units", "device time", "output"), rows)
    device = sum(e.device_seconds for e in found)
    wall = wall_seconds(
        [u for e in found for u in e.units], {e.variant: e.seconds_per_pixel for e in found}, workers
    )
    who = "1 worker" if workers == 1 else f"{workers} workers"
    out.print(
        f"in all {_time(device)} of device time, {_time(wall)} with {who} like this machine, "
        f"{size(sum(e.bytes for e in found))} of output"
    )
    print_cost(device, price)
    return ExitCode.OK


def print_cost(device_seconds: float, price_per_hour: float | None) -> None:
    """What some device time costs, where its price is known."""
    if price_per_hour is not None:
        cost = device_seconds / 3600 * price_per_hour
        told = f"{cost:,.2f}" if cost >= 0.01 else "less than 0.01"
        out.print(f"cost: {told}, at {price_per_hour:g} per device hour")


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "less than 1 s"
