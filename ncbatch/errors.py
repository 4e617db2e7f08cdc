"""The one exception family that ends as a one-line message at the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydantic
    from pydantic_core import ErrorDetails


class NcbatchError(Exception):
    """Something a person can act on.

    The message is one sentence that names what is wrong and the fix; the command line prints it
    without a traceback. Rooms derive their own errors from it. Everything else that escapes is a bug.
    """


class UsageError(NcbatchError):
    """The request itself cannot be carried out as given (wrong flag, wrong value, wrong place)."""


class RunError(NcbatchError):
    """The output does not hold the run that was asked for, or holds it damaged."""


class SpecMismatchError(RunError):
    """The output holds a run with other settings."""


class LeaseHeldError(RunError):
    """Another driver is working on the run."""


class StoppedByPolicyError(RunError):
    """Stopped by a rule: going on would make things worse, or the time is up; the message says why."""


class Terminated(KeyboardInterrupt):
    """Raised in the main thread by SIGTERM, which ends a command as Ctrl-C does."""


def unknown(word: str, known: Iterable[str]) -> str:
    """The message for a word that is none of the known ones: what may have been meant, and the choices."""
    known = list(known)
    return f"there is no {word!r}{meant(word, known)}; the choices are {', '.join(known)}"


def meant(word: str, known: Iterable[str]) -> str:
    """A question in brackets that names the known word nearest to a mistyped one.

    Empty where no known word is near.
    """
    bare = {name.lstrip("-"): name for name in known}  # dashes make any two flags alike
    near = difflib.get_close_matches(word.lstrip("-"), bare, n=1, cutoff=0.7)
    return f" (did you mean {bare[near[0]]}?)" if near else ""


def first_line(error: Exception) -> str:
    """The first line of a library's error, for the brackets of a message; its type where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def first_problem(error: pydantic.ValidationError) -> str:
    """The first problem that pydantic found, as a sentence that names the flag."""
    problem = error.errors()[0]
    names = [part for part in problem["loc"] if isinstance(part, str)]  # the others count within a list
    where = "--" + names[-1].replace("_", "-") + ": " if names else ""
    return f"{where}{_in_our_words(problem)}"


_WANTED = {
    "bool": "true or false",
    "float": "a number",
    "finite_number": "a finite number",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "int": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list": "a list",
    "literal_error": "{expected}",
    "multiple_of": "a multiple of {multiple_of}",
    "string": "text",
    "tuple": "a list",
}
"""What a value is not, by the type of pydantic's error, or by the first word of that."""


def _in_our_words(problem: ErrorDetails) -> str:
    kind = problem["type"]
    context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in problem.get("ctx", {}).items()}
    if kind == "missing":
        return "is missing"
    wanted = _WANTED.get(kind) or _WANTED.get(kind.partition("_")[0])
    if wanted is None:
        return problem["msg"].removeprefix("Value error, ")
    return f"{problem['input']!r} is not {wanted.format(**context)}"
