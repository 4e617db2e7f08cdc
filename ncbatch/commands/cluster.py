"""Commands for jobs on a Ray cluster."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ncbatch.commands.common import store_options
from ncbatch.commands.encoding import encode_options, make_run_spec
from ncbatch.console import err, out
from ncbatch.store import open_store


def submit(args: argparse.Namespace) -> int:
    from ncbatch.arguments import encode_words
    from ncbatch.runs import submission

    spec = make_run_spec(args)  # what is wrong with the request is better said here than in a job's log
    encode_options(args)
    for name in ("corpus", "output"):
        setattr(args, name, open_store(getattr(args, name), store_options(args), create=True).uri)
    for name in ("model", "manifest", "spec"):  # paths are of this folder, not of the job's
        value = getattr(args, name)
        if value and Path(value).exists():
            setattr(args, name, str(Path(value).resolve()))
    root = submission.source_root(args.working_dir)
    client = submission.connect(args.dashboard or submission.DEFAULT_DASHBOARD)
    metadata = {"ncbatch_output": args.output, "ncbatch_digest": spec.digest}
    job = submission.submit(client, encode_words(args), metadata, root)
    out.print(job)
    if not args.wait:
        err.print(f"follow it with `ncbatch job follow {job}`, end it with `ncbatch job stop {job}`")
        return 0
    return _follow(client, job)


def _follow(client: Any, job: str) -> int:
    from ncbatch.runs import submission

    try:
        return submission.follow(client, job)
    except KeyboardInterrupt:
        err.print(f"the job goes on; end it with `ncbatch job stop {job}`")
        return 130


def job(args: argparse.Namespace) -> int:
    from ncbatch.runs import submission

    client = submission.connect(args.dashboard or submission.DEFAULT_DASHBOARD)
    if args.action == "follow":
        return _follow(client, args.job)
    if args.action == "logs":
        out.print(submission.logs(client, args.job), end="")
    elif args.action == "status":
        out.print(submission.status(client, args.job))
    else:
        out.print("stopping" if submission.stop(client, args.job) else "it was over already")
    return 0
