"""From an encoding, or the reason why there is none, to a row of the metrics table."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from datetime import datetime, timezone

import torch

from ncbatch import __version__
from ncbatch.codec.encode import Encoded
from ncbatch.codec.recipe import LearnedRecipe, RefinedRecipe
from ncbatch.codec.target import Sought
from ncbatch.logs import own_log
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.schema import Row
from ncbatch.plan.spec import Variant
from ncbatch.plan.units import PlannedImage, Unit
from ncbatch.worker.fetch import FetchedImage


@dataclass(frozen=True)
class Work:
    """How an encoding came about: what its row says besides rate and distortion.

    Attributes:
        method: the method's name where it is not the variant's.
        note: anything that a reader of the row should know.
    """

    started_at: datetime
    batch_size: int = 1
    adopted: bool = False
    method: str | None = None
    note: str | None = None


class RowWriter:
    """Makes the rows of one attempt at a unit."""

    def __init__(self, variant: Variant, unit: Unit, attempt: str, device: str) -> None:
        self._variant, self._unit, self._attempt, self._device = variant, unit, attempt, device

    def _row(self, image: PlannedImage, status: str) -> Row:
        recipe = self._variant.recipe
        searched = isinstance(recipe, RefinedRecipe) and recipe.target is not None
        return Row(
            image_key=image.key,
            image_etag=image.etag,
            image_bytes=image.bytes,
            image_sha256=image.content,
            caption=image.caption,
            image_json=image.json,
            variant=self._variant.name,
            variant_digest=self._variant.digest,
            model=self._variant.model,
            model_digest=self._variant.model_digest,
            lmbda=None if searched else recipe.lmbda if isinstance(recipe, LearnedRecipe) else None,
            method=recipe.method,
            steps=recipe.steps if isinstance(recipe, LearnedRecipe) else None,
            seed=recipe.seed if isinstance(recipe, LearnedRecipe) else None,
            status=status,
            device=self._device,
            host=platform.node(),
            worker_log=own_log(),
            unit=self._unit.id,
            attempt=self._attempt,
            generation=self._unit.generation,
            adopted=False,
            finished_at=datetime.now(timezone.utc),
            ncbatch_version=__version__,
            torch_version=torch.__version__,
        )

    def failed(self, image: PlannedImage, failure: Failure) -> Row:
        """The row of an image that has no bitstream."""
        row = self._row(image, "failed")
        row.error_class, row.error = failure.error_class, failure.error
        return row

    def ok(self, job: FetchedImage, encoded: Encoded, bitstream_key: str, work: Work, offset: int = 0) -> Row:
        """The row of an encoded image.

        Args:
            job: the image.
            encoded: its encoding.
            bitstream_key: of the object that holds its bytes.
            work: how the encoding came about.
            offset: of its bytes in the object.
        """
        outcome, baseline = encoded.outcome, encoded.amortized
        pixels = encoded.width * encoded.height
        row = self._row(job.image, "ok")
        row.width, row.height = encoded.width, encoded.height
        row.bpp = outcome.bytes * 8 / pixels
        if outcome.bits_y is not None and outcome.bits_z is not None:
            row.information_bpp = (outcome.bits_y + outcome.bits_z - (outcome.bits_back or 0)) / pixels
        row.bits_y, row.bits_z, row.bits_back = outcome.bits_y, outcome.bits_z, outcome.bits_back
        row.mse, row.psnr, row.ms_ssim = outcome.mse, outcome.psnr, encoded.ms_ssim
        row.rd_loss = outcome.rd_loss
        if baseline is not None:
            row.amortized_bpp = baseline.bytes * 8 / pixels
            row.amortized_psnr, row.amortized_rd_loss = baseline.psnr, baseline.rd_loss
        row.bitstream_key, row.offset, row.length = bitstream_key, offset, len(outcome.data)
        row.sha256 = hashlib.sha256(outcome.data).hexdigest()
        row.steps_taken, row.tail_bytes = encoded.steps_taken, encoded.tail_bytes
        row.dropped = ", ".join(job.dropped) or None
        if encoded.sought is not None:
            self._say_sought(row, encoded.sought)
        if not work.adopted:
            others = encoded.device_seconds * (work.batch_size - 1)
            row.encode_seconds = encoded.encode_seconds + others
            row.device_seconds = encoded.device_seconds
        row.decode_seconds, row.batch_size = outcome.decode_seconds, work.batch_size
        row.method, row.adopted = work.method or row.method, work.adopted
        row.error = work.note or row.error
        row.started_at = work.started_at
        return row

    def _say_sought(self, row: Row, sought: Sought) -> None:
        """The model and the lmbda that a search found, and how it met its target."""
        row.model, row.model_digest = self._variant.models[sought.model_digest], sought.model_digest
        row.lmbda, row.target_tries = sought.lmbda, sought.tries
        row.target_measure, row.target_value = sought.target.measure, sought.target.value
        row.target_came, row.target_met = sought.came, sought.met
        row.error = sought.note
        if sought.lmbda is None:
            row.rd_loss = row.amortized_rd_loss = None
