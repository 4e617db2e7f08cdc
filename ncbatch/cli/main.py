"""The command line: arguments, and which function each command calls."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ncbatch import __version__, signals
from ncbatch.cli import (
    commands,
    encode_arguments,
    job_arguments,
    model_arguments,
    process,
    read_arguments,
    report_arguments,
)
from ncbatch.cli.arguments import Command, dry_run_argument, price_argument
from ncbatch.cli.console import configure_logging, say_error
from ncbatch.cli.parser import ENVIRONMENT_FLAGS, Parser, PrintCompletion, variable
from ncbatch.errors import NcbatchError, StoppedByPolicyError, Terminated
from ncbatch.exit_codes import ExitCode, table

_EPILOG = f"""\
exit codes:
{table()}

examples:
  ncbatch demo                                   the main job on photographs that come with scikit-image
  ncbatch encode photos/ out/                    a folder into a folder, on this machine
  ncbatch encode s3://photos-raw/ s3://out/run1/ --method sga --steps 2000 --lmbda 0.01 --workers 2
  ncbatch status s3://out/run1/                  from any terminal
  ncbatch query s3://out/run1/ "select image_key, bpp from metrics order by bpp desc limit 5"
  ncbatch decode s3://out/run1/ decoded/         PNGs again; also one .ncb or .ncbp file
  ncbatch verify s3://out/run1/                  checks that every row's bytes are there, hash and decode
  ncbatch train photos/ --ladder --kind base,bits-back --out models/
  ncbatch submit s3://photos-raw/ s3://out/run1/ the same as a job on a Ray cluster

Places are folders, file:///... or s3://bucket/prefix. Credentials come from boto3's own chain (environment,
profile, instance role), never from a flag.

These variables give defaults to the flags of the same names:
  {", ".join(variable(dest) for dest in ENVIRONMENT_FLAGS[:5])},
  {", ".join(variable(dest) for dest in ENVIRONMENT_FLAGS[5:])}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, without `argv` the one of this process; returns its exit code."""
    return process.run(lambda: _main(argv), own=argv is None)


def _main(argv: Sequence[str] | None) -> int:
    try:
        with signals.handled():
            return _execute(argv)
    except KeyboardInterrupt as interrupt:
        ended = isinstance(interrupt, Terminated)
        how = "ended by SIGTERM" if ended else "interrupted"
        say_error(
            f"ncbatch: {how}; nothing that was committed is lost; run the same command again to continue"
        )
        return ExitCode.TERMINATED if ended else ExitCode.INTERRUPTED


def _execute(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    try:
        configure_logging(debug=args.debug, verbose=args.verbose, quiet=args.quiet, log_file=args.log_file)
        process.check_working_directory()
        return int(args.run(args))
    except StoppedByPolicyError as error:
        say_error(f"ncbatch: {error}")
        return ExitCode.STOPPED
    except NcbatchError as error:
        if args.debug:
            raise
        say_error(f"ncbatch: error: {error}")
        return ExitCode.ERROR
    except ImportError as error:  # such as pyarrow 26 beside numpy 1, which no resolver knows of
        if args.debug:
            raise
        say_error(
            f"ncbatch: error: {error}; the installed packages do not fit together: install ncbatch again, "
            "in an environment of its own"
        )
        return ExitCode.ERROR


def _common_arguments(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Flags that stand before a command as well as after it; after it they have no defaults of their own."""

    def default(value: object) -> object:
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("messages")
    group.add_argument(
        "--debug", action="store_true", default=default(False),
        help="print debug messages, and the whole traceback of an error",
    )  # fmt: skip
    group.add_argument(
        "-v", "--verbose", action="store_true", default=default(False), help="print debug messages"
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", default=default(False),
        help="print results, warnings and errors only: no progress",
    )  # fmt: skip
    group.add_argument(
        "--log-file", metavar="FILE", default=default(None),
        help="append all messages, debug messages included, to this file; default: none is kept",
    )  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ncbatch",
        description="Bulk-encodes image corpora with a learned codec that optimises every image's latents.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"ncbatch {__version__}")
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=("bash", "zsh", "tcsh"), metavar="SHELL",
        help="print a script that completes commands and flags in bash, zsh or tcsh",
    )  # fmt: skip
    _common_arguments(parser, top=True)
    common = Parser(add_help=False)
    _common_arguments(common, top=False)
    store = Parser(add_help=False, parents=[common])
    group = store.add_argument_group("object storage")
    group.add_argument(
        "--endpoint-url", metavar="URL", help="S3 endpoint; default: AWS_ENDPOINT_URL, else Amazon's"
    )
    group.add_argument("--region", metavar="NAME", help="S3 region; default: AWS_DEFAULT_REGION")
    adder = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)
    parsers = [parser]

    def command(name: str, run: Command, help: str, parent: Parser = store) -> argparse.ArgumentParser:
        sub = adder.add_parser(name, help=help, description=help, parents=[parent], allow_abbrev=False)
        sub.set_defaults(run=run)
        parsers.append(sub)
        return sub

    encode = command("encode", commands.encode, "encode a corpus, or continue an interrupted run")
    encode_arguments.encode_arguments(encode)
    dry_run_argument(encode)
    encode.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    price_argument(encode)
    encode_arguments.demo_arguments(
        command("demo", commands.demo, "encode a few images that come with scikit-image", common)
    )
    encode_arguments.pack_arguments(
        command("pack", commands.pack, "put several images into one file, with bits-back")
    )
    read_arguments.reading_commands(command)
    report_arguments.report_arguments(
        command("report", commands.report, "write an HTML page about a run, with figures and tables")
    )
    report_arguments.evaluate_arguments(
        command("evaluate", commands.evaluate, "encode by several methods and codecs, and report on them")
    )
    job_arguments.submit_arguments(command("submit", commands.submit, "encode as a job on a Ray cluster"))
    job_arguments.job_arguments(
        command("job", commands.job, "list, follow, read or stop submitted jobs", common)
    )
    model_arguments.train_arguments(
        command("train", commands.train, "train models, or continue an interrupted training")
    )
    model_arguments.model_commands(command)
    for each in parsers:
        each.describe_environment()
        each.show_last("object storage", "messages")
    return parser
