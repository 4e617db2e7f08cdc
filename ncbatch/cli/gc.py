"""The command that deletes what a run no longer needs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from ncbatch.cli.common import Json, Run, Storage, open_run, store_words
from ncbatch.cli.console import out, print_table
from ncbatch.cli.flags import command
from ncbatch.errors import LeaseHeldError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting, at_least_zero
from ncbatch.store import Store
from ncbatch.words import counted, size

if TYPE_CHECKING:
    from ncbatch.plan.garbage import Garbage

_HOUR = 3600.0


@command
def gc(
    run: Run,
    /,
    *,
    delete: Annotated[bool, Setting("delete these objects; without this, they are only counted")] = False,
    older_than: Annotated[float, Setting(
        "leave alone what was written in the last so many hours: an attempt that is alive somewhere may be "
        "about to commit it", "HOURS", at_least_zero,
    )] = 24.0,
    json: Json = False,
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Finds and deletes objects in a run's folder that no row refers to, or only rows that newer ones
    replace.
    """
    output = open_run(run, store)
    from ncbatch.plan.garbage import find_garbage

    if delete:
        with _undisturbed(output):
            found = find_garbage(output, older_than * _HOUR)
            _delete(output, found)
    else:
        found = find_garbage(output, older_than * _HOUR)
    if json:
        objects = [vars(garbage) for garbage in found]
        total = sum(garbage.size for garbage in found)
        out.print_json(data={"deleted": delete, "bytes": total, "objects": objects})
        return ExitCode.OK
    _print(found, delete=delete)
    if found and not delete:
        hours = () if older_than == 24 else (f"--older-than={older_than:g}",)
        again = shlex.join(["ncbatch", "gc", run, "--delete", *hours, *store_words(store)])
        out.print(f"`{again}` deletes them")
    return ExitCode.OK


@contextmanager
def _undisturbed(output: Store) -> Iterator[None]:
    """Keeps drivers from the run while objects are deleted.

    Raises:
        LeaseHeldError: one is at it.
    """
    from ncbatch.driver.lease import Heartbeat, Lease

    lease = Lease(output)
    try:
        lease.take(force=False)
    except LeaseHeldError as error:
        raise LeaseHeldError(
            f"{output.uri} is being worked on, and nothing is deleted meanwhile; try again when its driver "
            "has ended"
        ) from error
    try:
        with Heartbeat(lease):
            yield
    finally:
        lease.release()


def _delete(output: Store, found: Sequence[Garbage]) -> None:
    from ncbatch.metrics.parallel import in_parallel
    from ncbatch.plan.progress_log import logged

    for _ in logged(in_parallel(lambda garbage: output.delete(garbage.key), found), "deleted", len(found)):
        pass


def _print(found: Sequence[Garbage], *, delete: bool) -> None:
    if not found:
        out.print("no object that is old enough is without use")
        return
    objects, bytes_ = Counter[str](), Counter[str]()
    for garbage in found:
        objects[garbage.kind] += 1
        bytes_[garbage.kind] += garbage.size
    print_table(("kind", "objects", "bytes"), [(k, n, size(bytes_[k])) for k, n in objects.items()])
    what = counted(len(found), "objects")
    total = size(bytes_.total())
    out.print(f"deleted {what}, {total}" if delete else f"{what} without use, {total}")
