"""The command line that goes on with a run, told from what the run says of itself."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_to_bytes, urlsplit

from ncbatch import layout
from ncbatch.codec.recipe import LearnedRecipe, RefinedRecipe
from ncbatch.models import zoo
from ncbatch.plan.spec import RunSpec, Variant

_FLAGS = (
    "learning_rate", "decay", "seed", "rounding", "noise", "tau0", "annealing_rate", "plateau", "bbvi_steps",
    "bbvi_learning_rate",
)  # fmt: skip


def encode_command(spec: RunSpec, output_uri: str, more: Sequence[str] = ()) -> str:
    """`ncbatch encode` for a run, ready for a shell; names `--spec` in words where flags cannot say it.

    Args:
        more: flags of which a run says nothing, such as where its store is.
    """
    words = ["ncbatch", "encode", _place(spec.corpus), _place(output_uri)]
    for pattern in spec.include:
        words.append(f"--include={pattern}")
    for pattern in spec.exclude:
        words.append(f"--exclude={pattern}")
    if spec.manifest:
        words += ["--manifest", spec.manifest]
    command = shlex.join([*words, *more])
    flags = _variant_flags(spec.variants[0], output_uri) if len(spec.variants) == 1 else None
    if flags is None:
        return f"{command} --spec FILE  # the file that the run was planned with"
    return f"{command} {shlex.join(flags)}"


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


def _variant_flags(variant: Variant, output_uri: str) -> list[str] | None:
    """The flags of a variant; None where it has settings that only a spec file can give."""
    said = list(_recipe_flags(variant.recipe)) if isinstance(variant.recipe, LearnedRecipe) else []
    if any(name not in _FLAGS for name, _ in said):
        return None
    recipe, words = variant.recipe, ["--method", variant.recipe.method]
    if isinstance(recipe, LearnedRecipe):
        words += ["--model", _model(variant, output_uri), "--lmbda", repr(recipe.lmbda)]
        words += ["--steps", str(recipe.steps)] if isinstance(recipe, RefinedRecipe) else []
    else:
        words += ["--quality", str(recipe.quality)]
    for name, value in said:
        words += [f"--{name.replace('_', '-')}", str(value)]
    default = Variant(name=variant.name, recipe=recipe)
    words += ["--name", variant.name]
    words += ["--alpha", variant.alpha] if variant.alpha != default.alpha else []
    words += ["--max-pixels", str(variant.max_pixels)] if variant.max_pixels != default.max_pixels else []
    return [*words, "--fall-back"] if variant.fall_back else words


def _recipe_flags(recipe: LearnedRecipe) -> Iterator[tuple[str, object]]:
    """What a recipe says besides its method, lmbda and steps."""
    default = type(recipe).model_validate(recipe.model_dump(include={"lmbda", "steps"}))
    for name in type(recipe).model_fields:
        if getattr(recipe, name) != getattr(default, name):
            yield name, getattr(recipe, name)


def _model(variant: Variant, output_uri: str) -> str:
    """The built-in model while it is what it was, else the checkpoint that the run keeps."""
    assert variant.model is not None and variant.model_digest is not None
    facts = zoo.builtin_facts().get(variant.model)
    if facts is not None and facts.digest == variant.model_digest:
        return variant.model
    return output_uri + layout.model_key(variant.model_digest)
