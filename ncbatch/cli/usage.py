"""What is wrong with a command line, in one line that says what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

from cyclopts import CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from ncbatch.cli.app import COMMANDS, COMMON
from ncbatch.errors import meant, unknown

_HELP = ("--help", "--version")


def told(error: CycloptsError) -> str:
    """An error of the parser in our words."""
    program = " ".join(("ncbatch", *(error.command_chain or ())))
    return f"{program}: error: {_problem(error)}; see `{program} --help`"


def _problem(error: CycloptsError) -> str:
    common = (*(flag.name for flag in COMMON), *_HELP)
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]):
            return unknown_flag(word, common) if word.startswith("-") else unknown(word, COMMANDS)
        case UnknownOptionError():
            known = [name for argument in error.argument_collection for name in argument.names]
            return unknown_flag(error.token.keyword or error.token.value, (*known, *common))
        case UnusedCliTokensError(unused_tokens=[word, *_]):
            return f"unexpected argument {word!r}"
        case MissingArgumentError(argument=argument) if argument is not None:
            name = error.keyword or argument.name
            if name.startswith("-") and (error.keyword or argument.has_tokens):
                return f"argument {name}: expected a value"
            return f"the following argument is required: {name}"
        case RepeatArgumentError(token=token):
            return f"argument {token.keyword}: it is given twice"
        case CoercionError(argument=argument) if argument is not None:
            return f"{_where(error)}: {error.msg or _not_a_value(error)}"
    return " ".join(str(error).split()).rstrip(".")


def unknown_flag(word: str, known: Iterable[str]) -> str:
    """The message for a flag that there is not, with the one that may have been meant."""
    name = word.partition("=")[0]
    if name in (known := list(known)):
        return f"{name} stands behind --, where there are places only; put it before that"
    return f"unknown flag {name}" + meant(name, known)


def _where(error: CoercionError) -> str:
    """The flag or the variable that a value comes from."""
    assert error.argument is not None
    token = error.token or next(iter(error.argument.tokens), None)
    if token is not None and token.source == "env":
        return str(token.keyword)
    return f"argument {error.argument.name}"


def _not_a_value(error: CoercionError) -> str:
    """Of a flag that takes none."""
    value = error.token.value if error.token is not None else ""
    return f"it takes no value, but {value!r} is given"
