"""The arguments of the commands that end in a report."""

from __future__ import annotations

import argparse

from ncbatch.cli.arguments import (
    RUN,
    dry_run_argument,
    how_arguments,
    place_arguments,
    price_argument,
    which_arguments,
)
from ncbatch.cli.flag_types import Numbers, key_text, natural, positive_float, positive_int, quality
from ncbatch.codec.methods import CODECS, METHODS


def report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", help=RUN)
    page_arguments(parser)


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    place_arguments(parser, "the run; an interrupted one there is continued")
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--ladder", choices=("base", "bits-back"), default="base",
        help="kind of the built-in models that the methods use (those of bits-back always use bits-back); "
        "default: base",
    )  # fmt: skip
    what.add_argument(
        "--methods", default="amortized,sga", metavar="NAME,...",
        help=f"methods to compare, of {', '.join(METHODS)}; default: %(default)s",
    )  # fmt: skip
    what.add_argument(
        "--lmbdas", type=Numbers(positive_float), metavar="WEIGHT,...",
        help="rates to compare at, each with the built-in model trained nearest to it; default: those of all "
        "built-in models",
    )  # fmt: skip
    what.add_argument(
        "--steps", type=positive_int, default=200, metavar="N",
        help="steps of refinement, of the methods that refine; default: 200",
    )  # fmt: skip
    what.add_argument(
        "--codecs", default="", metavar="NAME,...",
        help=f"classical codecs to compare with, of {', '.join(CODECS)}; default: none",
    )  # fmt: skip
    what.add_argument(
        "--qualities", type=Numbers(quality), default="20,40,60,80,90", metavar="Q,...",
        help="qualities of the classical codecs; default: %(default)s",
    )  # fmt: skip
    which_arguments(parser)
    how_arguments(parser)
    dry_run_argument(parser)
    page_arguments(parser)


def page_arguments(parser: argparse.ArgumentParser) -> None:
    page = parser.add_argument_group("the report")
    page.add_argument(
        "--out",
        metavar="PLACE",
        help="folder or s3:// prefix for the page; default: report/ in the run's output",
    )
    price_argument(page)
    page.add_argument(
        "--thumbnails", type=natural, metavar="N",
        help="how many of the worst images to show, with half as many of the median and the best; each is "
        "decoded, which takes time; 0: none; default: 8, or fewer where the images are large",
    )  # fmt: skip
    page.add_argument(
        "--images", type=key_text, metavar="KEY,...",
        help="images to compare behind a slider; default: the two that refinement improves most",
    )  # fmt: skip
    page.add_argument(
        "--no-images",
        "--no-pictures",
        action="store_true",
        help="show no images, neither small ones nor behind a slider; faster",
    )
    page.add_argument(
        "--reference", metavar="SERIES",
        help="series that BD-rates and rate savings are against; default: amortized, else the first curve",
    )  # fmt: skip
    page.add_argument(
        "--dataset", metavar="NAME",
        help="draw the published curves of kodak or tecnick beside the run's, or none; default: that of "
        "the two whose name is in the corpus's name, else none",
    )  # fmt: skip
    page.add_argument(
        "--published", metavar="FILE",
        help="CSV table with published points to draw; default: the built-in ones",
    )  # fmt: skip
