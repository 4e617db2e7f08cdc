"""The command line that goes on with a run, told from what the run says of itself."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import unquote_to_bytes, urlsplit

import pydantic

from ncbatch import layout
from ncbatch.cli.flags import flag_of
from ncbatch.cli.variant_flags import INPUTS, VARIANT
from ncbatch.codec.recipe import LearnedRecipe, RefinedRecipe
from ncbatch.models import zoo
from ncbatch.plan.request import with_defaults
from ncbatch.plan.spec import RunSpec, Variant

_ALWAYS = ("method", "name", "lmbda", "steps", "quality")
"""Fields that are said though they may have their defaults: those of a preset or a model would differ."""


def encode_command(spec: RunSpec, output_uri: str, more: Sequence[str] = ()) -> str:
    """`ncbatch encode` for a run, ready for a shell; names `--spec` in words for several variants.

    Args:
        more: flags of which a run says nothing, such as where its store is.
    """
    words = ["ncbatch", "encode", _place(spec.corpus), _place(output_uri)]
    words += _flags(INPUTS, spec)
    command = shlex.join([*words, *more])
    if len(spec.variants) > 1:
        return f"{command} --spec FILE  # the file that the run was planned with"
    (variant,) = spec.variants
    return f"{command} {shlex.join(_variant_flags(variant, output_uri))}"


def _place(uri: str) -> str:
    """A folder's path in the place of its URI, where this locale can show the path."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return uri
    try:
        path = unquote_to_bytes(parts.path).decode(sys.getfilesystemencoding())
    except UnicodeDecodeError:
        return uri
    return path.rstrip("/") or "/"


def _variant_flags(variant: Variant, output_uri: str) -> list[str]:
    recipe = variant.recipe
    required = {name: getattr(recipe, name) for name in _ALWAYS if name in type(recipe).model_fields}
    default = type(recipe).model_validate(required)
    searched = isinstance(recipe, RefinedRecipe) and recipe.target is not None
    known = [name for name in VARIANT.fields if not (searched and name == "lmbda")]
    words = list(_flags(known, recipe, default))
    if isinstance(recipe, LearnedRecipe) and not variant.ladder:
        words += [flag_of("model"), _model(variant, output_uri)]
    shown = variant.model_copy(update={"model": None})
    return [*words, *_flags(VARIANT.fields, shown, with_defaults(Variant(name=variant.name, recipe=recipe)))]


def _flags(
    known: Iterable[str], model: pydantic.BaseModel, default: pydantic.BaseModel | None = None
) -> Iterator[str]:
    """Of the fields that the command line knows: those that are not as they are by default."""
    for name in known:
        field = type(model).model_fields.get(name)
        if field is None:
            continue
        value = getattr(model, name)
        standard = field.default if default is None else getattr(default, name)
        if value == standard and name not in _ALWAYS:
            continue
        flag = flag_of(name)
        if value is True:
            yield flag
        else:
            yield from (f"{flag}={one}" for one in (value if isinstance(value, tuple) else (value,)))


def _model(variant: Variant, output_uri: str) -> str:
    """The built-in model while it is what it was, else the checkpoint that the run keeps."""
    assert variant.model is not None and variant.model_digest is not None
    facts = zoo.builtin_facts().get(variant.model)
    if facts is not None and facts.digest == variant.model_digest:
        return variant.model
    return output_uri + layout.model_key(variant.model_digest)
