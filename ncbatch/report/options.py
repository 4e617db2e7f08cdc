"""What a report shows, as its user states it; light, so that a wrong flag is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ncbatch.settings import Setting, at_least_zero, key_text, natural


def _keys(text: str) -> tuple[str, ...]:
    return tuple(key_text(text).split(","))


@dataclass(frozen=True)
class PageOptions:
    """What a page shows.

    reference: label of a series; None: the amortized one where it is a curve, else the first.
    price_per_hour: of a device; None leaves costs out. Commands have a flag of their own for it.
    storage_price: of a gigabyte for a month; None leaves out what smaller files save.
    images: to compare, and whose traces are drawn. thumbnails: None: as many as are quickly decoded.
    """

    reference: Annotated[str | None, Setting(
        "series that BD-rates and rate savings are against", "SERIES",
        default="amortized, else the first curve",
    )] = None  # fmt: skip
    price_per_hour: float | None = None
    storage_price: Annotated[float | None, Setting(
        "what the store asks for a gigabyte and a month, in the same currency as other prices, to tell what "
        "the smaller files save", "PRICE", at_least_zero, default="that is left out", environment=True,
    )] = None  # fmt: skip
    images: Annotated[tuple[str, ...], Setting(
        "images to compare behind a slider", "KEY,...", _keys,
        default="the two that refinement improves most",
    )] = ()  # fmt: skip
    thumbnails: Annotated[int | None, Setting(
        "how many of the worst images to show, with half as many of the median and the best; each is "
        "decoded, which takes time; 0: none", "N", natural, default="8, or fewer where the images are large",
    )] = None  # fmt: skip
    no_images: Annotated[bool, Setting(
        "show no images, neither small ones nor behind a slider; faster", also=("no-pictures",),
    )] = False  # fmt: skip
    decode_in_browser: Annotated[bool, Setting(
        "let the page itself decode the .ncb files of the sliders, in place of showing images of what they "
        "decode to; their models come to lie beside the page",
    )] = False  # fmt: skip
    dataset: Annotated[str | None, Setting(
        "draw the published curves of kodak or tecnick beside the run's, or none", "NAME",
        default="that of the two whose name is in the corpus's name, else none",
    )] = None  # fmt: skip
    published: Annotated[str | None, Setting(
        "CSV table with published points to draw", "FILE", default="the built-in ones",
    )] = None  # fmt: skip
