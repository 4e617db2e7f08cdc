"""The command line: arguments, and which function each command calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from ncbatch import __version__, arguments, commands
from ncbatch.arguments import Command
from ncbatch.console import configure_logging, err
from ncbatch.errors import NcbatchError
from ncbatch.runs.errors import StoppedByPolicyError

EXIT_OK, EXIT_ERROR, EXIT_FAILED_ROWS, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

_EPILOG = """\
exit codes: 0 all images are ok; 2 finished, but some rows failed; 3 stopped by policy; 1 error;
130 interrupted (the same command goes on)

examples:
  ncbatch demo                                   the main job on photographs that come with scikit-image
  ncbatch encode photos/ out/                    a folder into a folder, on this machine
  ncbatch encode s3://photos-raw/ s3://photos-coded/run1/ --method sga --steps 2000 --lmbda 0.01 --workers 2
  ncbatch status s3://photos-coded/run1/                  from any terminal
  ncbatch query s3://photos-coded/run1/ "select image_key, bpp from metrics order by bpp desc limit 5"
  ncbatch decode s3://photos-coded/run1/ decoded/         PNGs again; also one .ncb file
  ncbatch verify s3://photos-coded/run1/                  every row's bytes are there, hash and decode
  ncbatch train photos/ --ladder --kind base,bits-back --out models/
  ncbatch submit s3://photos-raw/ s3://photos-coded/run1/     the same as a job on a Ray cluster

Places are folders, file:///... or s3://bucket/prefix. Credentials come from boto3's own chain (environment,
profile, instance role), never from a flag.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    args = build_parser().parse_args(argv)
    configure_logging(debug=args.debug)
    try:
        return int(args.run(args))
    except StoppedByPolicyError as error:
        err.print(f"ncbatch: {error}")
        return EXIT_STOPPED
    except NcbatchError as error:
        if args.debug:
            raise
        err.print(f"ncbatch: error: {error}")
        return EXIT_ERROR
    except KeyboardInterrupt:
        err.print("ncbatch: interrupted; nothing that was committed is lost, the same command goes on")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return EXIT_OK


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; exit code 2, argparse's own, means failed rows here."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="ncbatch",
        description="Bulk-encodes image corpora with a learned codec that optimises every image's latents.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ncbatch {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="tracebacks and debug messages")
    store = argparse.ArgumentParser(add_help=False, parents=[common])
    group = store.add_argument_group("object storage")
    group.add_argument("--endpoint-url", metavar="URL", help="S3 endpoint, when AWS_ENDPOINT_URL is not set")
    group.add_argument("--region", help="S3 region, when AWS_DEFAULT_REGION is not set")
    adder = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Command, help: str, parent: argparse.ArgumentParser = store
    ) -> argparse.ArgumentParser:
        sub = adder.add_parser(name, help=help, description=help, parents=[parent], allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    encode = command("encode", commands.encode, "encode a corpus, or go on with it")
    arguments.encode_arguments(encode)
    encode.add_argument("--dry-run", action="store_true", help="print images, units, hours and size; no more")
    arguments.demo_arguments(
        command("demo", commands.demo, "the main job on photographs of scikit-image", common)
    )
    arguments.pack_arguments(command("pack", commands.pack, "several pictures in one file, with bits-back"))
    arguments.reading_commands(command)
    arguments.report_arguments(
        command("report", commands.report, "one HTML page on a run, its figures and tables")
    )
    arguments.evaluate_arguments(
        command("evaluate", commands.evaluate, "encode by several methods and codecs, and report on them")
    )
    arguments.submit_arguments(command("submit", commands.submit, "encode as a job on a Ray cluster"))
    arguments.job_arguments(command("job", commands.job, "status, logs or end of a submitted job", common))
    arguments.train_arguments(command("train", commands.train, "train models, or go on with it"))
    arguments.model_commands(command, common)
    return parser
