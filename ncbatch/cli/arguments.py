"""Arguments that several kinds of commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ncbatch.cli.flag_types import (
    at_least_zero,
    cpu_count,
    error_classes,
    fraction,
    gpu_count,
    key_text,
    natural,
    positive_float,
    positive_int,
    worker_count,
)

Command = Callable[[argparse.Namespace], int]
Adder = Callable[..., argparse.ArgumentParser]

RUN = "folder or s3:// prefix of the run: the output of `ncbatch encode`"


def place_arguments(parser: argparse.ArgumentParser, content: str) -> None:
    parser.add_argument("corpus", help="folder or s3:// prefix with the images")
    parser.add_argument("output", help=f"folder or s3:// prefix for {content}")


def which_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument_group("which images")
    key_pattern_arguments(which)
    which.add_argument(
        "--manifest", metavar="FILE",
        help="Parquet or CSV table whose column `key` names the images; default: the corpus is listed",
    )  # fmt: skip


def key_pattern_arguments(which: argparse._ArgumentGroup) -> None:
    which.add_argument(
        "--include", type=key_text, action="append", metavar="GLOB",
        help="keys to take as images, such as '2024/*.png' ('*' also crosses '/'); may be given several "
        "times; default: whatever has the suffix of an image, or none",
    )  # fmt: skip
    which.add_argument(
        "--exclude", type=key_text, action="append", metavar="GLOB",
        help="keys to leave out all the same, such as 'lost+found/*'; may be given several times; "
        "default: none",
    )  # fmt: skip


def how_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how it is carried out")
    how.add_argument(
        "--workers", type=worker_count, metavar="N",
        help="worker processes, each with one unit at a time; default: as many as the cluster has GPUs for, "
        "or CPUs where it has no GPUs",
    )  # fmt: skip
    how.add_argument(
        "--cpus-per-worker", type=cpu_count, default=1.0, metavar="N",
        help="CPUs that Ray reserves for each worker, and threads that it computes with; default: 1",
    )  # fmt: skip
    how.add_argument(
        "--gpus-per-worker", type=gpu_count, metavar="N",
        help="GPUs that Ray reserves for each worker; a fraction shares one; default: 1 where the cluster "
        "has GPUs, else 0",
    )  # fmt: skip
    how.add_argument(
        "--batch-size", type=positive_int, default=1, metavar="N",
        help="images that a worker refines together, which uses a GPU better and takes more of its memory; "
        "results do not depend on it; default: 1",
    )  # fmt: skip
    how.add_argument(
        "--unit-seconds", type=positive_float, default=300.0, metavar="SECONDS",
        help="how much work is committed at once: at most this is lost with a worker; default: 300",
    )  # fmt: skip
    how.add_argument(
        "--min-deadline", type=positive_float, default=120.0, metavar="SECONDS",
        help="a call that takes 4 times its expected time counts as hung and is ended, but never before "
        "this; default: 120",
    )  # fmt: skip
    how.add_argument(
        "--max-failed", type=fraction, default=0.05, metavar="SHARE",
        help="stop the run when more than this share of its rows failed, once 200 images are done; "
        "1: never; default: 0.05",
    )  # fmt: skip
    how.add_argument(
        "--trace", type=natural, default=0, metavar="STEPS",
        help="record loss, bits, PSNR and temperature every so many steps, a multiple of 10, in traces/ of "
        "the output; 0: not at all; default: 0",
    )  # fmt: skip
    how.add_argument(
        "--retry-failed",
        nargs="?",
        const="",
        type=error_classes,
        metavar="CLASS,...",
        help="try failed rows again: all of them, or those of the error classes that are named (see `ncbatch "
        "failures`); default: a failed row stays until its input changes",
    )
    how.add_argument(
        "--ray-address", metavar="ADDRESS",
        help="Ray cluster to work on, such as 10.0.0.7:6379 or auto; default: RAY_ADDRESS where it is set, "
        "else a Ray of its own on this machine",
    )  # fmt: skip
    how.add_argument(
        "--force", action="store_true",
        help="work on the run although another driver seems to be at it; no harm to the results, but some "
        "work may be done twice",
    )  # fmt: skip


def dry_run_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: calibrate for some seconds on this machine, then print how many images and "
        "units there are, how long they would take, what they would cost, and how large the output would be",
    )


def price_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--price-per-hour",
        type=at_least_zero,
        metavar="PRICE",
        help="what a device (a GPU, or a worker on CPUs) costs per hour, in any currency, to tell the cost "
        "as well; default: cost is left out",
    )
