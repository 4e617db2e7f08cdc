"""What a run's plan knows of the inputs of a manifest that says only their keys.

Each of them was looked up when it was planned: a request for each image. A session that goes on with an
unfinished run does not ask again. When a run is finished, the same command is there to find what has changed.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ncbatch.errors import RunError
from ncbatch.plan.commits import Commits
from ncbatch.plan.generations import planned_units
from ncbatch.plan.plan_files import StoredImages
from ncbatch.plan.spec import find_run
from ncbatch.store import Store

_LOOK_AGAIN = frozenset({"changed", "missing"})
"""Error classes of rows whose inputs are not as they were planned."""

_KNOWN = pa.schema(
    [("image_key", pa.large_string()), ("image_etag", pa.large_string()), ("image_bytes", pa.int64())]
)
"""Of all images of a plan: their keys or etags together may be more than 2 GiB."""


def looked_up(output: Store, keys: pa.ChunkedArray) -> pa.Table | None:
    """What is known of some keys: columns `etag` and `bytes` in their order, null where nothing is.

    Args:
        output: the run's folder.
        keys: of inputs, as `large_string`.

    Returns:
        None where no unfinished run stands.
    """
    try:
        stored = find_run(output)
    except RunError:  # which is told where the run is opened
        return None
    if stored is None:
        return None
    commits = Commits(output)
    units = planned_units(stored, output)
    if all(unit.id in commits.units for unit in units):
        return None
    doubtful = {row.image_key for row in commits.failed_rows(_LOOK_AGAIN)}
    # The newest generation first, since the first of several equal keys counts.
    newest = sorted(units, key=lambda unit: -unit.generation)
    parts = [unit.images.columns() for unit in newest if isinstance(unit.images, StoredImages)]
    known = pa.concat_tables(parts).select(_KNOWN.names).cast(_KNOWN)
    known = known.filter(pc.invert(pc.is_in(known["image_key"], pa.array(doubtful, pa.large_string()))))
    places = pc.index_in(keys, known["image_key"].combine_chunks())
    found = known.take(places)
    return pa.table({"etag": found["image_etag"], "bytes": found["image_bytes"]})


def filled_in(rows: pa.Table, output: Store) -> pa.Table:
    """The rows of a manifest with what the plan in `output` knows of those that lack etag or bytes.

    Args:
        rows: with the columns key, etag and bytes, and others.
        output: the run's folder.
    """
    lacking = pc.or_(pc.equal(pc.coalesce(rows["etag"], ""), ""), pc.is_null(rows["bytes"]))
    if not pc.any(lacking).as_py():
        return rows
    known = looked_up(output, rows["key"])
    if known is None:
        return rows
    for name in ("etag", "bytes"):
        filled = pc.if_else(lacking, known[name], rows[name])
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), filled)
    return rows
