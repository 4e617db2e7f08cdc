"""What several commands share."""

from __future__ import annotations

import argparse

from ncbatch.errors import UsageError
from ncbatch.store import NotAFolder, Store, StoreOptions, open_store


def store_options(args: argparse.Namespace) -> StoreOptions:
    return StoreOptions(endpoint_url=args.endpoint_url, region=args.region)


def store_words(args: argparse.Namespace) -> list[str]:
    """The flags by which another command reaches the same store."""
    given = (("--endpoint-url", args.endpoint_url), ("--region", args.region))
    return [word for flag, value in given if value for word in (flag, value)]


def message_words(args: argparse.Namespace) -> list[str]:
    """The flags that say where messages go, for a command that runs another one."""
    words = [f"--{name}" for name in ("debug", "verbose", "quiet") if getattr(args, name)]
    return words if args.log_file is None else [*words, f"--log-file={args.log_file}"]


def open_run_store(args: argparse.Namespace, uri: str) -> Store:
    store = open_store(uri, store_options(args))
    store.check()
    return store


def open_corpus(args: argparse.Namespace, uri: str) -> Store:
    """The images' folder; a mistyped path is the commonest mistake, and the quickest told."""
    try:
        return open_store(uri, store_options(args))
    except NotAFolder as error:
        raise UsageError(f"{uri} is a file; name the folder that holds the images") from error


def open_run(args: argparse.Namespace, uri: str) -> Store:
    """The output of a run; raises RunError where none stands there, before anything heavy is imported."""
    from ncbatch.plan.spec import read_run

    try:
        output = open_run_store(args, uri)
    except NotAFolder as error:
        raise UsageError(
            f"{uri} is a file, not a run's output; name the folder that `ncbatch encode` wrote"
        ) from error
    read_run(output)
    return output
