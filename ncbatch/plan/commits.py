"""What of a run is committed, as it stands when the run is opened."""

from __future__ import annotations

from collections.abc import Iterable, Set
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from ncbatch.metrics.objects import TableObjects, find_objects
from ncbatch.metrics.parts import UnitSums
from ncbatch.metrics.summary import Summary, newest_results, summary_of_units
from ncbatch.metrics.unit_result import UnitResult
from ncbatch.plan.generations import StandingRow
from ncbatch.store import Store

if TYPE_CHECKING:
    from ncbatch.metrics.query import OpenTable

_FAILED = """
select variant, image_key, generation, error_class from metrics where status <> 'ok'
order by image_key, variant
"""


class Commits:
    """The committed units of a run and their rows: listed once, when they are first asked for.

    They are listed before they are read, so every unit that is listed has its rows.

    Args:
        output: the run's folder.
        exclusive: whether it honours create-only puts; None: its `run.json` tells.
    """

    def __init__(self, output: Store, *, exclusive: bool | None = None) -> None:
        self._output, self._exclusive = output, exclusive
        self._stack = ExitStack()

    def close(self) -> None:
        """Nothing more is asked of them."""
        self._stack.close()

    @cached_property
    def _objects(self) -> TableObjects:
        return find_objects(self._output, exclusive=self._exclusive)

    @property
    def units(self) -> frozenset[str]:
        """The ids of the committed units."""
        return self._objects.units

    @property
    def loose(self) -> tuple[str, ...]:
        """The ids of those that no compaction has merged yet."""
        return self._objects.loose

    @cached_property
    def _table(self) -> OpenTable:
        from ncbatch.metrics.query import open_table  # here, since DuckDB is slow to import

        return self._stack.enter_context(open_table(self._output, self._objects))

    @cached_property
    def _failed(self) -> list[StandingRow]:
        rows = self._table.query(_FAILED).to_pylist() if self.units else []
        return [StandingRow(**row) for row in rows]

    def failed_rows(self, classes: frozenset[str] | None = None) -> list[StandingRow]:
        """The failed rows of the run's table.

        Args:
            classes: only rows of these error classes; None: of all.
        """
        return [row for row in self._failed if classes is None or row.error_class in classes]

    def results(self, units: Set[str], again: Set[tuple[str, str]]) -> dict[str, UnitResult]:
        """What the committed units hold, by unit.

        Args:
            units: those that are asked for; another driver may have planned more since, and committed it.
            again: variant and key of the images that do not count, since they are pending again.
        """
        return {unit: result for unit, _, result in self._sums(again) if unit in units}

    def _sums(self, again: Set[tuple[str, str]] = frozenset()) -> Iterable[UnitSums]:
        if not self.units or (self._objects.versions == "one" and not again):
            return self._objects.sums(self._output)
        return newest_results(self._table, again)

    def summary(self) -> Summary:
        """The rows in a few numbers."""
        return summary_of_units(self._sums())


def committed_units(output: Store) -> frozenset[str]:
    """The ids of the units that are committed now."""
    return find_objects(output).units
