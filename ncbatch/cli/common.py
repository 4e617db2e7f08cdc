"""What several commands share."""

from __future__ import annotations

from typing import Annotated

from ncbatch.errors import UsageError
from ncbatch.settings import STORAGE, Setting
from ncbatch.store import NotAFolder, Store, StoreOptions, open_store

Storage = Annotated[StoreOptions, STORAGE]
Run = Annotated[str, Setting("folder or s3:// prefix of the run: the output of `ncbatch encode`", "RUN")]
Corpus = Annotated[str, Setting("folder or s3:// prefix with the images", "CORPUS")]
Output = Annotated[str, Setting(
    "folder or s3:// prefix for bitstreams and metrics; an interrupted run there is continued", "OUTPUT",
)]  # fmt: skip
Json = Annotated[bool, Setting("print one JSON object, for programs")]
DryRun = Annotated[bool, Setting(
    "write nothing: say what of a run that stands is left to do, calibrate for some seconds on this machine, "
    "and print how many images and units that is, how long it would take, what it would cost, and how large "
    "its output would be",
)]  # fmt: skip


def store_words(options: StoreOptions) -> list[str]:
    """The flags by which another command reaches the same store."""
    given = (("--endpoint-url", options.endpoint_url), ("--region", options.region))
    words = [word for flag, value in given if value for word in (flag, value)]
    return words + [word for option in options.storage_option for word in ("--storage-option", option)]


def open_run_store(uri: str, options: StoreOptions) -> Store:
    """The store of a run's output, checked to be usable."""
    store = open_store(uri, options)
    store.check()
    return store


def open_corpus(uri: str, options: StoreOptions) -> Store:
    """The images' folder; a mistyped path is the commonest mistake, and the quickest told."""
    try:
        return open_store(uri, options)
    except NotAFolder as error:
        raise UsageError(f"{uri} is a file; name the folder that holds the images") from error


def open_run(uri: str, options: StoreOptions) -> Store:
    """The output of a run; raises RunError where none stands there, before anything heavy is imported."""
    from ncbatch.plan.spec import read_run

    try:
        output = open_run_store(uri, options)
    except NotAFolder as error:
        raise UsageError(
            f"{uri} is a file, not a run's output; name the folder that `ncbatch encode` wrote"
        ) from error
    read_run(output)
    return output
