"""The one exception family that ends as a one-line message at the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydantic


class NcbatchError(Exception):
    """Something a person can act on.

    The message is one sentence that names what is wrong and the fix; the command line prints it
    without a traceback. Rooms derive their own errors from it. Everything else that escapes is a bug.
    """


class UsageError(NcbatchError):
    """The request itself cannot be carried out as given (wrong flag, wrong value, wrong place)."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def unknown(word: str, known: Iterable[str]) -> str:
    """Of a word that is none of the known ones: what may have been meant, and what there is."""
    known = list(known)
    return f"there is no {word!r}{meant(word, known)}; the choices are {', '.join(known)}"


def meant(word: str, known: Iterable[str]) -> str:
    """The known word nearest to one that is not, as a question in brackets; nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def first_line(error: Exception) -> str:
    """What a library's error says, for the brackets of a message; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def first_problem(error: pydantic.ValidationError) -> str:
    """What pydantic found first, as a sentence that names the flag."""
    problem = error.errors()[0]
    where = "--" + str(problem["loc"][-1]).replace("_", "-") + ": " if problem["loc"] else ""
    return f"{where}{problem['msg'].removeprefix('Value error, ')}"
