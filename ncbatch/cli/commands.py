"""Every command's function, which takes the parsed arguments and returns an exit code."""

from ncbatch.cli.decode import compact, decode
from ncbatch.cli.demo import demo
from ncbatch.cli.encode import encode, pack
from ncbatch.cli.info import info
from ncbatch.cli.jobs import job, submit
from ncbatch.cli.models import convert, models
from ncbatch.cli.query import query
from ncbatch.cli.report import evaluate, report
from ncbatch.cli.status import status
from ncbatch.cli.train import train
from ncbatch.cli.verify import failures, verify

__all__ = [
    "compact", "convert", "decode", "demo", "encode", "evaluate", "failures", "info", "job", "models",
    "pack", "query", "report", "status", "submit", "train", "verify",
]  # fmt: skip
