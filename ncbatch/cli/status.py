"""The command that tells how much of a run is done, and the summary that ends one."""

from __future__ import annotations

import json
import shlex
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

from ncbatch.cli.common import Json, Run, Storage, open_run_store, store_words
from ncbatch.cli.console import out, print_table
from ncbatch.cli.flags import command
from ncbatch.errors import Terminated
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Price, Setting, positive_float
from ncbatch.words import cost, counted, duration, money, size

if TYPE_CHECKING:
    from ncbatch.driver.progress import Snapshot
    from ncbatch.driver.standing import Standing
    from ncbatch.metrics.summary import Summary
    from ncbatch.plan.status import RunStatus
    from ncbatch.store import Store

_CURRENT = ("running", "finishing", "finished")
"""What a driver says in these states is all that is committed."""

_OVER = ("finished", "interrupted", "stopped", "lost", "planned")


def _seconds(text: str) -> float:
    return positive_float(text or "5")


@command
def status(
    run: Run,
    /,
    *,
    json: Json = False,
    watch: Annotated[float | None, Setting(
        "print it again every so many seconds (5 where no number is given) until the run is over",
        "[SECONDS]", _seconds, default="once",
    )] = None,
    price_per_hour: Price = None,
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Tells how much of a run is done, once or until it is over."""
    output = open_run_store(run, store)
    failures = shlex.join(["ncbatch", "failures", run, *store_words(store)])
    try:
        while True:
            state = _show(output, failures, price_per_hour, as_json=json)
            if watch is None or state in _OVER:
                return ExitCode.OK
            time.sleep(watch)
            if out.is_terminal and not json:
                out.clear()
    except KeyboardInterrupt as interrupt:
        if watch is None or isinstance(interrupt, Terminated):
            raise
        return ExitCode.OK  # who watches has seen enough


def _show(output: Store, failures: str, price: float | None, *, as_json: bool) -> str:
    """Prints the status once; returns the run's state. failures: the command that tells of failed rows."""
    from ncbatch.driver.lease import read_lease
    from ncbatch.driver.progress import read_status
    from ncbatch.driver.standing import standing, with_pending
    from ncbatch.plan.spec import find_run, read_run

    snapshot, lease = read_status(output), read_lease(output)
    told = standing(snapshot, lease, datetime.now(timezone.utc))
    holder = lease.holder if lease else None
    stored = find_run(output)
    if stored is None and told.state != "planned":
        if as_json:
            out.print_json(json.dumps({"state": told.state, "driver": holder}))
        else:
            _print_state(told, snapshot, holder, price)
        return told.state
    spec = (stored or read_run(output)).spec
    from ncbatch.driver.told_status import told_status
    from ncbatch.plan.status import run_status

    run = told_status(output, spec, snapshot) if snapshot and told.state in _CURRENT else None
    run = run or run_status(output)
    told = with_pending(told, run.pending)
    if as_json:
        content: dict[str, Any] = {"state": told.state, "driver": holder} | _content(run)
        if price is not None and snapshot is not None:
            content["cost"] = cost(snapshot.worker_seconds, price)
        content["snapshot"] = snapshot.model_dump(mode="json") if snapshot else None
        out.print_json(json.dumps(content))
        return told.state
    _print_run(run)
    if run.summary.failed:
        out.print(
            f"`{failures}` says what can be done about failed rows; "
            "the same encode command with --retry-failed tries them again"
        )
    _print_state(told, snapshot, holder, price)
    return told.state


def _content(run: RunStatus) -> dict[str, Any]:
    return {
        "images": run.images,
        "pending": run.pending,
        "units": run.units,
        "committed_units": run.committed_units,
    } | summary_content(run.summary)


def _print_run(run: RunStatus) -> None:
    from ncbatch.codec.recipe import LearnedRecipe, RefinedRecipe

    for variant in run.spec.variants:
        recipe = variant.recipe
        if isinstance(recipe, LearnedRecipe):
            target = recipe.target if isinstance(recipe, RefinedRecipe) else None
            rate = f"target {target.shown(target.value)}" if target else f"lmbda {recipe.lmbda:g}"
            model = variant.model or f"one of {len(variant.ladder)} models"
            what = f"{model}, {recipe.method}, {rate}, {recipe.steps} steps"
        else:
            what = f"{recipe.method}, quality {recipe.quality}"
        out.print(f"variant {variant.name}: {what}")
    several = len(run.spec.variants) > 1
    images = counted(run.images, "encodings" if several else "images")
    if several:
        images = f"{counted(run.inputs, 'images')} under {len(run.spec.variants)} variants: {images}"
    out.print(f"corpus {run.spec.corpus}: {images} in {counted(run.units, 'units')}")
    out.print(f"{run.pending} pending; {counted(run.committed_units, 'units')} committed")
    print_summary(run.summary, several=several)


def _print_state(told: Standing, snapshot: Snapshot | None, holder: str | None, price: float | None) -> None:
    line: str = told.state
    if told.explanation:
        line += f": {told.explanation}"
    if snapshot is not None and told.state in ("running", "finishing"):
        if snapshot.fraction is not None:
            line += f", {int(100 * snapshot.fraction)} %"
        if snapshot.time_left is not None:
            line += f", ETA {duration(snapshot.time_left)}"
        line += f", {counted(snapshot.workers, 'workers')}"
    out.print(line)
    for kept in snapshot.quarantined if snapshot is not None and not snapshot.is_over else ():
        after = counted(kept.failures, "failures")
        out.print(f"kept from work: {kept.name}, after {after} (last: {kept.reason})")
    if snapshot is not None and price is not None:
        out.print(cost_words(snapshot, price))
    if holder:
        out.print(f"driver: {holder}")
    if snapshot is not None:
        ago = duration(max((datetime.now(timezone.utc) - snapshot.updated_at).total_seconds(), 0))
        out.print(f"last update {ago} ago")


def cost_words(snapshot: Snapshot, price_per_hour: float) -> str:
    """What a run's workers have cost, and what the rest costs at the pace of the present ones."""
    paid = snapshot.worker_seconds
    words = f"cost so far: {money(cost(paid, price_per_hour))}"
    if snapshot.time_left is not None and snapshot.workers:
        whole = paid + snapshot.time_left * snapshot.workers
        words += f", {money(cost(whole, price_per_hour))} when all is done"
    return f"{words}, at {price_per_hour:g} per device hour"


def summary_content(summary: Summary) -> dict[str, Any]:
    """A summary for programs; means only where they are of one variant."""
    content: dict[str, Any] = {
        "ok": summary.ok,
        "failed": summary.failed,
        "mean_bpp": summary.mean_bpp,
        "mean_psnr": summary.mean_psnr,
        "image_bytes": summary.image_bytes,
        "bitstream_bytes": summary.bitstream_bytes,
    }
    if summary.variants:
        content |= {"mean_bpp": None, "mean_psnr": None}
        content["variants"] = {name: summary_content(one) for name, one in summary.variants.items()}
    return content


def print_summary(summary: Summary, *, several: bool) -> None:
    """A line; of several variants one row for each, since a mean over them means nothing."""
    noun = "encodings" if several else "images"
    line = f"{counted(summary.ok, noun)} ok, {summary.failed} failed"
    if summary.variants:
        out.print(line)
        rows = [
            (name, s.ok, s.failed, s.mean_bpp, s.mean_psnr, size(s.image_bytes), size(s.bitstream_bytes))
            for name, s in summary.variants.items()
        ]
        print_table(("variant", "ok", "failed", "mean bpp", "mean PSNR dB", "images", "encoded"), rows)
        return
    if summary.mean_bpp is not None:
        psnr = f", {summary.mean_psnr:.2f} dB" if summary.mean_psnr is not None else ""
        line += f"; mean {summary.mean_bpp:.3f} bpp{psnr}"
        line += f"; {size(summary.image_bytes)} became {size(summary.bitstream_bytes)}"
    out.print(line)
