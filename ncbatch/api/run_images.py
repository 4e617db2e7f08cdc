"""The decoded images of a run, found by their keys."""

from __future__ import annotations

from typing import Any

from ncbatch.decoding.run_reader import RunReader
from ncbatch.errors import UsageError
from ncbatch.images.pixels import Pixels
from ncbatch.plan.run import load_run
from ncbatch.store import Store


class RunImages:
    """Decodes images of a run.

    The table is read once, and again where an image is not in it, since the run may still be encoding. The
    model and the last pack stay loaded, so that the images of a pack are decoded once.
    """

    def __init__(self, store: Store) -> None:
        """Takes the run's output folder."""
        self._store = store
        self._read()

    def _read(self) -> None:
        self._reader = RunReader(self._store)
        self._rows = {(row["image_key"], row["variant"]): row for row in self._reader.rows}

    def image(self, key: str, variant: str | None) -> Pixels:
        """The image of an ok row, uint8[height, width, 3], or [height, width, 4] with an alpha plane.

        Args:
            key: The `image_key` of its row.
            variant: The name of its variant, or None where the run has only one.

        Raises:
            UsageError: There is no such row, the variant has to be named, or the row is one of a failure.
            BitstreamError, DecodeCheckError, ModelError: The bytes or the model are missing or damaged.
        """
        row = self._row(key, variant)
        if row["status"] != "ok":
            raise UsageError(f"{key} failed under {row['variant']}; the column `error` of its row says why")
        return self._reader.decode_file(row)[0]

    def _row(self, key: str, variant: str | None) -> dict[str, Any]:
        found = self._find(key, variant)
        if not found:
            self._read()
            found = self._find(key, variant)
        if not found:
            under = f" under the variant {variant!r}" if variant else ""
            if any(image.key == key for unit in load_run(self._store).pending for image in unit.images):
                raise UsageError(f"the run has no row of {key!r}{under} yet; it is still to be encoded")
            raise UsageError(
                f"the run has no row of {key!r}{under}; the column `image_key` of its table names its images"
            )
        if len(found) > 1:
            names = ", ".join(row["variant"] for row in found)
            raise UsageError(f"{key} was encoded under several variants; name one: {names}")
        return found[0]

    def _find(self, key: str, variant: str | None) -> list[dict[str, Any]]:
        if variant is not None:
            return [self._rows[key, variant]] if (key, variant) in self._rows else []
        return [row for (image_key, _), row in self._rows.items() if image_key == key]
