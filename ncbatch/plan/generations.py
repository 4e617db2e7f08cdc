"""Later generations of a plan: images that are encoded once more, as the rows of new units.

An input was added or changed, a row failed and is to be tried again, or a bitstream was lost. A generation is
one create-only object, so of several processes that plan at once one wins; the others look at what it planned
and add what is still left. So nothing is planned twice, and nothing is forgotten.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ncbatch import layout
from ncbatch.errors import RunError
from ncbatch.plan.plan_files import iterate_plan, read_plan, write_plan
from ncbatch.plan.spec import RunFile, RunSpec
from ncbatch.plan.units import PlannedImage, Unit, make_units
from ncbatch.store import ObjectNotFound, Store
from ncbatch.words import counted

log = logging.getLogger(__name__)

PACK_IMAGES = 8
"""At least, where a unit becomes a pack: its first image is coded without bits-back."""

PixelsPerUnit = Callable[[str, Sequence[PlannedImage]], int]
"""How many pixels make a unit, given the variant's name and its images."""


Wanted = Mapping[str, Sequence[PlannedImage]]
"""What a generation is to hold: images by the name of a variant."""


@dataclass(frozen=True)
class StandingRow:
    """A row of the table, as far as planning it again goes. error_class: None of ok rows."""

    variant: str
    image_key: str
    generation: int
    error_class: str | None


def cut(spec: RunSpec, wanted: Wanted, generation: int, pixels_per_unit: PixelsPerUnit) -> Iterator[Unit]:
    """Cuts the images of each variant into units."""
    for variant in spec.variants:
        if images := wanted.get(variant.name):
            yield from make_units(
                images,
                variant.name,
                variant.digest,
                generation,
                pixels_per_unit(variant.name, images),
                PACK_IMAGES if variant.recipe.uses_bits_back else 1,
            )


def plan_keys(stored: RunFile, output: Store) -> list[str]:
    """The plan files of all generations, in order."""
    return [key for plan in (stored.plan, *_later_plans(output)) for key in plan]


def planned_units(stored: RunFile, output: Store) -> list[Unit]:
    """The units of all generations, in order."""
    return read_plan(output, plan_keys(stored, output))


def latest_generation(output: Store) -> int:
    """The number of the generation that was planned last."""
    listed = (layout.number_of_generation(info.key) for info in output.list(layout.GENERATIONS_PREFIX))
    return max((number for number in listed if number is not None), default=0)


def _later_plans(output: Store) -> list[tuple[str, ...]]:
    """Plan files of the generations after the first, in order."""
    return [tuple(content["plan"]) for content in _later(output)]


def automatic_generations(output: Store) -> frozenset[int]:
    """The generations that retry failed rows though nobody asked for it."""
    return frozenset(content["generation"] for content in _later(output) if content.get("automatic"))


def _later(output: Store) -> list[dict[str, Any]]:
    """What stands of the generations after the first, in order."""
    contents = []
    for info in output.list(layout.GENERATIONS_PREFIX):
        try:
            content = json.loads(output.get(info.key))
            contents.append({"plan": content["plan"], "generation": int(content["generation"])} | content)
        except (ObjectNotFound, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{output.uri}{info.key} is damaged; restore it, or use another output") from error
    return contents


def extend(
    stored: RunFile,
    output: Store,
    wanted: Callable[[Sequence[Unit]], Wanted],
    pixels_per_unit: PixelsPerUnit,
    *,
    automatic: bool = False,
) -> list[Unit]:
    """Adds a generation with what is wanted, if anything is.

    Args:
        wanted: what should be planned again, given all the units that are planned.
        automatic: whether it retries failed rows though nobody asked for it; it is noted.

    Returns:
        all planned units, as they stand in the output.
    """
    while True:
        units = planned_units(stored, output)
        found = {variant: images for variant, images in wanted(units).items() if images}
        if not found:
            return units
        generation = max(unit.generation for unit in units) + 1
        encodings = sum(len(images) for images in found.values())
        log.info("generation %d of the plan: %s", generation, counted(encodings, "encodings"))
        keys = write_plan(output, cut(stored.spec, found, generation, pixels_per_unit), generation)
        note = {"automatic": True} if automatic else {}
        content = json.dumps({"generation": generation, "plan": keys} | note).encode()
        if output.put_if_absent(layout.generation_key(generation), content):
            return planned_units(stored, output)  # what stands there counts, whoever wrote it
        # Somebody else planned this generation first: see what it leaves to be done.


Identity = tuple[str, str]
"""The name of a variant and the key of an image."""


def newest_planned(units: Iterable[Unit], of: Set[Identity]) -> dict[Identity, tuple[int, PlannedImage]]:
    """The newest generation that plans each of some encodings, and the image as planned there."""
    newest: dict[Identity, tuple[int, PlannedImage]] = {}
    variants = {variant for variant, _ in of}
    for unit in units:
        if unit.variant not in variants:
            continue
        for image in unit.images:
            identity = (unit.variant, image.key)
            if identity in of and (identity not in newest or newest[identity][0] < unit.generation):
                newest[identity] = (unit.generation, image)
    return newest


def without_superseded(units: Sequence[Unit]) -> list[Unit]:
    """The units with only those of their images that no later generation plans again, of which the table
    shows the later row whatever becomes of them; without the units that have no such image.
    """
    return list(_standing(units, _planned_again(units)))


def standing_units(stored: RunFile, output: Store) -> Iterator[Unit]:
    """The same of all generations that stand in the output, one by one; only later generations are held."""
    later = read_plan(output, chain.from_iterable(_later_plans(output)))
    return _standing(chain(iterate_plan(output, stored.plan), later), _planned_again(later))


def _planned_again(units: Iterable[Unit]) -> dict[Identity, int]:
    """The newest of the later generations by what it encodes; they have few images mostly."""
    newest: dict[Identity, int] = {}
    for unit in units:
        if unit.generation:
            for image in unit.images:
                identity = unit.variant, image.key
                newest[identity] = max(unit.generation, newest.get(identity, 0))
    return newest


def _standing(units: Iterable[Unit], newest: Mapping[Identity, int]) -> Iterator[Unit]:
    if not newest:
        yield from units  # without their images being read
        return
    for unit in units:
        images = tuple(
            image for image in unit.images if newest.get((unit.variant, image.key), 0) <= unit.generation
        )
        if images:
            yield unit if len(images) == len(unit.images) else replace(unit, images=images)


def not_yet_again(units: Iterable[Unit], rows: Iterable[StandingRow]) -> dict[str, list[PlannedImage]]:
    """Of some rows, the images that no generation after the row's own plans again; by variant."""
    rows = list(rows)
    newest = newest_planned(units, {(row.variant, row.image_key) for row in rows}) if rows else {}
    due: dict[str, list[PlannedImage]] = {}
    for row in rows:
        generation, image = newest.get((row.variant, row.image_key), (row.generation + 1, None))
        if image is not None and generation <= row.generation:
            due.setdefault(row.variant, []).append(image)
    return due


def usual_unit_pixels(units: Iterable[Unit]) -> PixelsPerUnit:
    """As large as a variant's units are already, which calibration on the workers decided."""
    sizes: dict[str, list[int]] = {}
    for unit in units:
        sizes.setdefault(unit.variant, []).append(unit.pixels)
    median = {variant: sorted(pixels)[len(pixels) // 2] for variant, pixels in sizes.items()}
    return lambda variant, images: median[variant]
