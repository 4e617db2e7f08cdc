"""Words that messages of all kinds are made of."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and what it is of."""
    return f"{count} {noun.removesuffix('s') if count == 1 else noun}"


def duration(seconds: float) -> str:
    """Seconds in words a person reads at a glance."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def size(count: float) -> str:
    """Bytes with a decimal prefix."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
