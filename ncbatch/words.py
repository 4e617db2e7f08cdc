"""Numbers with their units as messages show them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and a noun in the plural, which becomes the singular for 1: "1 image", "2 images"."""
    return f"{count} {noun.removesuffix('s') if count == 1 else noun}"


def are(count: int, noun: str) -> str:
    """The same with a verb: "1 image is", "2 images are"."""
    return f"{counted(count, noun)} {'is' if count == 1 else 'are'}"


def duration(seconds: float) -> str:
    """Seconds as "45 s", "3 min 05 s" or "2 h 07 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def size(count: float) -> str:
    """A number of bytes with a decimal prefix: "1.5 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def cost(worker_seconds: float, price_per_hour: float) -> float:
    """What workers cost, in the currency of the price.

    Args:
        worker_seconds: for which there are workers, computing or not: each holds a device (a GPU, or its
            CPUs) from when it starts until it is ended.
        price_per_hour: of a device.
    """
    return worker_seconds / 3600 * price_per_hour


def money(amount: float) -> str:
    """An amount of money, in whatever currency: "1,234.50"."""
    return f"{amount:,.2f}" if amount >= 0.01 or amount == 0 else "less than 0.01"
