"""From what a user asked for, by flags or in a spec file, to a spec that says it completely."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from ncbatch.codec import methods
from ncbatch.codec.methods import CLASSICAL, CODECS, DEFAULT_METHOD, KINDS, LEARNED, Classical
from ncbatch.codec.recipe import PRESETS, LearnedRecipe, RefinedRecipe
from ncbatch.codec.target import TARGET_FIELDS
from ncbatch.errors import UsageError, first_problem, unknown
from ncbatch.models import catalog
from ncbatch.models.source import describe_model
from ncbatch.plan.spec import LadderModel, RunSpec, Variant
from ncbatch.store import ObjectNotFound, StoreOptions, open_store
from ncbatch.store.objects import portable, read_object

DEFAULT_LMBDA = 0.01

_VARIANT_FIELDS = ("alpha", "color", "metadata", "frames", "max_pixels", "max_bytes", "fall_back")
_OWN_FIELDS = ("name", "model", "preset")
FIELDS = (*_OWN_FIELDS, *methods.FIELDS, *_VARIANT_FIELDS)
"""What can be said of a variant."""

Request = dict[str, Any]
"""One variant as asked for: some of `FIELDS`."""


def make_spec(
    corpus: str,
    options: StoreOptions,
    requests: Sequence[Request],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    manifest: str | None = None,
    shard_prefix: int = 0,
    output_format: Literal["files", "tar"] = "files",
) -> RunSpec:
    """A run of some variants.

    Raises:
        UsageError: a value is out of range, or a variant's name is used twice; the message names it.
    """
    variants = []
    for request in requests:
        try:
            variants.append(make_variant(request, options))
        except (pydantic.ValidationError, UsageError) as error:
            where = f"variant {request.get('name')}: " if len(requests) > 1 else ""
            problem = str(error) if isinstance(error, UsageError) else first_problem(error)
            raise UsageError(where + problem) from error
    try:
        return RunSpec(
            corpus=open_store(corpus, options).uri,
            include=tuple(include),
            exclude=tuple(exclude),
            manifest=manifest and portable(manifest if "://" in manifest else str(Path(manifest).absolute())),
            shard_prefix=shard_prefix,
            output_format=output_format,
            variants=tuple(variants),
        )
    except pydantic.ValidationError as error:
        raise UsageError(first_problem(error)) from error


def make_variant(request: Request, options: StoreOptions) -> Variant:
    """A variant with everything filled in.

    Without a model it is the built-in one trained nearest to lmbda; without lmbda it is the model's own;
    without both it is `DEFAULT_LMBDA`. With a target and without a model, it has all the built-in ones.
    Without a name it is the method's, or the preset's.

    Raises:
        pydantic.ValidationError: a value is out of range.
        UsageError: an unknown preset. ModelError: no such model.
    """
    rest = {n: request[n] for n in _VARIANT_FIELDS if n in request}
    if request.get("method") in CODECS:
        classical = _classical(request)
        name = request.get("name") or f"{classical.method}-{classical.quality}"
        return _carrying(Variant(name=name, recipe=classical, **rest), request)
    method = str(request.get("method", DEFAULT_METHOD))
    if method not in LEARNED:
        raise UsageError(f"--method: {unknown(method, KINDS)}")
    if "quality" in request:
        raise UsageError(f"--quality is for the codecs {', '.join(CODECS)}; learned methods have --lmbda")
    name = request.get("model") and portable(request["model"])
    model = describe_model(name, options) if name else None
    _check_target(request)
    lmbda = request.get("lmbda", model.info.lmbda if model else DEFAULT_LMBDA)
    preset = request.get("preset")
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"--preset: {unknown(preset, PRESETS)}")
    kind = LEARNED[method]
    fields = {n: request[n] for n in methods.FIELDS if n in request} | {"method": method, "lmbda": lmbda}
    recipe = kind.model_validate({**(kind.preset(preset) if preset else {}), **fields})
    ladder: tuple[LadderModel, ...] = ()
    if model is None and isinstance(recipe, RefinedRecipe) and recipe.target is not None:
        ladder = _builtin_ladder(options)
    elif model is None:
        name = catalog.nearest_builtin(recipe.lmbda, "bits-back" if recipe.uses_bits_back else "base")
        model = describe_model(name, options)
    elif recipe.uses_bits_back and model.info.kind != "bits-back":
        raise UsageError(
            f"--model: {name} is of the kind base; the method {recipe.method} needs one of the kind bits-back"
        )
    variant = Variant(
        name=request.get("name") or preset or recipe.method,
        model=name,
        model_digest=model.digest if model else None,
        ladder=ladder,
        recipe=recipe,
        **rest,
    )
    return _carrying(variant, request)


def with_defaults(variant: Variant) -> Variant:
    """The variant with what is carried by default, where nothing is said of it."""
    metadata = "keep" if variant.recipe.carries else "strip"
    return variant.model_copy(update={"color": "convert", "metadata": metadata})


_CARRIED = (("color", "convert or ignore"), ("metadata", "strip"), ("alpha", "white or black"))
"""What may be kept in .ncb files, and what to say where files have no room for it."""


def _carrying(variant: Variant, request: Request) -> Variant:
    """The variant with its defaults of what is carried.

    Raises:
        UsageError: it is to carry what its files have no room for.
    """
    for name, fix in _CARRIED:
        if request.get(name) == "keep" and not variant.recipe.carries:
            files = "packs" if variant.recipe.uses_bits_back else f"{variant.recipe.suffix} files"
            raise UsageError(
                f"--{name} keep: the {files} of the method {variant.recipe.method} hold images only; "
                f"give --{name} {fix}"
            )
    said: dict[str, Any] = {name: getattr(variant, name) for name in ("color", "metadata") if name in request}
    return with_defaults(variant).model_copy(update=said)


def _check_target(request: Request) -> None:
    given = [name for name in TARGET_FIELDS if request.get(name) is not None]
    if given and "lmbda" in request:
        flag = given[0].replace("_", "-")
        raise UsageError(f"--lmbda cannot be given beside --{flag}, for which it is searched; leave one out")


def _builtin_ladder(options: StoreOptions) -> tuple[LadderModel, ...]:
    """The built-in models of the kind base, by ascending lmbda."""
    described = {name: describe_model(name, options) for name in catalog.builtin_models("base")}
    models = [
        LadderModel(name=name, digest=model.digest, lmbda=model.info.lmbda)
        for name, model in described.items()
    ]
    return tuple(sorted(models, key=lambda model: model.lmbda))


def _classical(request: Request) -> Classical:
    fields = {n: v for n, v in request.items() if n not in ("name", *_VARIANT_FIELDS)}
    kind = CLASSICAL[request["method"]]
    unfit = [name for name in fields if name not in kind.model_fields]
    if unfit:
        raise UsageError(f"--{unfit[0].replace('_', '-')} is not for {request['method']}; it has --quality")
    if "quality" not in fields:
        raise UsageError(f"--quality is missing: {request['method']} needs one")
    return kind.model_validate(fields)


def read_spec_file(uri: str, options: StoreOptions) -> list[Request]:
    """The variants of a YAML file.

    It has a list `variants`; each entry says some of `FIELDS`. Where a value is a list, there is one variant
    for each of its values, and for each combination where several are; their names tell them apart, or `name`
    does with `{field}` in it. In such a product, fields that a method does not have are left out for it.

    Raises:
        UsageError: not such a file; the message names the entry and the field.
    """
    content = _spec_content(uri, options)
    return [
        request
        for number, entry in enumerate(content["variants"], 1)
        for request in expand(entry, f"variant {number} of {uri}")
    ]


def storage_profile(uri: str, options: StoreOptions) -> StoreOptions:
    """The options with those of the mapping `storage` in a spec file, where nothing else was said.

    Its keys are those of `--storage-option`; those for one bucket only stand below `buckets` and its name.

    Raises:
        UsageError: there is no such option, or it cannot have such a value.
    """
    profile = _spec_content(uri, options).get("storage") or {}
    if not isinstance(profile, dict):
        raise UsageError(f"`storage` in the spec file {uri} is not a mapping of options")
    buckets = profile.get("buckets") or {}
    if not isinstance(buckets, dict) or not all(isinstance(mine, dict) for mine in buckets.values()):
        raise UsageError(f"`buckets` in the spec file {uri} is not a mapping of buckets to options")
    words = [_word(key, value) for key, value in profile.items() if key != "buckets"]
    words += [_word(f"{name}:{key}", value) for name, mine in buckets.items() for key, value in mine.items()]
    given = {word.partition("=")[0] for word in options.storage_option}
    added = tuple(word for word in words if word.partition("=")[0] not in given)
    try:
        return replace(options, storage_option=options.storage_option + added)
    except UsageError as error:
        raise UsageError(f"`storage` in the spec file {uri}: {error}") from error


def _word(key: str, value: Any) -> str:
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def _spec_content(uri: str, options: StoreOptions) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_object(uri, options))
    except ObjectNotFound as error:
        raise UsageError(f"there is no spec file {uri}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"the spec file {uri} is not valid YAML: {' '.join(str(error).split())}") from error
    entries = content.get("variants") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or set(content) - {"variants", "storage"}:
        raise UsageError(
            f"the spec file {uri} must hold one list of mappings called `variants`, and beside it at most a "
            "mapping called `storage`"
        )
    return dict(content)


def expand(entry: Any, where: str) -> Iterator[Request]:
    """The variants that an entry of a spec file stands for; `where` is what messages call it."""
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is not a mapping of fields")
    strange = [str(field) for field in entry if field not in FIELDS]
    if strange:
        raise UsageError(f"{where} has an unknown field: {unknown(strange[0], FIELDS)}")
    axes = {field: value for field, value in entry.items() if isinstance(value, list)}
    empty = [field for field, value in axes.items() if not value]
    if empty:
        raise UsageError(f"{where} has an empty list for {empty[0]!r}; give it a value or leave it out")
    seen = []
    for values in itertools.product(*axes.values()):
        request = entry | dict(zip(axes, values, strict=True))
        if "method" in axes:
            request = _fitting(request)
        if request in seen:  # steps are no axis for the method amortized
            continue
        seen.append(request)
        yield request | {"name": _name(request, [field for field in axes if field in request], where)}


def _fitting(request: Request) -> Request:
    """A request without what its method does not have."""
    kind = KINDS.get(request["method"])
    if kind is None:
        return request  # which is said where the variant is made
    fields = {"name", *kind.model_fields, *_VARIANT_FIELDS} - (set() if kind.carries else {"metadata"})
    if issubclass(kind, LearnedRecipe):
        fields |= {"model", "preset"} if kind.presets else {"model"}
    return {name: value for name, value in request.items() if name in fields}


def _name(request: Request, axes: Sequence[str], where: str) -> str | None:
    if request.get("name"):
        try:
            return str(request["name"]).format_map(request)
        except (KeyError, ValueError, IndexError) as error:
            raise UsageError(
                f"{where}: the name {request['name']!r} refers to a field that it does not set: {error}"
            ) from error
    words = [str(request.get("preset") or request.get("method", DEFAULT_METHOD))]
    words += [str(request[field]).rsplit("/", 1)[-1] for field in axes if str(request[field]) not in words]
    return "-".join(words)
