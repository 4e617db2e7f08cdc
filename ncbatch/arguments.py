"""The arguments of each command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import get_args

from ncbatch import commands
from ncbatch.codec.methods import CODECS, PRESETS, Method, Rounding
from ncbatch.flag_types import (
    Numbers,
    at_least_zero,
    cpu_count,
    error_classes,
    fraction,
    gpu_count,
    key_text,
    natural,
    positive_float,
    positive_int,
    quality,
    worker_count,
)

Command = Callable[[argparse.Namespace], int]
Adder = Callable[..., argparse.ArgumentParser]

RUN = "folder or s3:// prefix of the run: the output of `ncbatch encode`"


def encode_arguments(parser: argparse.ArgumentParser) -> None:
    place_arguments(parser, "bitstreams and metrics; an interrupted run there is continued")
    what = parser.add_argument_group("what an image becomes (fixed once the run is planned)")
    what.add_argument(
        "--spec", metavar="FILE",
        help="YAML file that describes several variants, in the place of the flags below (see the README); "
        "default: one variant, described by these flags",
    )  # fmt: skip
    what.add_argument(
        "--method", choices=(*get_args(Method), *CODECS), metavar="METHOD",
        help=f"how latents are found: {', '.join(get_args(Method))}; or a classical codec, to compare with: "
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
        "of the preset, else of the method",
    )  # fmt: skip
    what.add_argument(
        "--fall-back", action="store_true",
        help="publish the amortized encoding where refinement diverges or a file fails its check; without "
        "this, such an image becomes a failed row",
    )  # fmt: skip
    recipe_arguments(what)
    which_arguments(parser)
    how_arguments(parser)


def place_arguments(parser: argparse.ArgumentParser, content: str) -> None:
    parser.add_argument("corpus", help="folder or s3:// prefix with the images")
    parser.add_argument("output", help=f"folder or s3:// prefix for {content}")


def recipe_arguments(what: argparse._ArgumentGroup) -> None:
    """How a learned codec finds latents, and what images it takes."""
    what.add_argument(
        "--preset", metavar="NAME",
        help=f"settings by name: {', '.join(PRESETS)}; flags beside it win; default: paper",
    )  # fmt: skip
    what.add_argument(
        "--lmbda", "--lambda", dest="lmbda", type=positive_float, metavar="WEIGHT",
        help="weight of the MSE (on 0..255) against the bits per pixel: larger means larger files of better "
        "quality; default: the one the model was trained with, or 0.01 without --model",
    )  # fmt: skip
    what.add_argument(
        "--steps", type=natural, metavar="N",
        help="steps of refinement; time grows in proportion; default: 2000",
    )  # fmt: skip
    what.add_argument(
        "--learning-rate", type=positive_float, metavar="RATE",
        help="Adam's learning rate in refinement; default: 0.005, or 0.0001 for ste",
    )  # fmt: skip
    what.add_argument(
        "--decay", choices=("constant", "cosine"),
        help="what becomes of the learning rate over the steps: it stays, or falls to 2 %% along a cosine; "
        "default: constant",
    )  # fmt: skip
    what.add_argument(
        "--seed", type=natural, metavar="N",
        help="seed of the noise in refinement: the same one gives the same files; default: 0",
    )  # fmt: skip
    what.add_argument(
        "--rounding", choices=get_args(Rounding),
        help="rounding probabilities of sga: the paper's (atanh), or those of SGA+; default: atanh",
    )  # fmt: skip
    what.add_argument(
        "--noise", type=at_least_zero, metavar="FACTOR",
        help="factor of sga's Gumbel noise: less converges sooner; default: 1, as in the paper",
    )  # fmt: skip
    what.add_argument(
        "--tau0", type=positive_float, metavar="TAU",
        help="temperature at the start: the lower, the nearer to rounding; default: 0.5 for sga, 0.2 for "
        "deterministic-annealing",
    )  # fmt: skip
    what.add_argument(
        "--annealing-rate", type=at_least_zero, metavar="C",
        help="the temperature falls by a factor of exp(-C) each step; default: 2 / steps for sga (0.001 at "
        "2000 steps), 8 / steps for deterministic-annealing",
    )  # fmt: skip
    what.add_argument(
        "--plateau", type=at_least_zero, metavar="STEPS",
        help="steps before the temperature starts to fall; 0 is the paper's naive schedule; default: 35 %% "
        "of the steps for sga, 20 %% for deterministic-annealing",
    )  # fmt: skip
    what.add_argument(
        "--bbvi-steps", type=natural, metavar="N",
        help="steps of bits-back's inference, which encoding does twice and decoding once; default: 2000 "
        "(fast: 100, best: 500)",
    )  # fmt: skip
    what.add_argument(
        "--bbvi-learning-rate", type=positive_float, metavar="RATE",
        help="learning rate of bits-back's inference; default: 0.003 (fast: 0.02, best: 0.01)",
    )  # fmt: skip
    what.add_argument(
        "--model", metavar="MODEL",
        help="built-in name (see `ncbatch models`), checkpoint file or URI, a training's --out folder, or "
        "compressai:mbt2018-mean/<1..8>; default: the built-in one trained nearest to --lmbda",
    )  # fmt: skip
    what.add_argument(
        "--alpha", choices=("refuse", "white", "black"),
        help="what to put behind transparent pixels; refuse: such an image becomes a failed row; "
        "default: refuse",
    )  # fmt: skip
    what.add_argument(
        "--max-pixels", type=positive_int, metavar="N",
        help="images with more pixels than this become failed rows; default: 100 million",
    )  # fmt: skip


def pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pictures", nargs="+", metavar="IMAGE",
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
    methods = [method for method in get_args(Method) if "bits-back" in method]
    what.add_argument(
        "--method", choices=methods, default="sga+bits-back",
        help="how latents and their posterior are found; default: %(default)s",
    )  # fmt: skip
    recipe_arguments(what)


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


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", default="ncbatch-demo",
        help="folder for the images and the run; default: %(default)s",
    )  # fmt: skip


def reading_commands(command: Adder) -> None:
    sub = command("status", commands.status, "how much of a run is done, and what its driver does")
    sub.add_argument("output", help=RUN)
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.add_argument(
        "--watch", type=positive_float, nargs="?", const=5.0, metavar="SECONDS",
        help="print it again every so many seconds (5 where no number is given) until the run is over; "
        "default: once",
    )  # fmt: skip
    sub = command("query", commands.query, "ask a run's table, which is called metrics, in SQL")
    sub.add_argument("output", help=RUN)
    sub.add_argument("sql", nargs="?", type=key_text, help='such as "select * from metrics limit 5"')
    sub.add_argument(
        "--file", metavar="PATH", help="file with the SQL, - for standard input; default: SQL as an argument"
    )
    sub.add_argument(
        "--format", choices=("table", "csv", "json", "parquet"),
        help="how rows are written; default: by the suffix of --out, else a table",
    )  # fmt: skip
    sub.add_argument(
        "--out", metavar="FILE", help="file or s3:// object to write the rows to; default: standard output"
    )
    sub = command("decode", commands.decode, "decode a run, or one .ncb or .ncbp file, into PNG files")
    sub.add_argument("source", help="output of a run, or a .ncb or .ncbp file")
    sub.add_argument(
        "destination",
        help="folder or s3:// prefix for the PNGs; for a single image also the name of a .png file",
    )
    sub.add_argument(
        "--overwrite", action="store_true",
        help="replace files that are there already with other contents; default: leave them and say so",
    )  # fmt: skip
    sub.add_argument(
        "--variant", metavar="NAME", help="decode only this variant of a run; default: all of them"
    )
    sub.add_argument(
        "--model", metavar="MODEL",
        help="model that made a single file: a name, a checkpoint's file or URI, or a training's folder; "
        "default: the one that made it, built in or kept in the run around the file",
    )  # fmt: skip
    sub.add_argument(
        "--max-pixels", type=positive_int, metavar="N",
        help="refuse a single file whose image has more pixels than this; default: 100 million",
    )  # fmt: skip
    part = sub.add_mutually_exclusive_group()
    part.add_argument(
        "--from", type=natural, metavar="N", dest="start",
        help="decode only the images from number N on (counted from 0) of a pack; decoding begins with the "
        "last, so a large N is quick; default: 0, all images",
    )  # fmt: skip
    part.add_argument("--first", type=natural, dest="start", help=argparse.SUPPRESS)  # its name until now
    part.add_argument(
        "--picture", type=natural, metavar="N",
        help="decode only image N (counted from 0) of a pack; default: all images",
    )  # fmt: skip
    sub = command("failures", commands.failures, "which images of a run failed, why, and what can be done")
    sub.add_argument("output", help=RUN)
    sub.add_argument(
        "--examples", type=natural, default=3, metavar="N", help="failed images shown per class; default: 3"
    )
    sub.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    sub = command("verify", commands.verify, "check that every row's bytes are there, hash and decode")
    sub.add_argument("output", help=RUN)
    sub.add_argument(
        "--variant", metavar="NAME", help="check only this variant of the run; default: all of them"
    )
    sub.add_argument(
        "--repair",
        action="store_true",
        help="plan damaged and missing images again, for the next `ncbatch encode` of the run, and put lost "
        "checkpoints back; default: only report",
    )
    sub.add_argument("--json", action="store_true", help="print one JSON object, with every problem")
    sub = command("compact", commands.compact, "merge a run's unit commits into few large table parts")
    sub.add_argument("output", help=RUN)


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
        help=f"methods to compare, of {', '.join(get_args(Method))}; default: %(default)s",
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


def submit_arguments(parser: argparse.ArgumentParser) -> None:
    encode_arguments(parser)
    dry_run_argument(parser)
    price_argument(parser)
    job = parser.add_argument_group("the job")
    dashboard_argument(job)
    job.add_argument(
        "--wait", action="store_true",
        help="print the job's log until it ends, and exit with its exit code; without this, submit returns "
        "at once",
    )  # fmt: skip
    job.add_argument(
        "--working-dir", metavar="DIR", help="checkout of ncbatch that the job runs; default: this one"
    )


def dashboard_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--dashboard",
        metavar="URL",
        help="the cluster's dashboard, which takes the jobs; default: RAY_API_SERVER_ADDRESS or RAY_ADDRESS "
        "where one is set, else http://127.0.0.1:8265",
    )


def job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("list", "status", "logs", "follow", "stop"),
        help="list: all jobs of ncbatch on the cluster; status, logs, stop: of one; follow: print its log "
        "until it ends, and exit with its exit code",
    )
    parser.add_argument("job", nargs="?", help="the id that `ncbatch submit` printed; list needs none")
    dashboard_argument(parser)
    parser.add_argument("--json", action="store_true", help="print list and status as JSON")


def encode_words(args: argparse.Namespace) -> list[str]:
    """The arguments of `ncbatch encode` that give what `ncbatch submit` was given."""
    parser = argparse.ArgumentParser(add_help=False)
    encode_arguments(parser)
    parser.add_argument("--endpoint-url")
    parser.add_argument("--region")
    words: list[str] = []
    for action in parser._actions:
        value = getattr(args, action.dest)
        if not action.option_strings or value == action.default:
            continue
        flag = action.option_strings[0]
        values = value if isinstance(value, list) else [value]
        words += [flag] if value is True else [f"{flag}={v}" for v in values]
    return [*words, "--", args.corpus, args.output]
