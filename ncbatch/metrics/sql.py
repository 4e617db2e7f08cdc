"""Texts as DuckDB's SQL has them."""

from __future__ import annotations

from collections.abc import Iterable


def quoted(text: str) -> str:
    """A text as a string literal."""
    return "'" + text.replace("'", "''") + "'"


def one_of(texts: Iterable[str]) -> str:
    """What follows a column to say that it is one of some texts."""
    return f"in ({', '.join(map(quoted, texts))})"
