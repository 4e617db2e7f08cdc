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
    thread_count,
    worker_count,
)

Command = Callable[[argparse.Namespace], int]
Adder = Callable[..., argparse.ArgumentParser]


def encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", help="folder or s3:// prefix with the images")
    parser.add_argument("output", help="folder or s3:// prefix for bitstreams and metrics")
    what = parser.add_argument_group("what an image becomes (fixed once the run is planned)")
    what.add_argument("--spec", metavar="FILE", help="YAML file with several variants; see the README")
    what.add_argument("--method", choices=(*get_args(Method), *CODECS), help="default: sga")
    what.add_argument("--quality", type=quality, help="of the classical codecs; bpg: its quantiser")
    what.add_argument("--name", help="of the variant; default: the method")
    what.add_argument(
        "--fall-back",
        action="store_true",
        help="publish the amortized encoding where refinement diverges, in the place of a failed row",
    )
    recipe_arguments(what)
    which_arguments(parser)
    how_arguments(parser)


def recipe_arguments(what: argparse._ArgumentGroup) -> None:
    """How a learned codec finds latents, and what pictures it takes."""
    what.add_argument("--preset", help=f"a recipe by name: {', '.join(PRESETS)}; default: paper")
    what.add_argument(
        "--lmbda", type=positive_float, help="weight of the MSE; default: the model's own, or 0.01"
    )
    what.add_argument("--steps", type=natural, help="of refinement; default: 2000")
    what.add_argument(
        "--learning-rate", type=positive_float, help="of refinement; default: 0.005, 0.0001 for ste"
    )
    what.add_argument("--decay", choices=("constant", "cosine"), help="of the learning rate")
    what.add_argument("--seed", type=natural, help="of refinement's noise; default: 0")
    what.add_argument("--rounding", choices=get_args(Rounding), help="probabilities of sga; default: atanh")
    what.add_argument(
        "--noise", type=at_least_zero, help="factor of sga's Gumbel noise; default: 1, the paper's"
    )
    what.add_argument("--tau0", type=positive_float, help="temperature at first; default: the paper's")
    what.add_argument("--annealing-rate", type=at_least_zero, metavar="C", help="tau falls by exp(-C) a step")
    what.add_argument(
        "--plateau", type=at_least_zero, metavar="STEPS", help="before tau falls; 0: naive schedule"
    )
    what.add_argument(
        "--bbvi-steps", type=natural, help="of inference, which decoding repeats; of bits-back; default: 2000"
    )
    what.add_argument("--bbvi-learning-rate", type=positive_float, help="of inference; default: 0.003")
    what.add_argument(
        "--model",
        help="built-in name, checkpoint file or URI, or compressai:mbt2018-mean/<1..8>; "
        "default: the built-in one trained nearest to --lmbda",
    )
    what.add_argument("--alpha", choices=("refuse", "white", "black"), help="what is behind transparency")
    what.add_argument("--max-pixels", type=positive_int, help="larger pictures fail; default: 100 million")


def pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURE", help="files or s3:// objects, in their order"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the pack, .ncbp")
    parser.add_argument(
        "--side-info",
        metavar="FILE",
        help="bytes that pay for the first picture, and come out again at decoding",
    )
    what = parser.add_argument_group("what the pictures become")
    methods = [method for method in get_args(Method) if "bits-back" in method]
    what.add_argument("--method", choices=methods, default="sga+bits-back", help="default: %(default)s")
    recipe_arguments(what)


def which_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument_group("which images")
    key_pattern_arguments(which)
    which.add_argument("--manifest", metavar="FILE", help="Parquet or CSV with a column `key`, not a listing")


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
    how.add_argument("--workers", type=worker_count, help="default: one per GPU, or per CPU")
    how.add_argument(
        "--cpus-per-worker", type=cpu_count, default=1.0, help="default: 1; also torch's threads"
    )
    how.add_argument("--gpus-per-worker", type=gpu_count, help="default: 1 where the cluster has GPUs")
    how.add_argument(
        "--batch-size", type=positive_int, default=1, help="pictures refined together; default: 1"
    )
    how.add_argument(
        "--unit-seconds", type=positive_float, default=300.0, help="of work per commit; default: 300"
    )
    how.add_argument(
        "--min-deadline",
        type=positive_float,
        default=120.0,
        metavar="SECONDS",
        help="a call counts as hung after 4 times what it should take, but not before; default: 120",
    )
    how.add_argument(
        "--max-failed", type=fraction, default=0.05, help="share that stops the run; default: 0.05"
    )
    how.add_argument(
        "--trace",
        type=natural,
        default=0,
        metavar="STEPS",
        help="keep loss, bits, PSNR and temperature every so many steps, in traces/ of the output",
    )
    how.add_argument(
        "--retry-failed",
        nargs="?",
        const="",
        type=error_classes,
        metavar="CLASS,...",
        help="try failed rows again: all of them, or those of the error classes that are named (see `ncbatch "
        "failures`); default: a failed row stays until its input changes",
    )
    how.add_argument("--ray-address", metavar="ADDRESS", help="of a cluster; default: a local Ray")
    how.add_argument("--force", action="store_true", help="work beside another driver of this run")


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
    parser.add_argument("folder", nargs="?", default="ncbatch-demo", help="default: %(default)s")


def reading_commands(command: Adder) -> None:
    sub = command("status", commands.status, "how far a run is")
    sub.add_argument("output", help="of the run")
    sub.add_argument("--json", action="store_true", help="for programs")
    sub = command("query", commands.query, "SQL over a run's table, which is called metrics")
    sub.add_argument("output", help="of the run")
    sub.add_argument("sql", type=key_text, help='such as "select * from metrics limit 5"')
    sub.add_argument("--format", choices=("table", "csv", "json"), default="table")
    sub = command("decode", commands.decode, "the pictures of a run, or of one .ncb or .ncbp file, as PNG")
    sub.add_argument("source", help="output of a run, or a .ncb or .ncbp file")
    sub.add_argument("destination", help="folder or s3:// prefix for the PNGs")
    sub.add_argument("--variant", help="of the run; default: all")
    sub.add_argument("--model", help="of a single file; default: the built-in one that made it")
    sub.add_argument("--max-pixels", type=positive_int, help="of a single file; default: 100 million")
    part = sub.add_mutually_exclusive_group()
    part.add_argument(
        "--first", type=natural, metavar="N", help="of a pack: only the pictures from N on, which is quicker"
    )
    part.add_argument("--picture", type=natural, metavar="N", help="of a pack: only picture N")
    sub = command("failures", commands.failures, "which images of a run failed, why, and what can be done")
    sub.add_argument("output", help="folder or s3:// prefix of the run")
    sub.add_argument(
        "--examples", type=natural, default=3, metavar="N", help="failed images shown per class; default: 3"
    )
    sub.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    sub = command("verify", commands.verify, "checks that every row's bytes are there, hash and decode")
    sub.add_argument("output", help="of the run")
    sub.add_argument("--variant", help="default: all")
    sub.add_argument(
        "--repair",
        action="store_true",
        help="plan damaged and missing images again, for the next `ncbatch encode` of the run, and put lost "
        "checkpoints back; default: only report",
    )
    sub = command("compact", commands.compact, "merge a run's unit commits into few large table parts")
    sub.add_argument("output", help="of the run")


def report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", help="of the run")
    parser.add_argument("--out", required=True, metavar="PLACE", help="folder or s3:// prefix for the report")
    page_arguments(parser)


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", help="folder or s3:// prefix with the images")
    parser.add_argument("output", help="folder or s3:// prefix for the run")
    what = parser.add_argument_group("what is compared")
    what.add_argument("--ladder", choices=("base", "bits-back"), default="base", help="default: base")
    what.add_argument(
        "--methods", default="amortized,sga", metavar="NAME,...", help=f"of {', '.join(get_args(Method))}"
    )
    what.add_argument(
        "--lmbdas",
        type=Numbers(positive_float),
        metavar="LMBDA,...",
        help="with the models nearest to them; default: all",
    )
    what.add_argument("--steps", type=positive_int, default=200, help="of refinement; default: 200")
    what.add_argument("--codecs", default="", metavar="NAME,...", help=f"of {', '.join(CODECS)}")
    what.add_argument(
        "--qualities",
        type=Numbers(quality),
        default="20,40,60,80,90",
        metavar="N,...",
        help="default: %(default)s",
    )
    which_arguments(parser)
    how_arguments(parser)
    parser.add_argument("--out", metavar="PLACE", help="of the report; default: report/ in the output")
    dry_run_argument(parser)
    page_arguments(parser)


def page_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", metavar="SERIES", help="to compare with; default: amortized")
    parser.add_argument(
        "--dataset",
        help="whose published curves to draw: kodak, tecnick, none; default: by the corpus's name",
    )
    parser.add_argument(
        "--published", metavar="FILE", help="CSV with published points, not the built-in ones"
    )
    parser.add_argument(
        "--images", type=key_text, metavar="KEY,...", help="to compare; default: the two that gain most"
    )
    parser.add_argument("--no-pictures", action="store_true", help="curves and tables only; decodes nothing")
    price_argument(parser)


def submit_arguments(parser: argparse.ArgumentParser) -> None:
    encode_arguments(parser)
    dry_run_argument(parser)
    price_argument(parser)
    job = parser.add_argument_group("the job")
    dashboard_argument(job)
    job.add_argument("--wait", action="store_true", help="follow the job's log; exit with its exit code")
    job.add_argument("--working-dir", metavar="DIR", help="checkout that the job runs; default: this one")


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


def model_commands(command: Adder, common: argparse.ArgumentParser) -> None:
    sub = command("models", commands.models, "the built-in models, the zoo's, and those in a folder")
    sub.add_argument("place", nargs="?", help="folder or s3:// prefix with checkpoints; default: none")
    sub = command("convert", commands.convert, "a checkpoint from a CompressAI torch file", common)
    sub.add_argument("source", help="torch file with a state dict of MeanScaleHyperprior")
    sub.add_argument("destination", help="the checkpoint, .safetensors")
    sub.add_argument("--lmbda", type=positive_float, help="it was trained with, where the file does not say")


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", help="folder or s3:// prefix with photographs")
    parser.add_argument("--out", required=True, metavar="PLACE", help="folder or s3:// prefix for models")
    what = parser.add_argument_group("what is trained (fixed once it has begun)")
    rates = what.add_mutually_exclusive_group(required=True)
    rates.add_argument(
        "--lmbda", type=positive_float, help="weight of the MSE: trains one model, straight into --out"
    )
    rates.add_argument(
        "--ladder", nargs="?", const=[], type=Numbers(positive_float), metavar="LMBDA,...",
        help="trains a model at each rate, into folders of --out; without a value: the paper's seven rates",
    )  # fmt: skip
    what.add_argument("--kind", default="base", help="base, bits-back, or both with a comma; default: base")
    what.add_argument(
        "--preset", choices=("small", "paper"), default="small",
        help="small: N = 64, M = 128 or 192, a high rate that decays; paper: full size, millions of steps",
    )  # fmt: skip
    what.add_argument("--steps", type=positive_int, help="default: the preset's, 20000 for small")
    what.add_argument(
        "--warm-steps", type=positive_int,
        help="of a ladder's models that start from a trained neighbour; default: a quarter of --steps",
    )  # fmt: skip
    what.add_argument("--start-from", metavar="MODEL", help="name, file or URI of a checkpoint to start from")
    what.add_argument("--n", type=positive_int, help="channels of the transforms")
    what.add_argument("--m", type=positive_int, help="channels of the latents y")
    what.add_argument("--batch-size", type=positive_int, help="of all workers together; default: 8")
    what.add_argument(
        "--crop", type=positive_int, help="pixels a side; default: 128 for small, 256 for paper"
    )
    what.add_argument("--learning-rate", type=positive_float, help="default: 8e-4 for small, 1e-4 for paper")
    what.add_argument("--warmup", type=natural, help="steps until the learning rate is reached")
    what.add_argument("--decay", choices=("constant", "cosine"), help="of the learning rate")
    what.add_argument("--aux-learning-rate", type=positive_float, help="of the quantiles of p(z)")
    what.add_argument("--clip", type=positive_float, help="of the gradient's norm")
    what.add_argument("--seed", type=natural, help="of crops, noise and first weights; default: 0")
    how = parser.add_argument_group("how it is carried out")
    key_pattern_arguments(how)
    how.add_argument(
        "--workers", type=worker_count, help="that share every batch; default: one per GPU, or one"
    )
    how.add_argument(
        "--threads", type=thread_count, help="of torch, per worker; default: all, or 1 of several workers"
    )
    how.add_argument("--ray-address", metavar="ADDRESS", help="of a cluster for several workers")
    how.add_argument("--save-minutes", type=positive_float, default=5.0, help="between two saves; default: 5")
    how.add_argument(
        "--memory", type=positive_float, default=4.0, metavar="GIB",
        help="for decoded photographs, per worker; what does not fit is left out; default: 4",
    )  # fmt: skip


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
