"""The flags of a variant and of a run's inputs: the fields of recipes, variants and specs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from pydantic.fields import FieldInfo

from ncbatch.cli.flags import Given
from ncbatch.codec import methods
from ncbatch.codec.methods import CODECS, DEFAULT_METHOD, METHODS, PACKED_METHODS
from ncbatch.codec.recipe import PRESETS
from ncbatch.codec.target import TARGET_FIELDS
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.settings import Setting, stated


def _default(methods_: Sequence[str], name: str) -> str:
    """A recipe's field by default, under some methods; nothing of what is no recipe's."""
    return methods.default_of(name, methods_) if name in _RECIPE and _has(methods_, name) else ""


def _has(methods_: Sequence[str], name: str) -> bool:
    return any(name in methods.KINDS[method].model_fields for method in methods_)


def _refusing(field: FieldInfo) -> Setting:
    """Of a pack, which has no rows."""
    setting = stated(field)
    return replace(setting, text=setting.text.replace("becomes a failed row", "is an error"))


def _method(choices: Sequence[str], description: str, default: str) -> FieldInfo:
    return FieldInfo(
        annotation=cast(Any, Literal[tuple(choices)]), description=description, default=default,
        json_schema_extra={"unit": "METHOD"},
    )  # fmt: skip


_METHOD = _method(
    (*METHODS, *CODECS),
    f"how latents are found: {', '.join(METHODS)}; or a classical codec, to compare with: "
    f"{', '.join(CODECS)}",
    DEFAULT_METHOD,
)
_PACKED_METHOD = _method(PACKED_METHODS, "how latents and their posterior are found", "sga+bits-back")
_PRESET = FieldInfo(
    annotation=str,
    description=f"settings by name: {', '.join(PRESETS)}; they replace the defaults of the flags below, and "
    "flags given beside them win",
    default="paper",
    json_schema_extra={"unit": "NAME"},
)
_ALONE = {"method", "quality"}
_RECIPE = {name: field for name, field in methods.FIELDS.items() if name not in _ALONE}
_VARIANT = Variant.model_fields

VARIANT = Given(
    {
        "method": _METHOD,
        "quality": methods.FIELDS["quality"],
        **{name: _VARIANT[name] for name in ("name", "fall_back")},
        "preset": _PRESET,
        **_RECIPE,
        **{
            name: _VARIANT[name]
            for name in ("model", "alpha", "color", "metadata", "frames", "max_pixels", "max_bytes")
        },
    },
    partial(_default, METHODS),
)
"""What can be said of a variant, in the order of the help."""

PACKED = Given(
    {
        "method": _PACKED_METHOD,
        "preset": _PRESET,
        **{
            name: field
            for name, field in _RECIPE.items()
            if _has(PACKED_METHODS, name) and name not in TARGET_FIELDS
        },
        **{name: _VARIANT[name] for name in ("model", "alpha", "color", "frames", "max_pixels")},
    },
    partial(_default, PACKED_METHODS),
    {name: _refusing(_VARIANT[name]) for name in ("alpha", "frames", "max_pixels")},
)
"""What can be said of the images of a pack."""

INPUTS = {
    name: RunSpec.model_fields[name]
    for name in ("include", "exclude", "manifest", "shard_prefix", "output_format")
}
"""What can be said of a run's inputs, and of where its outputs go."""
