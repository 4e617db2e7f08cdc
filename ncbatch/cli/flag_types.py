"""What flags take, as types for argparse: numbers within bounds, patterns of keys."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass

from ncbatch.metrics.failures import CLASSES

_LARGEST = 2**63 - 1
"""Of whole numbers: what comes after the command line keeps them in 64 bits."""


@dataclass(frozen=True)
class Number:
    """A finite number within bounds, read from a flag's value.

    whole: whether it is an int. least, above: the lower bound, included and not. most: the upper, included.
    """

    whole: bool = False
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf

    def __call__(self, text: str) -> float:
        """Raises argparse.ArgumentTypeError, which argparse completes by the flag's name."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        too_large = value > (min(self.most, _LARGEST) if self.whole else self.most)
        if not math.isfinite(value) or too_large or value < self.least or value <= self.above:
            raise argparse.ArgumentTypeError(f"{text!r} is not {self.words}")
        return value

    @property
    def words(self) -> str:
        """What it is, with an article."""
        bounds = []
        if self.least > -math.inf:
            bounds.append(f"of at least {self.least:g}")
        if self.above > -math.inf:
            bounds.append(f"greater than {self.above:g}")
        if self.most < math.inf:
            bounds.append(f"at most {self.most:,g}")
        noun = "a whole number" if self.whole else "a number" if self.most < math.inf else "a finite number"
        return f"{noun} {' and '.join(bounds)}".rstrip()


@dataclass(frozen=True)
class Numbers:
    """Several numbers with commas between them."""

    each: Number

    def __call__(self, text: str) -> list[float]:
        values = [self.each(word.strip()) for word in text.split(",") if word.strip()]
        if not values:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 10,20,30")
        return values


def error_classes(text: str) -> str:
    """Names of error classes with commas between them, or nothing for all; as it was written."""
    for name in text.split(",") if text else ():
        if name not in CLASSES:
            raise argparse.ArgumentTypeError(
                f"{name!r} is not an error class; the classes are {', '.join(CLASSES)}. To retry all failed "
                "rows, put the flag behind the folders"
            )
    return text


natural = Number(whole=True, least=0)
positive_int = Number(whole=True, least=1)
positive_float = Number(above=0)
at_least_zero = Number(least=0)
fraction = Number(least=0, most=1)
quality = Number(whole=True, least=0, most=100)
# More of these than any machine has would overflow in Ray or torch, which say nothing that helps.
worker_count = Number(whole=True, least=1, most=100_000)
thread_count = Number(whole=True, least=1, most=10_000)
cpu_count = Number(above=0, most=10_000)
gpu_count = Number(least=0, most=10_000)


def key_text(text: str) -> str:
    """What was typed, as text that keys are in: UTF-8 in every locale, other bytes as in `caf\\xe9`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
