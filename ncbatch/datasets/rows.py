"""Which rows of a run are read as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ncbatch.datasets.groups import Groups, Numbers
from ncbatch.decoding.chosen_rows import COLUMNS, check_variant
from ncbatch.errors import UsageError
from ncbatch.metrics.query import query
from ncbatch.metrics.sql import quoted
from ncbatch.plan.spec import RunSpec, Variant, read_run
from ncbatch.store import Store


@dataclass(frozen=True)
class RunRows:
    """The ok rows of one variant of a run that are wanted.

    Attributes:
        table: the rows, with COLUMNS and those that are wanted beside the image; images of one object lie
            side by side, in the order in which they lie there.
        columns: the names of those that are wanted.
        groups: of the rows, in the order of the table.
    """

    table: pa.Table
    columns: tuple[str, ...]
    groups: Groups

    @staticmethod
    def read(store: Store, variant: str | None, where: str | None, columns: Sequence[str]) -> RunRows:
        """Those of a run, which may still be encoding: what is committed now.

        Args:
            store: the run's folder.
            variant: its name; None where the run has only one.
            where: a condition in SQL over the table's columns, or None.
            columns: of the table, to be given beside the image.

        Raises:
            RunError: there is no run.
            UsageError: the variant has to be named, or no image is wanted.
            MetricsError: the condition is wrong, or a column is unknown.
        """
        chosen = _chosen(read_run(store).spec, variant)
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in dict.fromkeys((*COLUMNS, *columns)))
        condition = f"and (\n{where}\n)" if where is not None else ""  # it may end in a comment
        table = query(
            store,
            f"select {names} from metrics where status = 'ok' and variant = {quoted(chosen.name)} "
            f"{condition} "
            'order by bitstream_key, "offset"',
        )
        if not len(table):
            fit = " that fits the condition" if where is not None else ""
            raise UsageError(
                f"{store.uri} has no encoded image{fit}; `ncbatch status` tells how far the run is, and "
                "`ncbatch query` shows its table"
            )
        packed = chosen.recipe.uses_bits_back
        groups = Groups.of(table["bitstream_key"].to_pylist()) if packed else Groups.single(len(table))
        return RunRows(table, tuple(dict.fromkeys(columns)), groups)

    @property
    def pixel_bytes(self) -> Numbers:
        """How much memory each row's image takes, at a byte for each of three samples a pixel."""
        width, height = (self.table[name].to_numpy() for name in ("width", "height"))
        return np.asarray(3 * width * height, dtype=np.int64)


def _chosen(spec: RunSpec, variant: str | None) -> Variant:
    check_variant(spec, variant)
    if variant is None and len(spec.variants) > 1:
        names = ", ".join(each.name for each in spec.variants)
        raise UsageError(f"the run has several variants; name one: {names}")
    return next(each for each in spec.variants if variant in (None, each.name))
