"""What the units of a run have in common, for a worker to keep what it has."""

from __future__ import annotations

from collections.abc import Iterable

from ncbatch.driver.dealing import Kind
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit


def kinds_of(units: Iterable[Unit], spec: RunSpec) -> dict[str, Kind]:
    """The kinds of a run's units. With one variant all are the same."""
    if len(spec.variants) < 2:
        return {}
    models = {variant.name: variant.model_digest for variant in spec.variants}
    return {
        unit.id: Kind(models[unit.variant], hash(tuple(image.key for image in unit.images))) for unit in units
    }
