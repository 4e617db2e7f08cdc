"""The commands: from parsed arguments to the rooms' functions, and from their results to the console.

Each takes the parsed arguments and returns an exit code. The heavy imports (torch, ray) are inside, so that
`ncbatch status` answers at once.
"""

from ncbatch.commands.cluster import job, submit
from ncbatch.commands.demonstration import demo
from ncbatch.commands.encoding import encode, pack
from ncbatch.commands.info import info
from ncbatch.commands.models import convert, models
from ncbatch.commands.querying import query
from ncbatch.commands.reading import compact, decode
from ncbatch.commands.repairing import failures, verify
from ncbatch.commands.reporting import evaluate, report
from ncbatch.commands.run_status import status
from ncbatch.commands.training import train

__all__ = [
    "compact", "convert", "decode", "demo", "encode", "evaluate", "failures", "info", "job", "models",
    "pack", "query", "report", "status", "submit", "train", "verify",
]  # fmt: skip
