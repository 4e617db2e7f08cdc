"""The arguments of the commands for jobs on a Ray cluster."""

from __future__ import annotations

import argparse

from ncbatch.cli.arguments import dry_run_argument, price_argument
from ncbatch.cli.encode_arguments import encode_arguments


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
