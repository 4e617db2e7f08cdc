"""What of a run is committed, as it stands when the run is opened."""

from __future__ import annotations

from collections.abc import Set
from functools import cached_property

from ncbatch.metrics.objects import TableObjects, find_objects
from ncbatch.metrics.summary import Summary, results_by_unit, summarise
from ncbatch.metrics.unit_result import UnitResult
from ncbatch.plan.generations import StandingRow
from ncbatch.store import Store

_FAILED = """
select variant, image_key, generation, error_class from metrics where status <> 'ok'
order by image_key, variant
"""


class Commits:
    """The committed units of a run and their rows: listed once, when they are first asked for.

    They are listed before they are read, so every unit that is listed has its rows.
    """

    def __init__(self, output: Store) -> None:
        self._output = output

    @cached_property
    def _objects(self) -> TableObjects:
        return find_objects(self._output)

    @property
    def units(self) -> frozenset[str]:
        """The ids of the committed units."""
        return self._objects.units

    @property
    def loose(self) -> tuple[str, ...]:
        """The ids of those that no compaction has merged yet."""
        return self._objects.loose

    @cached_property
    def _failed(self) -> list[StandingRow]:
        from ncbatch.metrics.query import open_table  # here, since DuckDB is slow to import

        if not self.units:
            return []
        with open_table(self._output, self._objects) as table:
            return [StandingRow(**row) for row in table.query(_FAILED).to_pylist()]

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
        found = results_by_unit(self._output, self._objects, again)
        return {unit: result for unit, _, result in found if unit in units}

    def summary(self) -> Summary:
        """The rows in a few numbers."""
        return summarise(self._output, self._objects)


def committed_units(output: Store) -> frozenset[str]:
    """The ids of the units that are committed now."""
    return find_objects(output).units
