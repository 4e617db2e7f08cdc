"""The arguments of the commands that encode images: into a run, or into a pack."""

from __future__ import annotations

import argparse
from typing import get_args

from ncbatch.cli.arguments import how_arguments, place_arguments, which_arguments
from ncbatch.cli.flag_types import at_least_zero, natural, positive_float, positive_int, quality
from ncbatch.codec.methods import CODECS, METHODS, PACKED_METHODS, default_of
from ncbatch.codec.recipe import PRESETS, Rounding


def encode_arguments(parser: argparse.ArgumentParser) -> None:
    place_arguments(parser, "bitstreams and metrics; an interrupted run there is continued")
    what = parser.add_argument_group("what an image becomes (fixed once the run is planned)")
    what.add_argument(
        "--spec", metavar="FILE",
        help="YAML file that describes several variants, in place of the flags below (see the README); "
        "default: one variant, described by these flags",
    )  # fmt: skip
    what.add_argument(
        "--method", choices=(*METHODS, *CODECS), metavar="METHOD",
        help=f"how latents are found: {', '.join(METHODS)}; or a classical codec, to compare with: "
        f"{', '.join(CODECS)}; default: sga",
    )  # fmt: skip
    what.add_argument(
        "--quality", type=quality, metavar="Q",
        help="quality of a classical codec, 0 to 100 (of bpg its quantiser, 0 to 51, where 0 is best); "
        "no default: these codecs need one",
    )  # fmt: skip
    what.add_argument(
        "--name", metavar="NAME",
        help="name of the variant, which stands in its rows and in its bitstreams' keys; default: the name "
        "of the preset, else of the method; of a classical codec with its quality, such as jpeg-80",
    )  # fmt: skip
    what.add_argument(
        "--fall-back", action="store_true",
        help="publish the amortized encoding where refinement diverges or a file fails its check; without "
        "this, such an image becomes a failed row",
    )  # fmt: skip
    recipe_arguments(what)
    which_arguments(parser)
    how_arguments(parser)


def recipe_arguments(what: argparse._ArgumentGroup, *, packs: bool = False) -> None:
    """How a learned codec finds latents, and what images it takes; into a run, or into one pack."""
    refused = "is an error" if packs else "becomes a failed row"

    def default(field: str) -> str:
        return "default: " + default_of(field, PACKED_METHODS if packs else METHODS).replace("%", "%%")

    what.add_argument(
        "--preset", metavar="NAME",
        help=f"settings by name: {', '.join(PRESETS)}; they replace the defaults of the flags below, and "
        "flags given beside them win; default: paper",
    )  # fmt: skip
    what.add_argument(
        "--lmbda", "--lambda", dest="lmbda", type=positive_float, metavar="WEIGHT",
        help="weight of the MSE (on 0..255) against the bits per pixel: larger means larger files of better "
        "quality; default: the one the model was trained with, or 0.01 without --model",
    )  # fmt: skip
    what.add_argument(
        "--steps", type=natural, metavar="N",
        help=f"steps of refinement; time grows in proportion; {default('steps')}",
    )  # fmt: skip
    what.add_argument(
        "--learning-rate", type=positive_float, metavar="RATE",
        help="Adam's learning rate in refinement; "
        + default("learning_rate"),
    )  # fmt: skip
    what.add_argument(
        "--decay", choices=("constant", "cosine"),
        help="what becomes of the learning rate over the steps: it stays, or falls to 2 %% along a cosine; "
        + default("decay"),
    )  # fmt: skip
    what.add_argument(
        "--seed", type=natural, metavar="N",
        help="seed of the noise in refinement: the same one gives the same files; default: 0",
    )  # fmt: skip
    what.add_argument(
        "--rounding", choices=get_args(Rounding),
        help="rounding probabilities of sga: the paper's (atanh), or those of SGA+; "
        + default("rounding"),
    )  # fmt: skip
    what.add_argument(
        "--noise", type=at_least_zero, metavar="FACTOR",
        help="factor of sga's Gumbel noise: less converges sooner; "
        + default("noise"),
    )  # fmt: skip
    what.add_argument(
        "--tau0", type=positive_float, metavar="TAU",
        help="temperature at the start: the lower, the nearer to rounding; " + default("tau0"),
    )  # fmt: skip
    what.add_argument(
        "--annealing-rate", type=at_least_zero, metavar="C",
        help="the temperature falls by a factor of exp(-C) each step; " + default("annealing_rate"),
    )  # fmt: skip
    what.add_argument(
        "--plateau", type=at_least_zero, metavar="STEPS",
        help="steps before the temperature starts to fall; 0 is the paper's naive schedule; "
        + default("plateau"),
    )  # fmt: skip
    what.add_argument(
        "--bbvi-steps", type=natural, metavar="N",
        help="steps of bits-back's inference, which encoding does twice and decoding once; "
        + default("bbvi_steps"),
    )  # fmt: skip
    what.add_argument(
        "--bbvi-learning-rate", type=positive_float, metavar="RATE",
        help="learning rate of bits-back's inference; " + default("bbvi_learning_rate"),
    )  # fmt: skip
    what.add_argument(
        "--model", metavar="MODEL",
        help="built-in name (see `ncbatch models`), checkpoint file or URI, a training's --out folder, or "
        "compressai:mbt2018-mean/<1..8>; default: the built-in one trained nearest to --lmbda",
    )  # fmt: skip
    what.add_argument(
        "--alpha", choices=("refuse", "white", "black"),
        help=f"what to put behind transparent pixels; refuse: such an image {refused}; default: refuse",
    )  # fmt: skip
    what.add_argument(
        "--max-pixels", type=positive_int, metavar="N",
        help=f"an image with more pixels than this {refused}; default: 100 million",
    )  # fmt: skip


def pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image files, folders with images (in the order of their names), or s3:// objects; the pack "
        "keeps their order",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE", help="the pack to write, .ncbp")
    parser.add_argument(
        "--side-info", metavar="FILE",
        help="file whose bytes pay for the first image, and come out again at decoding; default: none, so "
        "the first image is coded without bits-back",
    )  # fmt: skip
    parser.add_argument(
        "--no-names",
        action="store_true",
        help="leave the files' names out of the pack; its images decode to 00000.png, 00001.png, ...",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that is there already; default: refuse"
    )
    what = parser.add_argument_group("what the images become")
    what.add_argument(
        "--method", choices=PACKED_METHODS, default="sga+bits-back",
        help="how latents and their posterior are found; default: %(default)s",
    )  # fmt: skip
    recipe_arguments(what, packs=True)


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", default="ncbatch-demo",
        help="folder for the images and the run; default: %(default)s",
    )  # fmt: skip
