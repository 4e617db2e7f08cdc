"""Variants joined to series: which variants make a curve, and what it is called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ncbatch.codec.recipe import LearnedRecipe, RefinedRecipe
from ncbatch.plan.spec import Variant

AMORTIZED = "amortized"

# What may tell two series of one method apart, the most telling first.
_TELLING = (
    "steps", "model", "rounding", "noise", "learning_rate", "decay", "tau0", "annealing_rate", "plateau",
    "beta1", "beta2", "check_every", "bbvi_steps", "bbvi_learning_rate",
)  # fmt: skip


_AVERAGED = (
    "bpp", "psnr", "ms_ssim_db", "ms_ssim_bpp", "rd_loss", "amortized_bpp", "amortized_psnr",
    "amortized_rd_loss", "encode_seconds", "device_seconds", "decode_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Means:
    """One variant, averaged over the images that are ok under every variant.

    Attributes:
        psnr: in dB, without the images that came back exactly; likewise amortized_psnr.
        ms_ssim_db: mean of -10 log10(1 - MS-SSIM) over the images that are large enough for it; None where
            there are none.
        ms_ssim_images: how many those are.
        ms_ssim_bpp: their rate.
    """

    variant: str
    method: str
    model: str | None
    lmbda: float | None
    steps: int | None
    images: int
    bpp: float
    psnr: float
    ms_ssim_db: float | None
    ms_ssim_images: int
    ms_ssim_bpp: float | None
    rd_loss: float | None
    amortized_bpp: float | None
    amortized_psnr: float | None
    amortized_rd_loss: float | None
    encode_seconds: float | None
    device_seconds: float | None
    decode_seconds: float | None

    @property
    def is_refined(self) -> bool:
        """Whether the images were refined: a learned method other than the encoder network alone."""
        return self.method != AMORTIZED and self.rd_loss is not None

    @property
    def saved_percent(self) -> float | None:
        """How much of the amortized R-D loss refinement saved; None without refinement."""
        if self.rd_loss is None or self.amortized_rd_loss is None:
            return None
        return 100 * (1 - self.rd_loss / self.amortized_rd_loss)


def join_series(
    variants: Sequence[Variant], means: Sequence[Means]
) -> tuple[dict[str, tuple[Means, ...]], dict[str, tuple[str, ...]]]:
    """Joins the variants that share everything but their rate, in the order of the spec.

    A ladder of models, each at one lmbda, is a curve; so is one model at several lmbdas. Seeds are averaged.

    Returns:
        The points of each series by its label, and the names of the variants in it.
    """
    found = {m.variant: m for m in means}
    alike: dict[tuple[Any, ...], list[Variant]] = defaultdict(list)
    for variant in variants:
        if variant.name in found:
            told = variant.recipe.uses_bits_back or not (variant.model or "").startswith("bits-back")
            recipe = variant.recipe.model_dump(exclude={"lmbda", "seed", "quality"})
            recipe["kind"] = "" if told else "bits-back model"
            alike[tuple(recipe.items())].append(variant)
    own = _own_lmbdas(variants)
    groups: dict[tuple[Any, ...], list[Means]] = {}
    names: dict[tuple[Any, ...], tuple[str, ...]] = {}
    recipes: dict[tuple[Any, ...], dict[str, Any]] = {}
    for recipe_items, members in alike.items():
        for model, chosen in _by_model(members, own).items():
            key = (*recipe_items, ("model", model))
            groups[key] = _seeds_averaged(chosen, found)
            names[key] = tuple(variant.name for variant in chosen)
            recipes[key] = dict(key)
    labels = _labels(recipes)
    series = {labels[key]: tuple(sorted(points, key=lambda m: m.bpp)) for key, points in groups.items()}
    refined = [points for points in series.values() if points[0].rd_loss is not None]
    if AMORTIZED not in series and refined:
        series[AMORTIZED] = tuple(map(_unrefined, refined[0]))
    return series, {labels[key]: members for key, members in names.items()}


def _seeds_averaged(variants: Sequence[Variant], found: dict[str, Means]) -> list[Means]:
    """A curve's points; variants that differ in their seed only are one point."""
    points: dict[tuple[Any, ...], list[Means]] = defaultdict(list)
    for variant in variants:
        said = variant.recipe.model_dump(exclude={"seed"})
        points[(variant.model, *said.items())].append(found[variant.name])
    return [_average(same) for same in points.values()]


def _average(means: Sequence[Means]) -> Means:
    first, *others = means
    if not others:
        return first
    averaged: dict[str, Any] = {}
    for name in _AVERAGED:
        values = [getattr(m, name) for m in means]
        averaged[name] = None if None in values else sum(values) / len(values)
    return replace(first, variant=f"{first.variant} and {len(others)} other seeds", **averaged)


def _lmbda(variant: Variant) -> float | None:
    recipe = variant.recipe
    if isinstance(recipe, RefinedRecipe) and recipe.target is not None:
        return None  # each image has its own
    return recipe.lmbda if isinstance(recipe, LearnedRecipe) else None


def _own_lmbdas(variants: Sequence[Variant]) -> dict[str | None, float | None]:
    """The lmbda that each model has most often in a run, if there is one such."""
    counts: dict[str | None, Counter[float | None]] = defaultdict(Counter)
    for variant in variants:
        counts[variant.model][_lmbda(variant)] += 1
    own = {}
    for model, lmbdas in counts.items():
        (first, most), *rest = lmbdas.most_common(2)
        if not rest or rest[0][1] < most:
            own[model] = first
    return own


def _by_model(members: Sequence[Variant], own: dict[str | None, float | None]) -> dict[str, list[Variant]]:
    """Variants that share their recipe as curves: "" names the ladder's, a model's name those of that
    model.
    """
    models = {v.model for v in members}
    if len(models) == 1:
        return {"": list(members)}
    ladder = [v for v in members if v.model in own and own[v.model] == _lmbda(v)]
    if len({_lmbda(v) for v in ladder}) < len(
        {v.model for v in ladder}
    ):  # models beside each other, no ladder
        ladder = []
    rest = {v.model for v in members if v not in ladder}
    curves = {str(model): [v for v in members if v.model == model] for model in rest}
    return ({"": ladder} if ladder else {}) | curves


def _unrefined(refined: Means) -> Means:
    """The amortized encodings from which a refined variant began, which its rows know."""
    assert refined.amortized_bpp is not None and refined.amortized_psnr is not None
    return Means(
        **{
            **vars(refined),
            "variant": f"{refined.variant} before refinement",
            "method": AMORTIZED,
            "bpp": refined.amortized_bpp,
            "psnr": refined.amortized_psnr,
            "rd_loss": refined.amortized_rd_loss,
            "ms_ssim_images": 0,
            **dict.fromkeys(
                ("ms_ssim_db", "ms_ssim_bpp", "encode_seconds", "device_seconds", "decode_seconds")
            ),
        }
    )


def _labels(recipes: dict[tuple[Any, ...], dict[str, Any]]) -> dict[tuple[Any, ...], str]:
    """The shortest labels that tell recipes apart."""
    labels = {
        key: " ".join(filter(None, (recipe["method"], recipe["kind"]))) for key, recipe in recipes.items()
    }
    for field in _TELLING:
        groups: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for key, label in labels.items():
            groups[label].append(key)
        for keys in groups.values():
            if len({recipes[key].get(field) for key in keys}) > 1:
                for key in keys:
                    value = recipes[key].get(field)
                    if value != "":  # a ladder has no one model
                        labels[key] += f", {value} steps" if field == "steps" else f", {field} {value}"
    return labels
