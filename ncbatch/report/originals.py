"""Originals and their reconstructions as pixels, for those images that a report shows."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from typing import Any

from ncbatch.codec.errors import BitstreamError, DecodeCheckError, ModelError
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.decoding.run_reader import RunReader
from ncbatch.images.checks import ImageError
from ncbatch.images.pixels import Pixels
from ncbatch.images.read import read_file
from ncbatch.models.loading import kept_model
from ncbatch.plan.generations import newest_planned, planned_units
from ncbatch.plan.inputs import DamagedShardError, Inputs
from ncbatch.plan.place import shard_of
from ncbatch.plan.spec import RunSpec, read_run
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.store import Store, StoreError, StoreOptions, open_store

log = logging.getLogger(__name__)

"""uint8[height, width, 3]."""

_CANNOT_DECODE = (BitstreamError, DecodeCheckError, ModelError, StoreError)


class Images:
    """Reads images of a run. An image that cannot be read is left out of the report, and a warning says
    why.
    """

    def __init__(self, output: Store, spec: RunSpec, options: StoreOptions) -> None:
        self._output, self._spec, self._reader = output, spec, RunReader(output, rows=())
        self._models: dict[str, Checkpoint] = {}
        self.corpus: Store | None = None
        try:
            self.corpus = open_store(spec.corpus, options)
        except StoreError as error:
            log.warning("no originals are shown: %s", error)

    def original(self, image_key: str, variant: str) -> Pixels | None:
        """The original, uint8[height, width, 3]; None where it cannot be read.

        Transparent pixels lie on what the variant was told, or on white.
        """
        if self.corpus is None:
            return None
        inputs = Inputs(self.corpus)
        reading = self._spec.variant(variant).reading
        if reading.alpha == "refuse":
            reading = replace(reading, alpha="white")
        try:
            return read_file(inputs.read(self._planned(image_key, variant)).data, reading).pixels
        except (StoreError, ImageError, DamagedShardError) as error:
            log.warning("the original of %s is not shown: %s", image_key, error)
            return None

    def _planned(self, image_key: str, variant: str) -> PlannedImage:
        """The image as it was planned, where it may lie in a shard: the plan knows where."""
        if shard_of(image_key) != image_key:
            found = newest_planned(self._units, {(variant, image_key)})
            if (variant, image_key) in found:
                return found[variant, image_key][1]
        return PlannedImage(image_key, "", 0)

    @cached_property
    def _units(self) -> list[Unit]:
        return planned_units(read_run(self._output), self._output)

    def file(self, row: dict[str, Any]) -> tuple[bytes, Checkpoint] | None:
        """The `.ncb` file of an ok row, and its model; None where it is no such file, or cannot be read."""
        try:
            data = self._reader.bitstream(row)
            return None if data is None else (data, self._model(row["model_digest"]))
        except _CANNOT_DECODE as error:
            log.warning("%s (%s) is not shown: %s", row["image_key"], row["variant"], error)
            return None

    def _model(self, digest: str) -> Checkpoint:
        if digest not in self._models:
            self._models[digest] = kept_model(self._output, digest)
        return self._models[digest]

    def decoded(self, row: dict[str, Any]) -> Pixels | None:
        """The reconstruction of an ok row, uint8[height, width, 3]; None where it cannot be decoded."""
        try:
            return self._reader.decode_row(row)
        except _CANNOT_DECODE as error:
            log.warning("%s (%s) is not shown: %s", row["image_key"], row["variant"], error)
            return None
