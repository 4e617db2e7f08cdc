"""Words that messages of all kinds are made of."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and what it is of."""
    return f"{count} {noun.removesuffix('s') if count == 1 else noun}"
