"""One attempt at a unit of a bits-back variant: its pictures become one pack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ncbatch.codec.encode_pack import Found, Packed
from ncbatch.codec.errors import PackCheckError
from ncbatch.codec.refinement import Refinement
from ncbatch.metrics.schema import Row
from ncbatch.runs import layout
from ncbatch.runs.batches import OUT_OF_MEMORY, Batches, Done, failure_of
from ncbatch.runs.coders import PackCoder
from ncbatch.runs.intake import Job, open_image
from ncbatch.runs.plan import PlannedImage, Unit
from ncbatch.runs.rows import Failure, RowWriter, Work, poisoned_failure
from ncbatch.runs.spec import Variant
from ncbatch.runs.traces import Tracer
from ncbatch.runs.wip import State, WorkInProgress

if TYPE_CHECKING:
    from ncbatch.runs.unit import Workspace


class PackAttempt:
    """One execution of a unit by one worker; nothing is published before all pictures are in the pack."""

    def __init__(
        self, workspace: Workspace, coder: PackCoder, variant: Variant, unit: Unit, attempt: str
    ) -> None:
        self._workspace, self._coder, self._variant = workspace, coder, variant
        self._unit, self._attempt = unit, attempt
        self._writer = RowWriter(variant, unit, attempt, str(workspace.device))
        self.tracer = Tracer(workspace.output, unit, workspace.trace_every)
        self.wip = WorkInProgress(workspace.output, unit, variant, workspace.wip_seconds)
        self._kept: State = {}
        self._started_at = datetime.now(timezone.utc)

    def rows(self, images: Sequence[PlannedImage], poisoned: Mapping[str, str]) -> Iterator[Row]:
        """One row per image."""
        jobs = []
        for image in images:
            if image.key in poisoned:
                yield self._writer.failed(image, poisoned_failure(poisoned[image.key]))
                continue
            job = open_image(self._workspace.corpus, image, self._variant)
            if isinstance(job, Failure):
                yield self._writer.failed(image, job)
            else:
                jobs.append(job)
        if jobs:
            yield from self._packed(jobs)

    def _packed(self, jobs: Sequence[Job]) -> Iterator[Row]:
        standing = self._standing(jobs)
        if standing is not None:
            key, data, pictures = standing
            packed = self._coder.pack(pictures)
            # The same pack again, but for a correction more or less where another machine made it.
            if packed.pack.data != data:
                key = self._published(packed)
            yield from self._rows(jobs, pictures, packed, key, {}, adopted=True)
            return
        notes: dict[str, str] = {}
        good: dict[str, tuple[Job, Found]] = {}
        for job, found in self._found(jobs, notes):
            if isinstance(found, Failure):
                yield self._writer.failed(job.image, found)
            else:
                good[job.image.key] = job, found
        while good:
            done = [job for job, _ in good.values()]
            pictures = [found for _, found in good.values()]
            try:
                packed = self._coder.pack(pictures)
            except PackCheckError as error:
                image = done[error.picture].image
                yield self._writer.failed(image, failure_of(error))
                del good[image.key]
                continue
            yield from self._rows(done, pictures, packed, self._published(packed), notes, adopted=False)
            return

    def _standing(self, jobs: Sequence[Job]) -> tuple[str, bytes, list[Found]] | None:
        """A pack of these pictures that an earlier attempt published before it could commit."""
        output = self._workspace.output
        for info in output.list(layout.pack_stem(self._unit.variant, self._unit.id)):
            data = output.get(info.key)
            found = self._coder.found_in(data, [job.pixels for job in jobs])
            if found is not None:
                return info.key, data, found
        return None

    def _published(self, packed: Packed) -> str:
        key = layout.pack_key(self._unit.variant, self._unit.id, self._attempt)
        self._workspace.output.put(key, packed.pack.data)
        return key

    def _found(self, jobs: Sequence[Job], notes: dict[str, str]) -> list[tuple[Job, Found | Failure]]:
        """Latents of every picture, in the order of the plan."""
        method = self._variant.recipe.method
        known: dict[str, Found | Failure] = {}
        if self._variant.recipe.refines:
            self._kept = self.wip.kept([job.image for job in jobs])
        for job in jobs:
            if job.image.key in self._kept:
                y_hat = self._kept[job.image.key].to(self._workspace.device)
                known[job.image.key] = Found(job.pixels, y_hat, method, 0.0)
        rest = [job for job in jobs if job.image.key not in known]
        for done in Batches(self._workspace, self._find).done(rest):
            known[done.job.image.key] = self._fallen_back(done, notes)
        return [(job, known[job.image.key]) for job in jobs]

    def _find(self, jobs: Sequence[Job]) -> list[Found]:
        images = [job.image for job in jobs]
        state = self.wip.resume(images) if self._variant.recipe.refines else None
        self.tracer.begin(state)

        def pause(refinement: Refinement) -> None:
            self.tracer.look(refinement)
            self.wip.save_sometimes(refinement, images, self.tracer.state, self._kept)

        found = self._coder.find([job.pixels for job in jobs], state, pause)
        self.tracer.end(images)
        self._kept |= {image.key: f.y_hat.cpu() for image, f in zip(images, found, strict=True)}
        return found

    def _fallen_back(self, done: Done[Found], notes: dict[str, str]) -> Found | Failure:
        failure = done.result
        if not isinstance(failure, Failure):
            return failure
        if not self._variant.fall_back or failure.error_class == OUT_OF_MEMORY:
            return failure
        notes[done.job.image.key] = f"fell back to the encoder network's latents: {failure.error}"
        return self._coder.unrefined(done.job.pixels)

    def _rows(
        self, jobs: Sequence[Job], pictures: Sequence[Found], packed: Packed, key: str,
        notes: Mapping[str, str], *, adopted: bool,
    ) -> Iterator[Row]:  # fmt: skip
        for i, (job, found) in enumerate(zip(jobs, pictures, strict=True)):
            note = notes.get(job.image.key)
            if i in packed.plain:
                note = "coded without bits-back: it failed the decode check with it"
            work = Work(self._started_at, adopted=adopted, method=found.method, note=note)
            share = packed.pack.shares[i]
            yield self._writer.ok(job.image, packed.encoded[i], key, work, share.offset)
