"""Where a run reads and writes, looked at before anything heavy is imported or started."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from ncbatch.codec.methods import PROGRAMS
from ncbatch.errors import UsageError
from ncbatch.runs.spec import RunSpec, check_same, stored_spec
from ncbatch.store import Store, StoreOptions, open_store


@dataclass(frozen=True)
class Places:
    """stored: the spec of the run that stands in the output, or None."""

    corpus: Store
    output: Store
    stored: RunSpec | None


def open_places(asked: RunSpec, output_uri: str, options: StoreOptions) -> Places:
    """Opens a run's corpus and output.

    Raises:
        StoreError: one of them cannot be used. SpecMismatchError: the output holds another run.
    """
    corpus = open_store(asked.corpus, options)
    output = open_store(output_uri, options, create=True)
    corpus.check()
    output.check()
    stored = stored_spec(output)
    if stored is not None:
        check_same(stored, asked, output.uri)
    return Places(corpus, output, stored)


def check_programs(asked: RunSpec) -> None:
    """Raises UsageError where a codec's own programs are not on this machine."""
    for variant in asked.variants:
        for program in PROGRAMS.get(variant.recipe.method, ()):
            if shutil.which(program) is None:
                raise UsageError(
                    f"--method {variant.recipe.method} needs the program {program}, which is not on "
                    "the PATH; install it, or use --method hevc, which needs no program of its own"
                )
