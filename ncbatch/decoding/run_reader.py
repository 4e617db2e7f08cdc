"""Reads a run back, finished or not: decodes its images, and checks its bytes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ncbatch import layout
from ncbatch.codec.bits_back.pack import OpenPack
from ncbatch.codec.bitstream import parse
from ncbatch.codec.classical import decode_classical
from ncbatch.codec.decode import decode_stream, with_alpha
from ncbatch.codec.errors import BitstreamError, DecodeCheckError, ModelError
from ncbatch.codec.methods import ClassicalRecipe
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.model.threads import one_thread
from ncbatch.decoding.chosen_rows import COLUMNS, check_variant
from ncbatch.decoding.decoded_names import image_names
from ncbatch.decoding.destination import Destination, OccupiedError
from ncbatch.decoding.findings import Finding
from ncbatch.decoding.tar_files import Decoded, write_tars
from ncbatch.errors import NcbatchError
from ncbatch.images.carried import Carried
from ncbatch.images.pixels import Pixels
from ncbatch.images.write import write_png
from ncbatch.metrics.table import read_table
from ncbatch.models.loading import RunModels, usual_device
from ncbatch.plan.generations import StandingRow
from ncbatch.plan.spec import Variant, read_run
from ncbatch.stages import Ahead
from ncbatch.store import AccessDenied, ObjectNotFound, Store
from ncbatch.store.spans import Span, Spans

Result = TypeVar("Result")

_FILES_AT_ONCE = 8  # by one thread each, some 300 MB


class UnreadableError(NcbatchError):
    """Access to one of the run's objects is denied, and not to the run as a whole."""


class RunReader:
    """Decodes the rows of a run with the checkpoints kept in it."""

    def __init__(
        self,
        output: Store,
        *,
        variant: str | None = None,
        rows: Sequence[dict[str, Any]] | None = None,
        models: RunModels | None = None,
    ) -> None:
        """A reader of a run.

        Args:
            output: the run's folder.
            variant: reads its rows only; by default those of all variants.
            rows: reads these only, which have COLUMNS; by default all of the table.
            models: of the run, where some are loaded already.
        """
        self._output = output
        spec = read_run(output).spec
        check_variant(spec, variant)
        self._several = len(spec.variants) > 1 and variant is None
        self._variants = {v.name: v for v in spec.variants}
        self._models = models if models is not None else RunModels(output, usual_device())
        self._models_lock = threading.Lock()
        self._packs: dict[str, _OpenObject] = {}  # the last of each variant
        self._spans = Spans(output, ())
        rows = read_table(output, columns=COLUMNS).to_pylist() if rows is None else rows
        self.rows = [row for row in rows if variant in (None, row["variant"])]
        # Rows of one pack together: opening it once more would repeat its inference.
        self.rows.sort(key=lambda row: row["bitstream_key"] if self._is_packed(row) else "")

    def _is_packed(self, row: dict[str, Any]) -> bool:
        return row["status"] == "ok" and self._variants[row["variant"]].recipe.uses_bits_back

    def _bytes(self, row: dict[str, Any]) -> bytes:
        """The row's object: as a whole, or the image's part of a tar."""
        try:
            if _is_in_tar(row):
                return self._spans.read(_span(row))
            return self._output.get(row["bitstream_key"])
        except ObjectNotFound as error:
            raise BitstreamError(f"{row['bitstream_key']} is missing") from error
        except AccessDenied as error:
            self._output.get(layout.RUN)  # where nothing may be read, that is no finding about one object
            raise UnreadableError(str(error)) from error

    def image(self, image_key: str, variant: str) -> Pixels:
        """The colours of an ok row's image, uint8[height, width, 3].

        Raises:
            BitstreamError, ModelError: its bytes are missing or damaged.
            UnreadableError: access to them is denied.
        """
        row = next(r for r in self.rows if (r["image_key"], r["variant"]) == (image_key, variant))
        return self.decode_row(row)

    def verify(self) -> Iterator[Finding]:
        """Checks of every ok row that its bytes are there, hash as committed and decode."""
        yield from self._several_at_once(self._finding, self._ok_rows)

    @property
    def _ok_rows(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["status"] == "ok"]

    def _several_at_once(
        self, work: Callable[[dict[str, Any]], Result], rows: Sequence[dict[str, Any]]
    ) -> Iterator[Result]:
        """What the work found in each row, in the order of the rows.

        A file is decoded by one thread, several files at a time. Images of packs wait for each other.
        """

        def done(row: dict[str, Any]) -> Result:
            if self._is_packed(row):
                return work(row)
            with one_thread():
                return work(row)

        self.expect(rows)
        at_once = min(_FILES_AT_ONCE, torch.get_num_threads())
        with Ahead(done, lambda row: 1, at_once, 2 * at_once + 1, in_turn=self._is_packed) as stage:
            yield from stage.of(rows)

    def _finding(self, row: dict[str, Any]) -> Finding:
        image_key, variant = row["image_key"], row["variant"]
        damaged = StandingRow(variant, image_key, row["generation"], error_class=None)
        try:
            image = self.decode_row(row)
        except (ModelError, UnreadableError) as error:
            return Finding(image_key, variant, problem=str(error))
        except (BitstreamError, DecodeCheckError) as error:
            return Finding(image_key, variant, problem=str(error), damaged=damaged)
        if image.shape[:2] != (row["height"], row["width"]):
            problem = "it decodes to an image of another size"
            return Finding(image_key, variant, problem=problem, damaged=damaged)
        return Finding(image_key, variant)

    def decode_row(self, row: dict[str, Any]) -> Pixels:
        """The colours of an ok row's image, uint8[height, width, 3].

        Args:
            row: with the columns that `rows` have.

        Raises:
            BitstreamError, DecodeCheckError, ModelError: its bytes are missing or damaged.
            UnreadableError: access to them is denied.
        """
        return self.decode_file(row)[0][..., :3]

    def decode_file(self, row: dict[str, Any]) -> tuple[Pixels, Carried]:
        """As `decode_row`, with an alpha plane as a fourth channel, and what its file carries."""
        return self.decode_fetched(row, self.fetch(row))

    def expect(self, rows: Iterable[dict[str, Any]]) -> None:
        """Says which rows are fetched next, so that those side by side in a tar come with one request."""
        self._spans = Spans(self._output, map(_span, filter(_is_in_tar, rows)))

    def fetch(self, row: dict[str, Any]) -> bytes | None:
        """The bytes of an ok row, as they were committed; None where a pack holds them. Any thread may ask.

        Raises:
            BitstreamError: its bytes are missing or damaged.
            UnreadableError: access to them is denied.
        """
        if self._is_packed(row):
            return None
        data = self._bytes(row)
        _check(row, data)
        return data

    def close_packs(self) -> None:
        """Forgets the packs that are open, and the images that were decoded with others."""
        self._packs.clear()

    def decode_fetched(
        self, row: dict[str, Any], data: bytes | None, *, alpha: bool = True
    ) -> tuple[Pixels, Carried]:
        """As `decode_file`, of what `fetch` gave. A pack is fetched, and opened, here.

        Args:
            row: of the image.
            data: its bytes.
            alpha: whether an alpha plane is decoded, too.
        """
        variant = self._variants[row["variant"]]
        if data is None:
            return self._packed_image(row, variant), Carried()
        if isinstance(variant.recipe, ClassicalRecipe):
            return decode_classical(variant.recipe, data, max_pixels=variant.max_pixels), Carried()
        stream = parse(data, max_pixels=variant.max_pixels)
        colours = decode_stream(self._model(row), stream)
        return with_alpha(colours, stream) if alpha else colours, stream.carried

    def bitstream(self, row: dict[str, Any]) -> bytes | None:
        """The `.ncb` file of an ok row; None where a pack or a classical codec holds the image.

        Raises:
            BitstreamError, DecodeCheckError: its bytes are missing or damaged.
            UnreadableError: access to them is denied.
        """
        if isinstance(self._variants[row["variant"]].recipe, ClassicalRecipe):
            return None
        return self.fetch(row)

    def _model(self, row: dict[str, Any]) -> Model:
        with self._models_lock:
            return self._models.get(row["model_digest"])

    def _packed_image(self, row: dict[str, Any], variant: Variant) -> Pixels:
        """A variant's last pack stays open, since decoding starts from its last image."""
        found = self._packs.get(variant.name)
        if found is None or found.key != row["bitstream_key"]:
            found = self._packs[variant.name] = _OpenObject(row["bitstream_key"], self._bytes(row))
        _check(row, found.data[row["offset"] : row["offset"] + row["length"]])
        if found.pack is None:
            found.pack = OpenPack(self._model(row), found.data, max_pixels=variant.max_pixels)
        return found.pack.image(row["offset"])

    def decode_into(self, destination: Destination) -> Iterator[Finding]:
        """Writes every ok row's image as PNG, under the names of `DecodedNames`.

        An object `names.csv` lists the names that differ from what one would expect. Where something else
        stands in the place of an image, the finding of that image says so. In tars, images have the names of
        `sample_names`.

        Raises:
            OccupiedError: something that is no such list stands in the place of `names.csv`.
        """
        names = image_names((row["image_key"] for row in self._ok_rows), destination, several=self._several)
        yield from self.decode_as(destination, lambda row: names(row["image_key"], row["variant"]))

    def decode_as(
        self,
        destination: Destination,
        name_of: Callable[[dict[str, Any]], str],
        stem: str = "images",
        on_decoded: Callable[[str], None] = lambda image_key: None,
    ) -> Iterator[Finding]:
        """As `decode_into`, under names that are given, and without the list of them.

        Args:
            destination: the folder.
            name_of: the name of a row's image there.
            stem: of the tars' names.
            on_decoded: is told of an image that waits for the rest of its tar, by its key.
        """

        def decoded(row: dict[str, Any]) -> Decoded:
            image_key, variant = row["image_key"], row["variant"]
            try:
                return Finding(image_key, variant, written=name_of(row)), write_png(*self.decode_file(row))
            except (BitstreamError, DecodeCheckError, ModelError, UnreadableError) as error:
                return Finding(image_key, variant, problem=str(error)), b""

        def written(row: dict[str, Any]) -> Finding:
            finding, png = decoded(row)
            try:
                if finding.written is not None:
                    destination.write(finding.written, png)
            except OccupiedError as error:
                return replace(finding, written=None, problem=str(error))
            return finding

        if destination.tar_bytes is None:
            yield from self._several_at_once(written, self._ok_rows)
        else:
            images = self._several_at_once(decoded, self._ok_rows)
            yield from write_tars(destination, stem, destination.tar_bytes, _told(images, on_decoded))


def _told(images: Iterable[Decoded], on_decoded: Callable[[str], None]) -> Iterator[Decoded]:
    for finding, data in images:
        on_decoded(finding.image_key)
        yield finding, data


@dataclass
class _OpenObject:
    """A pack that was fetched, and opened if its bytes were what a row says."""

    key: str
    data: bytes
    pack: OpenPack | None = None


def _is_in_tar(row: dict[str, Any]) -> bool:
    return str(row["bitstream_key"]).startswith(layout.TARS_PREFIX)


def _span(row: dict[str, Any]) -> Span:
    return Span(row["bitstream_key"], row["offset"], row["length"])


def _check(row: dict[str, Any], part: bytes) -> None:
    """Compares an image's bytes with its row."""
    if len(part) != row["length"] or hashlib.sha256(part).hexdigest() != row["sha256"]:
        raise BitstreamError(f"{row['bitstream_key']} is not what was committed: its hash differs")
