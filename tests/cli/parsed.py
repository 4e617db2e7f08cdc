"""What a command's function is called with for a command line."""

from __future__ import annotations

import inspect
from typing import Any

from ncbatch.cli import app


def parsed(*words: str) -> dict[str, Any]:
    """The arguments by name, those of the messages among them.

    Raises:
        CycloptsError: the words are no command line.
    """
    request = app.parse(words)
    assert request is not None
    found = {"messages": request.messages}
    bound: inspect.BoundArguments = request.arguments
    return found | bound.arguments
