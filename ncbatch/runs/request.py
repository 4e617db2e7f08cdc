"""From what a user asked for to a spec that says it completely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from ncbatch.codec import zoo
from ncbatch.codec.recipe import Recipe
from ncbatch.errors import UsageError, first_problem
from ncbatch.runs.models import load_model
from ncbatch.runs.spec import RunSpec, Variant
from ncbatch.store import StoreOptions, open_store

DEFAULT_STEPS = 2000


def make_spec(
    corpus: str,
    options: StoreOptions,
    *,
    method: str,
    lmbda: float,
    steps: int | None = None,
    model: str | None = None,
    name: str | None = None,
    include: tuple[str, ...] = (),
    manifest: str | None = None,
    recipe: dict[str, Any] | None = None,
    variant: dict[str, Any] | None = None,
) -> RunSpec:
    """A run of one variant.

    Args:
        model: None takes the built-in one trained nearest to lmbda.
        name: of the variant; the method's by default.
        recipe, variant: further fields of `Recipe` and `Variant`.

    Raises:
        UsageError: a value is out of range; the message names it.
    """
    if steps is None:
        steps = 0 if method == "amortized" else DEFAULT_STEPS
    try:
        checked = Recipe(method=method, lmbda=lmbda, steps=steps, **recipe or {})
        model = model or zoo.nearest_builtin(lmbda)
        return RunSpec(
            corpus=open_store(corpus, options).uri,
            include=include,
            manifest=manifest if manifest is None or "://" in manifest else str(Path(manifest).absolute()),
            variants=(
                Variant(
                    name=name or method,
                    model=model,
                    model_digest=load_model(model, options).digest,
                    recipe=checked,
                    **variant or {},
                ),
            ),
        )
    except pydantic.ValidationError as error:
        raise UsageError(first_problem(error)) from error
