"""The arguments of the commands that read a run or a file."""

from __future__ import annotations

import argparse

from ncbatch.cli import commands
from ncbatch.cli.arguments import RUN, Adder
from ncbatch.cli.flag_types import key_text, natural, positive_float, positive_int


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
        "--image", "--picture", type=natural, metavar="N",
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
