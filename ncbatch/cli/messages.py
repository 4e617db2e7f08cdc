"""Where messages go: flags that every command has, before it as well as after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ncbatch.logs import LogFormat
from ncbatch.settings import Setting


@dataclass(frozen=True)
class Messages:
    """What is shown and kept of how results come about."""

    debug: Annotated[bool, Setting("print debug messages, and the whole traceback of an error")] = False
    verbose: Annotated[bool, Setting("print debug messages", also=("v",))] = False
    quiet: Annotated[bool, Setting(
        "print results, warnings and errors only: no progress", also=("q",),
    )] = False  # fmt: skip
    log_format: Annotated[LogFormat, Setting(
        "text: messages for people; json: each is one JSON object in a line, with the run, the unit and the "
        "attempt that it is about, in the workers' logs as well", "FORMAT", environment=True,
    )] = "text"  # fmt: skip
    log_file: Annotated[str | None, Setting(
        "append all messages, debug messages included, to this file", "FILE", default="none is kept",
        environment=True,
    )] = None  # fmt: skip
