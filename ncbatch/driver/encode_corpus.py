"""Encoding a corpus, from the request to the finished run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from ray.exceptions import RayError

from ncbatch import logs, signals
from ncbatch.driver.calibrations import calibrate
from ncbatch.driver.driver import Driver, SpeedEstimate, Work
from ncbatch.driver.lease import Heartbeat, Lease
from ncbatch.driver.limits import EarlierFailures
from ncbatch.driver.options import EncodeOptions
from ncbatch.driver.order_watch import OrderWatch
from ncbatch.driver.pool import Pool
from ncbatch.driver.progress import RunState, Snapshot, announce, end_early, read_status
from ncbatch.driver.second_attempt import second_attempt
from ncbatch.driver.steering import Steering
from ncbatch.errors import RunError, StoppedByPolicyError
from ncbatch.metrics.compactor import Compactor
from ncbatch.metrics.failures import failure_class
from ncbatch.metrics.summary import Summary, summarise
from ncbatch.models.loading import keep_models
from ncbatch.plan import sizing
from ncbatch.plan.changes import Consent
from ncbatch.plan.commits import Commits
from ncbatch.plan.contents import Contents
from ncbatch.plan.corpus import Listing
from ncbatch.plan.image_table import total_pixels
from ncbatch.plan.places import Places
from ncbatch.plan.run import Later, Run, committed_results, list_inputs, open_run, require_images
from ncbatch.plan.scan import Scan
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import Store, StoreError, honours_create_only, open_store
from ncbatch.worker.work_in_progress import discard_all
from ncbatch.worker.worker import WorkerConfig

log = logging.getLogger(__name__)

_AGAIN = "run the same command again"
_OUTAGE_SECONDS = 300.0


def encode_corpus(
    places: Places,
    options: EncodeOptions,
    show: Callable[[Snapshot], None],
    consent: Consent | None = None,
) -> Summary:
    """Encodes a corpus into an output folder, or goes on with it.

    Nothing is written before it is certain that there is something to encode.

    Args:
        places: the corpus and the output.
        options: how it is carried out.
        show: is given a snapshot every so often.
        consent: asked before much of a run is encoded once more because its inputs changed.

    Returns:
        a summary of the run's metrics table.

    Raises:
        NcbatchError: the request cannot be carried out.
        StoppedByPolicyError: going on would have made things worse.
        KeyboardInterrupt: interrupted; by SIGTERM: Terminated.
    """
    output = places.output
    listing = list_inputs(places.asked, places.corpus, options.store, output)
    if places.stored is None:
        require_images(places.asked, listing)
    lease = Lease(output)
    # handled: so that SIGTERM, too, ends with the workers killed and the lease released
    with signals.handled(), logs.about(run=output.uri):
        lease.take(force=options.force)
        state: RunState = "stopped"
        try:
            announce(output, "planning" if places.stored is None else "starting", lease.driver)
            with Heartbeat(lease) as heartbeat:
                spec = _prepared(places, options)
                stopped, images = _drive(spec, places, listing, heartbeat, options, show, consent)
        except RayError as error:
            raise RunError(f"Ray failed: {error}; run the same command again to continue") from error
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            for last_word in (lambda: end_early(output, lease.driver, state), lease.release):
                with contextlib.suppress(StoreError):  # a courtesy, and not what the user has to hear of
                    last_word()
    if stopped:
        advice = "" if _AGAIN in stopped else f"; {_AGAIN} to continue"
        raise StoppedByPolicyError(f"stopped: {stopped}{advice}")
    return finished_summary(output, images, exclusive=spec.create_only)


def finished_summary(output: Store, images: int, *, exclusive: bool | None = None) -> Summary:
    """What a run's table says at its end, of which the exit code is made.

    Args:
        output: the run's folder.
        images: encodings that it should have.
        exclusive: whether it honours create-only puts; None: its `run.json` tells.

    Raises:
        RunError: it has not a row for each of so many encodings.
    """
    summary = summarise(output, exclusive=exclusive)
    if (rows := summary.ok + summary.failed) != images:
        raise RunError(
            f"{output.uri} holds {rows} rows for {images} encodings; run the same command again to continue"
        )
    return summary


def _prepared(places: Places, options: EncodeOptions) -> RunSpec:
    """The spec to work by, with its models in the output: no `run.json` stands without them."""
    output = places.output
    keep_models(output, places.asked.models, options.store)
    if places.stored is not None:
        return places.stored.spec
    create_only = honours_create_only(output)
    if not create_only:
        log.info("%s ignores create-only puts: bitstreams are named by attempt", output.uri)
    return places.asked.model_copy(update={"create_only": create_only})


class _Speeds:
    """What the variants of a run cost on the pool's workers, measured when it is first asked for.

    Args:
        is_new: whether nothing is planned yet, so that all of them are needed.
    """

    def __init__(self, spec: RunSpec, pool: Pool, options: EncodeOptions, *, is_new: bool) -> None:
        self._spec, self._pool, self._options, self._is_new = spec, pool, options, is_new
        self._known: dict[str, float] = {}

    def of(self, units: Sequence[Unit]) -> dict[str, float]:
        """Seconds per pixel of these units' variants."""
        variants = {unit.variant for unit in units}
        self._measure(variants, len(units))
        return {variant: self._known[variant] for variant in variants}

    def _measure(self, variants: Collection[str], workers: int) -> None:
        found = calibrate(self._pool, [name for name in variants if name not in self._known], workers)
        for name, seconds in found.items():
            log.info("%s takes %.2f s per megapixel on a worker", name, seconds * 1e6)
        self._known.update(found)

    def pixels_per_unit(self, variant: str, images: Sequence[PlannedImage]) -> int:
        """How many pixels make a unit of a variant."""
        self._measure([v.name for v in self._spec.variants] if self._is_new else [variant], len(images))
        pixels = total_pixels(images)
        packs = self._spec.variant(variant).recipe.uses_bits_back
        seconds, room = self._known[variant], self._pool.room
        return sizing.pixels_per_unit(pixels, seconds, self._options.unit_seconds, room, packs=packs)


def _drive(
    spec: RunSpec,
    places: Places,
    listing: Listing,
    heartbeat: Heartbeat,
    options: EncodeOptions,
    show: Callable[[Snapshot], None],
    consent: Consent | None,
) -> tuple[str | None, int]:
    """Why the run was stopped, if it was, and how many rows it has when it is finished."""
    output = places.output
    said = read_status(output)
    earlier = said.worker_seconds if said is not None else 0.0
    sick = [one.quarantine for one in said.quarantined] if said is not None else []
    # Measuring and planning count, too.
    steering = Steering(options.budget, OrderWatch(output), earlier=earlier)
    corpus_there, output_there = (_patient(store, options) for store in (places.corpus, output))
    config = WorkerConfig(
        spec, corpus_there, output_there, options.worker,
        threads=options.pool.threads, log_format=logs.in_use(),
    )  # fmt: skip
    with Pool(config, options.pool, options.ray_address) as pool:
        speeds = _Speeds(spec, pool, options, is_new=places.stored is None)
        commits = Commits(output, exclusive=spec.create_only)
        later = Later(options.retry, Contents(places.corpus, output), consent)
        run = open_run(
            spec, listing, output, speeds.pixels_per_unit, later,
            scan=None if options.no_scan else Scan(places.corpus, spec.max_pixels),
            stored=places.stored, commits=commits,
        )  # fmt: skip
        pace = SpeedEstimate(speeds.of(run.pending))

        def again() -> Work | None:
            commits = Commits(output, exclusive=spec.create_only)
            run = second_attempt(listing, output, commits, speeds.pixels_per_unit)
            if run is None:
                return None
            pace.know(speeds.of(run.pending))
            return _work(run, commits)

        compactor = Compactor(output, commits.loose)
        driver = Driver(
            replace(_work(run, commits), sick=sick), output, pool, heartbeat, pace, steering,
            policy=options.policy, deadlines=options.deadlines, show=show,
            again=again, committed=compactor.committed,
        )  # fmt: skip
        with compactor, steering:
            stopped = driver.drive()
        if not stopped:
            discard_all(output)
        return stopped, driver.images


def _patient(store: Store, options: EncodeOptions) -> Store:
    """The store for workers, who wait longer for one that is away: what they have done and not yet written
    would be lost, and no person waits for their answer.
    """
    seconds = max(options.store.retry_seconds, _OUTAGE_SECONDS)
    return open_store(store.uri, replace(options.store, retry_seconds=seconds))


def _work(run: Run, commits: Commits) -> Work:
    with contextlib.closing(commits):
        return Work(run, committed_results(run, commits), failed_before(run, commits))


def failed_before(run: Run, commits: Commits) -> EarlierFailures:
    """How many of the pending images have a row already, which says that they failed."""
    again = {(unit.variant, image.key) for unit in run.pending if unit.generation for image in unit.images}
    if not again:
        return EarlierFailures()
    failed = [row for row in commits.failed_rows() if (row.variant, row.image_key) in again]
    return EarlierFailures(len(failed), sum(failure_class(row.error_class or "").kills for row in failed))
