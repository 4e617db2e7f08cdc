"""What is asked for of failed rows. Light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """Failed rows are to be tried again. classes: those of these error classes; None: all."""

    classes: frozenset[str] | None = None
