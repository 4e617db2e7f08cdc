"""A run's table condensed to R-D curves: means of each variant, over the images that can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from ncbatch.metrics.sql import one_of
from ncbatch.report.bd_rate import Curve
from ncbatch.report.errors import ReportError
from ncbatch.report.overview import RunFacts, read_facts
from ncbatch.report.rows import EXACT, Rows
from ncbatch.report.series import Means, join_series
from ncbatch.store import Store

# DuckDB's greatest passes over NULL: alone it would give an image without MS-SSIM the largest that there is.
_MS_SSIM_DB = "case when ms_ssim is not null then -10 * log10(greatest(1 - ms_ssim, 1e-10)) end"

_MEANS = f"""
with ok as (select * from metrics where status = 'ok' and variant {{variants}}),
common as (select image_key from ok group by image_key having count(distinct variant) = {{count}})
select variant, mode(method) as method, any_value(model) as model, any_value(lmbda) as lmbda,
       any_value(steps) as steps, count(*) as images, avg(bpp) as bpp,
       coalesce(avg(psnr) filter (not {EXACT}), max(psnr)) as psnr,
       avg({_MS_SSIM_DB}) as ms_ssim_db, count(ms_ssim) as ms_ssim_images,
       avg(bpp) filter (ms_ssim is not null) as ms_ssim_bpp, avg(rd_loss) as rd_loss,
       avg(amortized_bpp) as amortized_bpp,
       coalesce(avg(amortized_psnr) filter (not isinf(amortized_psnr)), max(amortized_psnr))
           as amortized_psnr,
       avg(amortized_rd_loss) as amortized_rd_loss, avg(encode_seconds) as encode_seconds,
       avg(device_seconds) as device_seconds, avg(decode_seconds) as decode_seconds
from ok {{common}} group by variant order by variant
"""

# Which images are ok under the same variants; there are few such sets, however many images there are.
_SHARED = """
select variants, count(*) as images
from (select image_key, list(distinct variant order by variant) as variants
      from metrics where status = 'ok' group by image_key)
group by variants
"""

_ALONE = "select [variant] as variants, count(*) as images from metrics where status = 'ok' group by variant"
"""The same where there is one variant, without all the keys of its images."""


@dataclass(frozen=True)
class Evaluation:
    """What a run shows.

    Attributes:
        facts: what the run was asked to do.
        means: of each variant.
        series: points of the variants that differ in rate only (lmbda, model, quality), by the label of their
            curve.
        members: names of the variants in each series.
        notes: what a reader of the figures must know, such as that images are pending.
    """

    facts: RunFacts
    means: tuple[Means, ...]
    series: dict[str, tuple[Means, ...]]
    members: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def corpus(self) -> str:
        """The URI of the images."""
        return self.facts.spec.corpus

    @property
    def has_curves(self) -> bool:
        """Whether any method was run at several rates."""
        return any(len(points) > 1 for points in self.series.values())

    @property
    def refined(self) -> list[str]:
        """The labels of the series whose images were refined."""
        return [label for label in self.members if self.series[label][0].is_refined]

    def curve(self, label: str) -> Curve:
        """Rates in bits per pixel and PSNR in dB of a series."""
        points = self.series[label]
        return Curve(label, [p.bpp for p in points], [p.psnr for p in points])

    def ms_ssim_curve(self, label: str) -> Curve | None:
        """Rates and MS-SSIM in dB of a series; None where all of its images were too small for MS-SSIM."""
        points = [(p.ms_ssim_bpp, p.ms_ssim_db) for p in self.series[label]]
        there = [(rate, quality) for rate, quality in points if rate is not None and quality is not None]
        return Curve(label, [r for r, _ in there], [q for _, q in there]) if there else None


def evaluate(output: Store, rows: Rows | None = None) -> Evaluation:
    """Reads a run, finished or not.

    Args:
        output: the run's folder.
        rows: its rows, where they have been read before.

    Raises:
        RunError: there is no run.
        ReportError: it has no row yet.
    """
    if rows is None:
        with Rows.of(output) as opened:
            return evaluate(output, opened)
    facts = read_facts(output)
    if not rows.any:
        raise ReportError(f"{output.uri} has no encoded image yet; there is nothing to report")
    compared, left_out = _comparable(
        [(frozenset(row["variants"]), row["images"]) for row in rows.select(_shared(rows))]
    )
    means = _means(rows, compared) if compared else ()
    notes = list(_notes(facts, means, left_out))
    missing = {variant.name for variant in facts.spec.variants} - {*compared, *left_out}
    if missing:
        notes.append(f"Nothing is ok yet of {', '.join(sorted(missing))}.")
    series, members = join_series(facts.spec.variants, means)
    return Evaluation(facts, means, series, members, tuple(notes))


def _shared(rows: Rows) -> str:
    names = rows.select("select distinct variant from metrics where status = 'ok'")
    return _ALONE if len(names) < 2 else _SHARED


def _means(rows: Rows, variants: Sequence[str]) -> tuple[Means, ...]:
    common = "join common using (image_key)" if len(variants) > 1 else ""
    sql = _MEANS.format(variants=one_of(tuple(variants)), count=len(variants), common=common)
    return tuple(Means(**row) for row in rows.select(sql))


def _notes(facts: RunFacts, means: Sequence[Means], left_out: Sequence[str]) -> Iterator[str]:
    if len(means) > 1:
        count = means[0].images
        images = "one image that is" if count == 1 else f"{count:,} images that are"
        yield f"Means are over the {images} ok under every variant."
    partly = [m for m in means if 0 < m.ms_ssim_images < m.images]
    if partly:
        few, all_ = partly[0].ms_ssim_images, partly[0].images
        yield f"MS-SSIM is over {few:,} of {all_:,} images; the others are too small for it."
    if left_out:
        yield f"Left out, with no image in common with the others yet: {', '.join(left_out)}."
    if facts.pending:
        yield f"The run is unfinished: {facts.pending:,} of {facts.planned:,} encodings are pending."


def _comparable(shared: Sequence[tuple[Set[str], int]]) -> tuple[list[str], list[str]]:
    """Variants that have images in common, those with the most images first; and the others.

    Args:
        shared: sets of variants, and how many images are ok under exactly these.
    """
    images: Counter[str] = Counter()
    for variants, count in shared:
        images.update(dict.fromkeys(variants, count))
    compared: list[str] = []
    left_out: list[str] = []
    common = [variants for variants, _ in shared]
    for name in sorted(images, key=lambda name: (-images[name], name)):
        narrowed = [variants for variants in common if name in variants]
        common = narrowed or common
        (compared if narrowed else left_out).append(name)
    return compared, sorted(left_out)
