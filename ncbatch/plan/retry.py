"""What is asked for of failed rows. Light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass

from ncbatch.metrics.failures import CLASSES


@dataclass(frozen=True)
class Retry:
    """Failed rows are to be tried again. classes: those of these error classes; None: all."""

    classes: frozenset[str] | None = None


def retry_of(text: str) -> Retry:
    """What `--retry-failed` asks for: names of error classes with commas between them, or nothing for all.

    Raises:
        ValueError: there is no such class.
    """
    names = text.split(",") if text else []
    for name in names:
        if name not in CLASSES:
            raise ValueError(f"{name!r} is not an error class; the classes are {', '.join(CLASSES)}")
    return Retry(frozenset(names) or None)
