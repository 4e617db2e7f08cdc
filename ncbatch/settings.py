"""How a setting is stated: once, beside the code that uses it.

    unit_seconds: Annotated[float, Setting("work committed at once", "SECONDS", positive_float)] = 300.0

The field gives the name and the default, `Setting` the words, the unit and the bounds. The command line is
made of these (see `ncbatch.cli.flags`); the rooms that state them know nothing of it. Models of pydantic
state theirs with `Field` (see `stated`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_LARGEST = 2**63 - 1
"""Of whole numbers: what comes after the command line keeps them in 64 bits."""


@dataclass(frozen=True)
class Setting:
    """What a person has to know of a setting.

    Attributes:
        text: what it is and what follows from it.
        unit: what stands for its value in the help; in brackets where the flag may stand without a value.
        read: turns text into a value; raises ValueError, whose message says what is wrong with the text. By
            default the text is the value.
        name: the flag, without dashes, where it is not called as the field is.
        also: other flags with the same meaning; one letter is a short one.
        default: what holds where it is not given, where the field's default does not say it.
        environment: whether a variable of the environment may give it, too. Only of settings that say how
            something is carried out on some machine, never of those that decide what an image becomes.
        hidden: left out of the help.
    """

    text: str
    unit: str = ""
    read: Callable[[str], Any] | None = None
    name: str = ""
    also: tuple[str, ...] = ()
    default: str = ""
    environment: bool = False
    hidden: bool = False

    @property
    def stands_alone(self) -> bool:
        """Whether its flag may stand without a value, which then reads as an empty text."""
        return self.unit.startswith("[")


@dataclass(frozen=True)
class Section:
    """A part of the help, for a model's settings. place: among the parts; those without come first."""

    title: str
    place: int | None = None


STORAGE = Section("object storage", 8)
MESSAGES = Section("messages", 9)


@dataclass(frozen=True)
class Number:
    """A finite number within bounds, read from text.

    whole: whether it is an int. least, above: the lower bound, included and not. most: the upper, included.
    """

    whole: bool = False
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf

    def __call__(self, text: str) -> float:
        """Raises ValueError: not such a number."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        too_large = value > (min(self.most, _LARGEST) if self.whole else self.most)
        if not math.isfinite(value) or too_large or value < self.least or value <= self.above:
            raise ValueError(f"{text!r} is not {self.words}")
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
            bounds.append(f"at most {self.most:,}")
        noun = "a whole number" if self.whole else "a number" if self.most < math.inf else "a finite number"
        return f"{noun} {' and '.join(bounds)}".rstrip()


@dataclass(frozen=True)
class Numbers:
    """Several numbers with commas between them. count: how many there must be, where that is fixed."""

    each: Number
    count: int | None = None

    def __call__(self, text: str) -> tuple[float, ...]:
        """Raises ValueError: one of them is none, or there are none."""
        values = tuple(self.each(word.strip()) for word in text.split(",") if word.strip())
        if not values:
            raise ValueError(f"{text!r} is not a list of numbers like 10,20,30")
        if self.count not in (None, len(values)):
            raise ValueError(f"{text!r} has {len(values)} numbers, where {self.count} are needed")
        return values


@dataclass(frozen=True)
class Multiple:
    """A whole number that is a multiple of another, or 0."""

    of: int

    def __call__(self, text: str) -> int:
        """Raises ValueError: not such a number."""
        value = int(natural(text))
        if value % self.of:
            raise ValueError(f"{text!r} is not a multiple of {self.of}")
        return value


def words(text: str) -> tuple[str, ...]:
    """Several words with commas between them."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def key_text(text: str) -> str:
    """What was typed, as text that keys are in: UTF-8 in every locale, other bytes as in `caf\\xe9`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def web_address(text: str) -> str:
    """An address of http or https; raises ValueError."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number, or too large
        usable = False
    if not usable or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"{text!r} is not an address like https://example.com/hook (write other letters as %C3%BC)"
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


Price = Annotated[float | None, Setting(
    "what a device (a GPU, or a worker on CPUs) costs per hour, in any currency, to tell the cost as well",
    "PRICE", at_least_zero, default="cost is left out", environment=True,
)]  # fmt: skip


def stated(field: FieldInfo) -> Setting:
    """The setting that a pydantic field states: by its description, its bounds, and `json_schema_extra`.

    The last may have `unit`, `default` and `also`, which mean what they mean in `Setting`.
    """
    extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    read: Callable[[str], Any] | None = None
    if bool not in (kinds := get_args(field.annotation) or (field.annotation,)) and {int, float} & set(kinds):
        read = _bounds(field, whole=int in kinds)
    return Setting(
        field.description or "",
        extra.get("unit", "N" if read else ""),
        read,
        default=extra.get("default", ""),
        also=tuple(extra.get("also", ())),
    )


def _bounds(field: FieldInfo, *, whole: bool) -> Number:
    found: dict[str, float] = {}
    for check in field.metadata:  # of annotated_types, each with one bound
        found |= {name: getattr(check, name) for name in ("ge", "gt", "le") if hasattr(check, name)}
    least, above, most = found.get("ge", -math.inf), found.get("gt", -math.inf), found.get("le", math.inf)
    if whole and above > -math.inf:
        least, above = above + 1, -math.inf
    return Number(whole, least, above, most)
