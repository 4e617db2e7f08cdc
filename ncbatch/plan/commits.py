"""What of a run is committed, as it stands when the run is opened."""

from __future__ import annotations

from collections.abc import Set
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from ncbatch.layout import UNITS_PREFIX, unit_of_key
from ncbatch.metrics.table import read_table
from ncbatch.metrics.unit_result import UnitResult
from ncbatch.plan.generations import StandingRow
from ncbatch.store import Store

_COLUMNS = ("unit", "variant", "image_key", "generation", "status", "error_class", "bpp", "psnr")


class Commits:
    """The committed units of a run and their rows: listed once and read once, when they are first asked for.

    They are listed before they are read, so every unit that is listed has its rows.
    """

    def __init__(self, output: Store) -> None:
        self._output = output

    @cached_property
    def units(self) -> frozenset[str]:
        """The ids of the committed units."""
        return committed_units(self._output)

    @cached_property
    def _table(self) -> pa.Table | None:
        return read_table(self._output, columns=_COLUMNS) if self.units else None

    def failed_rows(self, classes: frozenset[str] | None = None) -> list[StandingRow]:
        """The failed rows of the run's table.

        Args:
            classes: only rows of these error classes; None: of all.
        """
        if self._table is None:
            return []
        failed = self._table.filter(pc.not_equal(self._table["status"], "ok"))
        columns = ("variant", "image_key", "generation", "error_class")
        rows = [StandingRow(**row) for row in failed.select(columns).to_pylist()]
        return [row for row in rows if classes is None or row.error_class in classes]

    def results(self, units: Set[str], again: Set[tuple[str, str]]) -> dict[str, UnitResult]:
        """What the committed units hold, by unit.

        Args:
            units: those that are asked for; another driver may have planned more since, and committed it.
            again: variant and key of the images that do not count, since they are pending again.
        """
        table = self._table
        if table is None:
            return {}
        if again:
            identities = zip(table["variant"].to_pylist(), table["image_key"].to_pylist(), strict=True)
            table = table.filter(pa.array([identity not in again for identity in identities]))
        ok, exact = pc.equal(table["status"], "ok"), pc.fill_null(pc.is_inf(table["psnr"]), False)
        columns = {
            "ok": pc.cast(ok, "int64"),
            "failed": pc.cast(pc.invert(ok), "int64"),
            "bpp": table["bpp"],
            "psnr": pc.if_else(exact, None, table["psnr"]),
            "exact": pc.cast(exact, "int64"),
        }
        rows = pa.table({"unit": table["unit"], **columns})
        sums = rows.group_by("unit").aggregate([(name, "sum") for name in columns])
        return {
            row["unit"]: UnitResult(**{name: row[f"{name}_sum"] or 0 for name in columns})
            for row in sums.to_pylist()
            if row["unit"] in units
        }


def committed_units(output: Store) -> frozenset[str]:
    """The ids of the units that are committed now."""
    ids = (unit_of_key(info.key) for info in output.list(UNITS_PREFIX))
    return frozenset(unit for unit in ids if unit)
