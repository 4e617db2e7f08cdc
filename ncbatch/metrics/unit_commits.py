"""The commits of units: which stand there, and their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from ncbatch.layout import UNITS_PREFIX, unit_key, unit_of_key
from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.parallel import in_parallel
from ncbatch.metrics.schema import parquet_to_table
from ncbatch.store import Store

_PAGE = 1000
"""Keys that S3 lists with one request."""

_DIGITS = "0123456789abcdef"


def list_units(store: Store) -> list[str]:
    """The names of the units whose commits stand there, in order.

    A listing goes on where the last page ended, so the pages of one prefix come one after the other. Where
    there are more commits than a page holds, those that begin with each hexadecimal digit are listed at once.
    """
    found: list[str] = []
    prefixes = [UNITS_PREFIX]
    for depth in range(3):  # the names of the folders have two digits
        last = depth == 2
        pages = in_parallel(lambda prefix: _listed(store, prefix, whole=last), prefixes)  # noqa: B023
        further = []
        for prefix, units in zip(prefixes, pages, strict=True):
            if units is None:
                further += [prefix + digit for digit in _DIGITS]
            else:
                found += units
        prefixes = further
    return sorted(found)


def _listed(store: Store, prefix: str, *, whole: bool) -> list[str] | None:
    """The units below a prefix; None where they are more than a page, unless all are to be listed."""
    found = []
    for number, info in enumerate(store.list(prefix), 1):
        if (unit := unit_of_key(info.key)) is not None:
            found.append(unit)
        if number == _PAGE and not whole:
            return None
    return found


def read_units(
    store: Store, units: Sequence[str], columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of each unit's commit, in the order of `units`.

    Objects are fetched ahead of the consumer, a bounded number of them.

    Raises:
        MetricsError: a commit is damaged.
    """
    # Only the waiting is done in threads: parsing many small files in several of them at once takes longer.
    for unit, data in zip(units, in_parallel(lambda unit: store.get(unit_key(unit)), units), strict=True):
        try:
            yield parquet_to_table(data, columns)
        except MetricsError as error:
            raise MetricsError(f"{unit_key(unit)}: {error}") from error
