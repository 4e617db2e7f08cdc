"""Verifying and decoding a run on a cluster: its rows as units that are dealt, committed and resumed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ray.exceptions import RayError

from ncbatch import layout, logs, signals
from ncbatch.decoding.check_plan import (
    Check,
    Cutting,
    Scope,
    check_columns,
    next_name,
    open_checks,
    plan_check,
    read_check,
)
from ncbatch.decoding.check_unit import CheckTask
from ncbatch.decoding.chosen_rows import check_variant, chosen_rows
from ncbatch.decoding.decoded_names import image_names
from ncbatch.decoding.destination import Destination
from ncbatch.decoding.sample import sample_of
from ncbatch.driver.budget import Budget
from ncbatch.driver.checker import Checker, CheckerConfig
from ncbatch.driver.driver import Driver, SpeedEstimate, Work
from ncbatch.driver.lease import Heartbeat, Lease
from ncbatch.driver.limits import Policy
from ncbatch.driver.options import CheckOptions, Deadlines
from ncbatch.driver.order_watch import OrderWatch
from ncbatch.driver.pool import Pool
from ncbatch.driver.progress import Snapshot
from ncbatch.driver.steering import Steering
from ncbatch.errors import RunError, StoppedByPolicyError
from ncbatch.metrics.findings import (
    DoneCheck,
    FindingRow,
    counted,
    merge_findings,
    problems_found,
    read_commits,
)
from ncbatch.metrics.query import OpenTable, open_table
from ncbatch.metrics.unit_commits import list_units
from ncbatch.plan import sizing
from ncbatch.plan.run import Run
from ncbatch.plan.spec import RunSpec, read_run
from ncbatch.store import Store, StoreError, StoreOptions, join_uri, open_store
from ncbatch.worker.options import WorkerOptions

log = logging.getLogger(__name__)

_SECONDS_PER_PIXEL, _OF_PACKS = 2e-6, 1e-3
"""Of decoding, before anything was measured; the images of a pack repeat an inference."""
_UNIT_SECONDS = 300.0


@dataclass(frozen=True)
class Checked:
    """What a finished check found. name: of the check; output: the run's folder."""

    name: str
    output: Store
    done: DoneCheck

    def problems(self) -> Iterator[FindingRow]:
        """The rows with a problem."""
        return problems_found(self.output, self.name, self.done)


def check_run(
    output: Store,
    scope: Scope,
    options: CheckOptions,
    store: StoreOptions,
    show: Callable[[Snapshot], None],
    destination: Destination | None = None,
) -> Checked:
    """Verifies or decodes the rows of a run on a cluster, or goes on with a check of the same scope.

    Args:
        output: the run's folder.
        scope: what is looked at.
        options: how it is carried out.
        store: how to reach an S3 server.
        show: is given a snapshot every so often.
        destination: where decoded images go.

    Raises:
        NcbatchError: the check cannot be carried out.
        StoppedByPolicyError: going on would have made things worse.
        KeyboardInterrupt: interrupted; by SIGTERM: Terminated.
    """
    spec = read_run(output).spec
    check_variant(spec, scope.variant)
    if destination is not None:
        destination.store.check()  # before any worker is kept from work for what the user named
    found = None if options.anew else _unfinished(output, scope)
    name = found or next_name(output, scope.kind)
    work = open_store(join_uri(output.uri, layout.checking_prefix(name)), store, create=True)
    task = CheckTask(name, output, work, destination)
    config = CheckerConfig(
        spec, output, output, WorkerOptions(),
        threads=options.pool.threads, log_format=logs.in_use(), task=task,
    )  # fmt: skip
    lease = Lease(work)
    with signals.handled(), logs.about(run=output.uri):
        lease.take(force=options.force)
        try:
            with (
                Heartbeat(lease) as heartbeat,
                Pool(config, options.pool, options.ray_address, Checker) as pool,
            ):
                check = _opened(task, scope, spec, pool) if found is None else _resumed(task)
                stopped = _drive(check, spec, pool, heartbeat, show)
        except RayError as error:
            raise RunError(f"Ray failed: {error}; run the same command again to continue") from error
        finally:
            with contextlib.suppress(StoreError):  # a courtesy, and not what the user has to hear of
                lease.release()
    if stopped:
        raise StoppedByPolicyError(f"stopped: {stopped}; run the same command again to continue")
    return Checked(name, output, merge_findings(output, work, name, [unit.id for unit in check.units()]))


def _unfinished(output: Store, scope: Scope) -> str | None:
    """The newest check of this scope that is not finished."""
    names = [name for name in open_checks(output) if read_check(output, name).scope == scope]
    return max(names, default=None)


def _resumed(task: CheckTask) -> Check:
    file = read_check(task.output, task.name)
    log.info("going on with %s, which was begun at %s; --anew begins another one", task.name, file.created_at)
    return Check(task.name, file, task.work)


def _opened(task: CheckTask, scope: Scope, spec: RunSpec, pool: Pool) -> Check:
    pool.start()  # units are cut by how many workers there are
    sample = sample_of(scope.sample) if scope.sample is not None else None
    with open_table(task.output) as table:
        sql = chosen_rows(table, check_columns(), scope.variant, sample, task.name)
        cutting = Cutting(
            {name: _unit_pixels(spec, name, pixels, pool) for name, pixels in _sizes(table, sql).items()},
            frozenset(variant.name for variant in spec.variants if variant.recipe.uses_bits_back),
            _names(table, spec, scope, task.destination),
        )
        check = plan_check(task.output, task.name, task.work, scope, table, sql, cutting)
    if check is None:
        raise RunError(f"{task.name} was begun by another command at this moment; run this one again")
    return check


def _sizes(table: OpenTable, sql: str) -> dict[str, int]:
    """Pixels by variant."""
    sums = "select variant, cast(sum(width * height) as bigint) as pixels"
    found = table.query(f"{sums} from ({sql}) group by variant")
    return dict(zip(found["variant"].to_pylist(), found["pixels"].to_pylist(), strict=True))


def _seconds_per_pixel(spec: RunSpec, variant: str) -> float:
    return _OF_PACKS if spec.variant(variant).recipe.uses_bits_back else _SECONDS_PER_PIXEL


def _unit_pixels(spec: RunSpec, variant: str, pixels: int, pool: Pool) -> int:
    seconds = _seconds_per_pixel(spec, variant)
    return sizing.pixels_per_unit(pixels, seconds, _UNIT_SECONDS, pool.room, packs=False)


def _names(
    table: OpenTable, spec: RunSpec, scope: Scope, destination: Destination | None
) -> Callable[[str, str], str] | None:
    """The names of all images that the run could decode, so that a part of them has the same ones."""
    if destination is None:
        return None
    sql = chosen_rows(table, "distinct image_key", scope.variant, None, "")
    several = len(spec.variants) > 1 and scope.variant is None
    return image_names(table.query(sql)["image_key"].to_pylist(), destination, several=several)


def _drive(
    check: Check, spec: RunSpec, pool: Pool, heartbeat: Heartbeat, show: Callable[[Snapshot], None]
) -> str | None:
    """Why it was stopped, if it was."""
    units = tuple(check.units())
    run = Run(spec, units, frozenset(list_units(check.work)) & {unit.id for unit in units})
    done = [unit.id for unit in units if unit.id in run.committed]
    results = dict(zip(done, map(counted, read_commits(check.work, done)), strict=True))
    pace = SpeedEstimate({variant.name: _seconds_per_pixel(spec, variant.name) for variant in spec.variants})
    steering = Steering(Budget(), OrderWatch(check.work))
    driver = Driver(
        Work(run, results), check.work, pool, heartbeat, pace, steering,
        policy=Policy(failed_share=1.0), deadlines=Deadlines(), show=show,
    )  # fmt: skip
    with steering:
        return driver.drive()
