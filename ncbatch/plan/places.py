"""Where a run reads and writes, looked at before anything heavy is imported or started."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ncbatch import layout
from ncbatch.errors import UsageError
from ncbatch.plan.spec import RunFile, RunSpec, check_same, find_run, holds_run
from ncbatch.store import LocalStore, Store, StoreOptions, open_store, prefix_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """asked: the spec that was asked for; stored: the run that stands in the output, or None."""

    asked: RunSpec
    corpus: Store
    output: Store
    stored: RunFile | None


def open_places(asked: RunSpec, output_uri: str, options: StoreOptions) -> Places:
    """Opens a run's corpus and output.

    Raises:
        StoreError: one of them cannot be used. SpecMismatchError: the output holds another run.
        UsageError: a new run cannot have this output.
    """
    corpus = open_store(asked.corpus, options)
    output = open_store(output_uri, options, create=True)
    corpus.check()
    output.check()
    stored = find_run(output)
    if stored is not None:
        check_same(stored.spec, asked, output.uri)
    else:
        check_new_output(output, corpus, options)
        if not asked.manifest and prefix_of(output, corpus) is not None:
            log.warning("the output %s lies in the corpus; what is below it is no input", output.uri)
    return Places(asked, corpus, output, stored)


def check_new_output(output: Store, corpus: Store, options: StoreOptions) -> None:
    """Raises UsageError where the output of a new run would be its corpus, or inside another run's folder."""
    if prefix_of(output, corpus) == "":
        raise UsageError(f"{corpus.uri} is the corpus and the output; name another folder for the output")
    around = next((folder for folder in _folders_around(output, options) if folder.is_of_run), None)
    if around is not None:
        raise UsageError(
            f"the output {output.uri} lies inside the folder of the run {around.uri}; "
            "name a folder outside of it"
        )


@dataclass(frozen=True)
class _Folder:
    store: Store
    prefix: str = ""

    @property
    def uri(self) -> str:
        return self.store.uri + self.prefix

    @property
    def is_of_run(self) -> bool:
        return holds_run(self.store, self.prefix + layout.RUN)


def _folders_around(output: Store, options: StoreOptions) -> Iterator[_Folder]:
    """The folders that an output is in, from the nearest to the outermost; in a bucket one is one request."""
    if isinstance(output, LocalStore):
        real = Path(os.path.realpath(output.root))  # of a folder that is reached by a link, both count
        for folder in dict.fromkeys((*output.root.parents, *real.parents)):
            if os.path.lexists(folder / layout.RUN):
                yield _Folder(LocalStore(folder))
        return
    bucket, _, path = output.uri.removeprefix("s3://").partition("/")
    root = open_store(f"s3://{bucket}/", options)
    path = path.rstrip("/")
    while path:
        path, slash, _ = path.rpartition("/")
        yield _Folder(root, path + slash)


def check_programs(asked: RunSpec) -> None:
    """Raises UsageError where a codec's own programs are not on this machine."""
    for variant in asked.variants:
        for program in variant.recipe.programs:
            if shutil.which(program) is None:
                raise UsageError(
                    f"--method {variant.recipe.method} needs the program {program}, which is not on "
                    "the PATH; install it, or use --method hevc, which needs no program of its own"
                )
