"""What a run is: its corpus and its variants. Fixed once planned."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Set
from typing import Any, Literal

import pydantic

from ncbatch import layout
from ncbatch.codec.methods import Recipe
from ncbatch.codec.recipe import LATER, STORED
from ncbatch.errors import RunError, SpecMismatchError
from ncbatch.images.limits import MAX_BYTES, ImageLimits
from ncbatch.images.reading import Alpha, Color, Frames, Metadata, Reading
from ncbatch.store import AccessDenied, ObjectNotFound, Store

UNSAID: dict[str, Any] = {"max_bytes": MAX_BYTES, "color": "ignore", "metadata": "strip", "frames": "first"}
"""Fields of variants that came after runs had been written, each with what those runs do: digests leave it
out, so that they keep theirs."""


class LadderModel(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A model that a search for a target may choose. lmbda: that it was trained with."""

    name: str
    digest: str
    lmbda: float


class Variant(pydantic.BaseModel, frozen=True, extra="forbid"):
    """One named encoding recipe: everything that decides what an image becomes."""

    name: str = pydantic.Field(
        description="name of the variant, which stands in its rows and in its bitstreams' keys",
        json_schema_extra={
            "unit": "NAME",
            "default": "the name of the preset, else of the method; of a classical codec with its quality, "
            "such as jpeg-80",
        },
    )
    model: str | None = pydantic.Field(
        None,
        description="built-in name (see `ncbatch models`), checkpoint file or URI, a training's --out "
        "folder, or compressai:mbt2018-mean/<1..8>",
        json_schema_extra={"unit": "MODEL", "default": "the built-in one trained nearest to --lmbda"},
    )
    """As it was asked for, the digest decides; None of classical codecs, and where there is a ladder."""
    model_digest: str | None = None
    ladder: tuple[LadderModel, ...] = ()
    """With a target: the models to choose from, by ascending lmbda, in the place of one."""
    recipe: Recipe
    alpha: Alpha = pydantic.Field(
        "refuse",
        description="what to do with transparent pixels; keep: carry the alpha channel along without loss, "
        "back into the PNG that `decode` writes; white, black: put that behind them; refuse: such an image "
        "becomes a failed row",
    )
    color: Color = pydantic.Field(
        "ignore",
        description="what to do with an embedded colour profile; convert: make the pixels sRGB by it; keep: "
        "leave the pixels as they are and carry the profile along, back into the PNG that `decode` writes; "
        "ignore: leave the pixels as they are and drop it",
        json_schema_extra={"default": "convert"},
    )
    metadata: Metadata = pydantic.Field(
        "strip",
        description="whether EXIF and XMP are carried along, back into the PNG that `decode` writes",
        json_schema_extra={"default": "keep, in .ncb files"},
    )
    frames: Frames = pydantic.Field(
        "first",
        description="what to do with a file of several frames or pages, such as an animation; first: encode "
        "the first one, and say in the row how many were dropped; refuse: such a file becomes a failed row",
    )
    max_pixels: int = pydantic.Field(
        ImageLimits().max_pixels, gt=0,
        description="an image with more pixels than this becomes a failed row",
        json_schema_extra={"default": "100 million"},
    )  # fmt: skip
    max_bytes: int = pydantic.Field(
        MAX_BYTES, gt=0,
        description="an object larger than this becomes a failed row, and is not even fetched",
        json_schema_extra={"default": "1 GiB"},
    )  # fmt: skip
    fall_back: bool = pydantic.Field(
        False,
        description="publish the amortized encoding where refinement diverges or a file fails its check; "
        "without this, such an image becomes a failed row",
    )

    @pydantic.field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", name):
            raise ValueError("must be up to 64 letters, digits, '.', '_', '+' or '-'")
        return name

    @property
    def reading(self) -> Reading:
        """How its images are read."""
        limits = ImageLimits(max_pixels=self.max_pixels)
        return Reading(self.alpha, self.color, self.metadata, self.frames, self.recipe.carries, limits)

    @property
    def digest(self) -> str:
        """Of everything but the names."""
        return _digest(self.digested({"name", "model"}))

    def digested(self, leaving_out: set[str]) -> dict[str, Any]:
        """What a digest is made of."""
        leaving_out = leaving_out | {name for name, value in UNSAID.items() if getattr(self, name) == value}
        content = self.model_dump(mode="json", exclude=leaving_out | {"recipe", "ladder"})
        if self.ladder:
            content["ladder"] = [model.digest for model in self.ladder]
        return content | {"recipe": self.recipe.digested()}

    @property
    def models(self) -> dict[str, str]:
        """Names of the models that it takes, by digest; none of classical codecs."""
        if self.model is not None and self.model_digest is not None:
            return {self.model_digest: self.model}
        return {model.digest: model.name for model in self.ladder}


class RunSpec(pydantic.BaseModel, frozen=True, extra="forbid"):
    """The immutable part of `run.json`.

    corpus: canonical URI.
    create_only: whether the output's store honours create-only puts (see `layout.bitstream_key`).
    """

    corpus: str
    include: tuple[str, ...] = pydantic.Field(
        (),
        description="keys to take as images, such as '2024/*.png' ('*' also crosses '/'); may be given "
        "several times",
        json_schema_extra={"unit": "GLOB", "default": "whatever has the suffix of an image, or none"},
    )
    exclude: tuple[str, ...] = pydantic.Field(
        (),
        description="keys to leave out all the same, such as 'lost+found/*'; may be given several times",
        json_schema_extra={"unit": "GLOB", "default": "none"},
    )
    manifest: str | None = pydantic.Field(
        None,
        description="Parquet or CSV table whose column `key` names the images",
        json_schema_extra={"unit": "FILE", "default": "the corpus is listed"},
    )
    shard_prefix: int = pydantic.Field(
        0, ge=0, le=4,
        description="hexadecimal digits of a hash that bitstreams' keys begin with, so that a bucket spreads "
        "the requests of many workers; 2 makes 256 prefixes",
        json_schema_extra={"unit": "DIGITS"},
    )  # fmt: skip
    output_format: Literal["files", "tar"] = pydantic.Field(
        "files",
        description="what bitstreams are written as: files, one for each image; or tar, one for each unit, "
        "which takes far fewer requests where images are small, and which webdataset reads as it is",
    )
    variants: tuple[Variant, ...] = pydantic.Field(min_length=1)
    create_only: bool = True

    @pydantic.model_validator(mode="after")
    def _distinct_names(self) -> RunSpec:
        names = [variant.name for variant in self.variants]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two variants are called {name!r}; give them names that tell them apart")
        return self

    @property
    def digest(self) -> str:
        """Of what was asked for; not of the store's abilities, nor of where a model came from."""
        left_out = {"create_only"}
        if not self.exclude:  # runs from before there was such a thing keep their digest
            left_out.add("exclude")
        if not self.shard_prefix:
            left_out.add("shard_prefix")
        if self.output_format == "files":
            left_out.add("output_format")
        return _digest(self.digested(left_out, {"model"}))

    def digested(self, leaving_out: set[str], of_variants: set[str]) -> dict[str, Any]:
        """What a digest is made of, without these fields of the spec and of its variants."""
        content = self.model_dump(mode="json", exclude=leaving_out | {"variants"})
        return content | {"variants": [variant.digested(of_variants) for variant in self.variants]}

    @property
    def models(self) -> dict[str, str]:
        """Names of the learned variants' models, by digest."""
        return {digest: name for variant in self.variants for digest, name in variant.models.items()}

    @property
    def max_pixels(self) -> int:
        """Of the largest image that any variant takes."""
        return max(variant.max_pixels for variant in self.variants)

    def variant(self, name: str) -> Variant:
        """The variant of this name."""
        return next(variant for variant in self.variants if variant.name == name)


class RunFile(pydantic.BaseModel, frozen=True, extra="forbid"):
    """`run.json`: the spec, the plan files of generation 0, and what made them."""

    format: Literal[1] = 1
    spec: RunSpec
    digest: str
    plan: tuple[str, ...]
    ncbatch_version: str
    torch_version: str
    created_at: str


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_run(store: Store) -> RunFile:
    """The run in an output folder.

    Raises:
        RunError: there is none, or its file is damaged or newer.
    """
    stored = find_run(store)
    if stored is None:
        raise RunError(
            f"{store.uri} holds no run: {layout.RUN} is missing; name the output of `ncbatch encode`"
        )
    return stored


def find_run(store: Store) -> RunFile | None:
    """The run in an output folder, or None where there is none; errors else as `read_run`."""
    try:
        data = store.get(layout.RUN)
    except ObjectNotFound:
        return None
    try:
        return RunFile.model_validate_json(data, context=STORED)
    except pydantic.ValidationError as error:
        raise RunError(
            f"{store.uri}{layout.RUN} is damaged or from a newer ncbatch; upgrade, or use another output"
        ) from error


def holds_run(store: Store, key: str) -> bool:
    """Whether the object is the `run.json` of a run; others may call theirs so, and keep it closed."""
    try:
        content = json.loads(store.get(key))
    except (ValueError, AccessDenied, ObjectNotFound):
        return False
    return isinstance(content, dict) and {"spec", "digest", "plan"} <= content.keys()


def stored_spec(output: Store) -> RunSpec | None:
    """The spec of the run in `output`, or None where there is no run."""
    stored = find_run(output)
    return None if stored is None else stored.spec


def check_same(stored: RunSpec, asked: RunSpec, uri: str) -> None:
    """Refuses to go on with a run under other settings.

    Raises:
        SpecMismatchError: naming every difference.
    """
    if stored.digest == asked.digest:
        return
    shared = {v.name for v in stored.variants} & {v.name for v in asked.variants}
    there, here = (_flat(_dumped(spec, shared)) for spec in (stored, asked))
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    later = {**LATER, **UNSAID, "shard_prefix": 0, "output_format": "files"}
    unsaid = {name: later.get(name.rpartition(".")[2], "-") for name in names}
    differences = [
        f"{name}: {there.get(name, unsaid[name])} there, {here.get(name, unsaid[name])} asked for"
        for name in names
    ]
    for where, spec in (("there", stored), ("asked for", asked)):
        if alone := [v.name for v in spec.variants if v.name not in shared]:
            differences.append(f"variants only {where}: {', '.join(alone)}")
    raise SpecMismatchError(
        f"{uri} holds a run with other settings; use its settings to continue it, or another output. "
        f"Differences: {'; '.join(differences)}"
    )


def _dumped(spec: RunSpec, variants: Set[str]) -> dict[str, Any]:
    """What says what a run's images become, with these of its variants."""
    chosen = tuple(v for v in spec.variants if v.name in variants)
    return spec.model_copy(update={"variants": chosen}).digested({"create_only"}, set())


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; lists of named things by their names."""
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        items = {entry.pop("name"): entry for entry in content}.items()
    else:
        return {prefix: content}
    return {k: v for name, value in items for k, v in _flat(value, f"{prefix}.{name}".lstrip(".")).items()}
