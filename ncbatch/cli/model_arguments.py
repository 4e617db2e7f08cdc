"""The arguments of the commands that make, convert and describe models."""

from __future__ import annotations

import argparse

from ncbatch.cli import commands
from ncbatch.cli.arguments import Adder, key_pattern_arguments, price_argument
from ncbatch.cli.flag_types import Numbers, natural, positive_float, positive_int, thread_count, worker_count


def model_commands(command: Adder) -> None:
    sub = command("models", commands.models, "list the built-in models, the zoo's, and those in a folder")
    sub.add_argument(
        "place", nargs="?", metavar="FOLDER",
        help="folder or s3:// prefix with checkpoints, such as a training's --out; default: none",
    )  # fmt: skip
    sub.add_argument("--json", action="store_true", help="print the list as JSON")
    sub = command("convert", commands.convert, "make a checkpoint from a CompressAI torch file")
    sub.add_argument("source", help="torch file (or s3:// object) with a state dict of MeanScaleHyperprior")
    sub.add_argument("destination", help="checkpoint to write, .safetensors (or s3:// object)")
    sub.add_argument(
        "--lmbda", "--lambda", dest="lmbda", type=positive_float, metavar="WEIGHT",
        help="weight of the MSE (on 0..255) that the weights were trained with, which becomes the model's "
        "default rate; default: what the file says; most files do not say it",
    )  # fmt: skip
    sub.add_argument(
        "--force", action="store_true", help="overwrite the destination; without this, that is an error"
    )
    sub = command("info", commands.info, "say what a bitstream, a pack or a checkpoint is; decode nothing")
    sub.add_argument("file", help="an .ncb file, an .ncbp file or a checkpoint (.safetensors)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", help="folder or s3:// prefix with the images to train on")
    parser.add_argument(
        "--out", required=True, metavar="PLACE",
        help="folder or s3:// prefix for the models and their state; an interrupted training there is "
        "continued",
    )  # fmt: skip
    what = parser.add_argument_group("what is trained (fixed once it has begun)")
    rates = what.add_mutually_exclusive_group(required=True)
    rates.add_argument(
        "--lmbda", "--lambda", dest="lmbda", type=positive_float, metavar="WEIGHT",
        help="train one model, straight into --out: weight of the MSE (on 0..255) against the bits per pixel",
    )  # fmt: skip
    rates.add_argument(
        "--ladder", nargs="?", const=[], type=Numbers(positive_float), metavar="WEIGHT,...",
        help="train a model at each of these rates, in folders of --out; without a value: the paper's seven",
    )  # fmt: skip
    what.add_argument(
        "--kind", default="base", metavar="KIND,...",
        help="base, bits-back (for the methods of that name), or both with a comma; default: base",
    )  # fmt: skip
    what.add_argument(
        "--preset", choices=("small", "paper"), default="small",
        help="small: N = 64, 20,000 steps at a high rate that decays, hours on CPUs; paper: N = 192 and "
        "millions of steps, for GPUs; default: small",
    )  # fmt: skip
    what.add_argument(
        "--steps", type=positive_int, metavar="N",
        help="steps of training; under a constant learning rate a training that is done continues with more; "
        "default: 20000 for small, 1 to 3 million for paper",
    )  # fmt: skip
    what.add_argument(
        "--warm-steps", type=positive_int, metavar="N",
        help="steps of a ladder's models that start from a trained neighbour; default: a quarter of --steps",
    )  # fmt: skip
    what.add_argument(
        "--start-from", metavar="MODEL",
        help="name, file or URI of a checkpoint whose weights to start from, of the same N and of the "
        "same M or a smaller one; default: random weights",
    )  # fmt: skip
    what.add_argument(
        "--n", type=positive_int, metavar="CHANNELS",
        help="channels of the transforms and of z; time grows with its square; default: 64 for small, 192 or "
        "256 for paper",
    )  # fmt: skip
    what.add_argument(
        "--m", type=positive_int, metavar="CHANNELS",
        help="channels of the latents y, which limit the quality at high rates; default: 128 for small (192 "
        "from --lmbda 0.04 on), as --n for paper",
    )  # fmt: skip
    what.add_argument(
        "--batch-size", type=positive_int, metavar="N",
        help="crops in a step, of all workers together, among whom it must divide evenly; default: 8",
    )  # fmt: skip
    what.add_argument(
        "--crop", type=positive_int, metavar="PIXELS",
        help="side of the crops to train on, a multiple of 64; default: 128 for small, 256 for paper",
    )  # fmt: skip
    what.add_argument(
        "--learning-rate", type=positive_float, metavar="RATE",
        help="Adam's learning rate; default: 8e-4 for small, 1e-4 for paper",
    )  # fmt: skip
    what.add_argument(
        "--warmup", type=natural, metavar="STEPS",
        help="steps over which the learning rate rises from 0; default: 200 for small, 0 for paper",
    )  # fmt: skip
    what.add_argument(
        "--decay", choices=("constant", "cosine"),
        help="what becomes of the learning rate: it stays, or falls to 1 %% along a cosine over all steps; "
        "default: cosine for small, constant for paper",
    )  # fmt: skip
    what.add_argument(
        "--aux-learning-rate", type=positive_float, metavar="RATE",
        help="learning rate of the quantiles of p(z), which have a loss of their own; default: 0.001",
    )  # fmt: skip
    what.add_argument(
        "--clip", type=positive_float, metavar="NORM",
        help="largest norm of the gradient, larger ones are scaled down to it; default: 1",
    )  # fmt: skip
    what.add_argument(
        "--seed", type=natural, metavar="N", help="seed of crops, noise and first weights; default: 0"
    )
    how = parser.add_argument_group("how it is carried out")
    key_pattern_arguments(how)
    how.add_argument(
        "--workers", type=worker_count, metavar="N",
        help="worker processes; every batch is shared among them, so results do not depend on their number; "
        "default: one per GPU, or one",
    )  # fmt: skip
    how.add_argument(
        "--threads", type=thread_count, metavar="N",
        help="CPU threads of each worker; default: all of the machine's for one worker, 1 each for several",
    )  # fmt: skip
    how.add_argument(
        "--ray-address", metavar="ADDRESS",
        help="Ray cluster for several workers, such as 10.0.0.7:6379; default: RAY_ADDRESS where it is set, "
        "else a Ray of its own on this machine",
    )  # fmt: skip
    how.add_argument(
        "--dry-run", action="store_true",
        help="train and write nothing: time some steps on this machine, then print which models would be "
        "trained, how long that would take, and what it would cost",
    )  # fmt: skip
    price_argument(how)
    how.add_argument(
        "--save-minutes", type=positive_float, default=5.0, metavar="MINUTES",
        help="time between two saves, each with a validation; at most this is lost in a crash; default: 5",
    )  # fmt: skip
    how.add_argument(
        "--memory", type=positive_float, default=4.0, metavar="GIB",
        help="memory for decoded images, per worker; images that do not fit are left out; default: 4",
    )  # fmt: skip
