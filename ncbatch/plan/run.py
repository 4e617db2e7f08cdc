"""Opening a run: a new one is planned, a known one is checked, extended by new inputs, and resumed."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version

from ncbatch import __version__, layout
from ncbatch.errors import UsageError
from ncbatch.metrics.unit_result import UnitResult
from ncbatch.plan.changes import Consent, look_again
from ncbatch.plan.commits import Commits, committed_units
from ncbatch.plan.contents import Contents
from ncbatch.plan.corpus import SUFFIXES, Listing, list_corpus, read_manifest
from ncbatch.plan.generations import (
    PixelsPerUnit,
    Wanted,
    cut,
    extend,
    standing_units,
    without_superseded,
)
from ncbatch.plan.plan_files import write_plan
from ncbatch.plan.remembered import filled_in
from ncbatch.plan.retry import Retry
from ncbatch.plan.scan import Scan
from ncbatch.plan.shards import Shards
from ncbatch.plan.spec import RunFile, RunSpec, check_same, read_run
from ncbatch.plan.units import Unit
from ncbatch.store import Store, StoreOptions
from ncbatch.words import are

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A planned run as it stands in its output folder.

    units: with the newest generation of every image only, so each image is in one unit of each variant. What
        is superseded is neither done nor counted: an older version of an input could only fail as changed.
    """

    spec: RunSpec
    units: tuple[Unit, ...]
    committed: frozenset[str]

    @property
    def pending(self) -> list[Unit]:
        """The units that are not committed."""
        return [unit for unit in self.units if unit.id not in self.committed]


@dataclass(frozen=True)
class Later:
    """What becomes of a run that was planned before.

    retry: which failed rows are tried again; None: none.
    contents: compares the bytes of inputs whose etags differ; None: those are other inputs.
    consent: asked before much of the run is encoded once more because its inputs changed.
    """

    retry: Retry | None = None
    contents: Contents | None = None
    consent: Consent | None = None


def open_run(
    spec: RunSpec,
    listing: Listing,
    output: Store,
    pixels_per_unit: PixelsPerUnit,
    later: Later = Later(),
    *,
    scan: Scan | None = None,
    stored: RunFile | None = None,
    commits: Commits | None = None,
) -> Run:
    """Plans a new run of the inputs listed, or resumes the one that stands in `output`.

    Inputs that are new or changed since the last plan become a new generation of it, and so do failed rows
    that are to be tried again, unless they are planned again already.

    Args:
        later: What becomes of a run that was planned before.
        scan: Finds the sizes of images that are planned; None: they are guessed, where nobody told.
        stored: The run that stands in `output`, as `find_run` found it; None where it found none.
        commits: Of this output; for a caller who asks more of them.

    Raises:
        UsageError: there is nothing to encode.
        SpecMismatchError: another run stands there.
    """
    commits = commits or Commits(output)
    if stored is None:
        _plan_first(spec, listing, output, pixels_per_unit, scan)
        stored = read_run(output)  # another driver may have been first
        check_same(stored.spec, spec, output.uri)
    units = extend(
        stored, output, _later_generation(stored.spec, listing, commits, later, scan), pixels_per_unit
    )
    return Run(stored.spec, tuple(without_superseded(units)), commits.units)


def list_inputs(spec: RunSpec, corpus: Store, options: StoreOptions, output: Store) -> Listing:
    """The images of the corpus, or those that the manifest names; logs what was left out."""
    if spec.manifest:
        listing = read_manifest(spec.manifest, corpus, options, lambda rows: filled_in(rows, output))
    else:
        shards = Shards(corpus, SUFFIXES, output)
        listing = list_corpus(corpus, spec.include, spec.exclude, output, shards)
    if listing.images:  # otherwise the error says it all
        for note in listing.notes():
            log.info("%s", note)
    return listing


def require_images(spec: RunSpec, listing: Listing) -> None:
    """Raises UsageError where there is nothing to encode."""
    if listing.images:
        return
    notes = ", ".join(listing.notes())
    if spec.include and not spec.manifest:
        patterns = " ".join(f"--include {shlex.quote(pattern)}" for pattern in spec.include)
        what = f"nothing in {spec.corpus} matches {patterns}"
        fix = "a pattern is compared with the whole key, such as 2024/a.png, and its case counts"
    else:
        what = f"{spec.corpus} holds no images"
        fix = "check the path, or name them with --include '*.ext'"
    raise UsageError(f"{what} ({notes}); {fix}" if notes else f"{what}; {fix}")


def load_run(output: Store) -> Run:
    """The run in `output` as it stands, without touching it."""
    stored = read_run(output)
    return Run(stored.spec, tuple(standing_units(stored, output)), committed_units(output))


def committed_results(run: Run, commits: Commits) -> dict[str, UnitResult]:
    """What the committed units of a run hold, by unit."""
    # An image that changed has a row of its old version until the new one is done: it is pending again.
    again = {(unit.variant, image.key) for unit in run.pending if unit.generation for image in unit.images}
    return commits.results(run.committed & {unit.id for unit in run.units}, again)


def _plan_first(
    spec: RunSpec, listing: Listing, output: Store, pixels_per_unit: PixelsPerUnit, scan: Scan | None
) -> None:
    require_images(spec, listing)
    images, variants = len(listing.images), len(spec.variants)
    log.info("planning %d encodings: %d images of %s", images * variants, images, spec.corpus)
    wanted: Wanted = {variant.name: listing.images for variant in spec.variants}
    units = cut(spec, scan.of(wanted) if scan else wanted, 0, pixels_per_unit)
    content = RunFile(
        spec=spec,
        digest=spec.digest,
        plan=write_plan(output, units, 0),
        ncbatch_version=__version__,
        torch_version=version("torch"),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    output.put_if_absent(layout.RUN, content.model_dump_json(indent=1).encode())


def _later_generation(
    spec: RunSpec, listing: Listing, commits: Commits, later: Later, scan: Scan | None
) -> Callable[[Sequence[Unit]], Wanted]:
    """What is planned beside a plan that stands."""
    failed = commits.failed_rows(later.retry.classes) if later.retry else []
    variants = [variant.name for variant in spec.variants]

    def wanted(units: Sequence[Unit]) -> Wanted:
        again = look_again(units, listing.images, commits, len(variants), later.contents, failed)
        found = again.changes
        if found.due:
            log.info("%s new or changed", are(len(found.due), "inputs"))
        if found.same:
            log.info("inputs with another etag and the same bytes: %d", len(found.same))
        if later.retry:
            log.info("failed rows that are tried again: %d", sum(map(len, again.retried.values())))
        if again.gone:
            log.warning("%d failed rows cannot be tried again: their inputs are no longer there", again.gone)
        if later.consent is not None and again.is_much:
            later.consent(again)
        images = again.wanted(variants)
        return scan.of(images) if scan else images

    return wanted
