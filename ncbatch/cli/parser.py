"""The parser of the command line: what is mistyped is told in one line, with what may have been meant.

Some flags take their defaults from environment variables, `NCBATCH_<FLAG>`.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ncbatch.errors import meant, unknown
from ncbatch.exit_codes import ExitCode

ENVIRONMENT_FLAGS = (
    *(
        "workers",
        "cpus_per_worker",
        "gpus_per_worker",
        "batch_size",
        "unit_seconds",
        "ray_address",
        "dashboard",
    ),
    *("endpoint_url", "region", "price_per_hour", "log_file"),
)
"""Flags that say how a command is carried out on some machine; none that decides what an image becomes."""


def variable(dest: str) -> str:
    """The environment variable that gives a flag's default."""
    return f"NCBATCH_{dest.upper()}"


class Parser(argparse.ArgumentParser):
    """Ends with `ExitCode.ERROR`: argparse's own exit code, 2, means failed rows here."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(
            r"(?<!\S)(--[\w-]+)(/--[\w-]+)+", r"\1", message
        )  # the first of a flag's names will do
        self.exit(ExitCode.ERROR, f"{self.prog}: error: {message}; see `{self.prog} --help`\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if not self._has_commands:  # the top level sees the words of all commands
            self._refuse_unknown_flags(args or ())
        self._read_environment()
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            flag = next((word for word in rest if word.startswith("-") and word != "-"), None)
            self.error(self._unknown(flag) if flag else f"unexpected argument {rest[0]!r}")
        return found, rest

    def describe_environment(self) -> None:
        """Adds to the help of flags where else their defaults come from."""
        for action in self._environment_actions():
            name = variable(action.dest)
            if name not in (action.help or ""):  # several commands share an action of their parents
                action.help = f"{action.help} (or set {name})"

    def show_last(self, *titles: str) -> None:
        """Puts groups of flags that every command has behind those of the command itself."""
        self._action_groups.sort(
            key=lambda group: titles.index(group.title) + 1 if group.title in titles else 0
        )

    @property
    def _has_commands(self) -> bool:
        return self._subparsers is not None

    def _environment_actions(self) -> list[argparse.Action]:
        return [a for a in self._actions if a.option_strings and a.dest in ENVIRONMENT_FLAGS]

    def _read_environment(self) -> None:
        for action in self._environment_actions():
            text = os.environ.get(variable(action.dest))
            if not text:
                continue
            try:
                value = self._get_value(action, text)
            except argparse.ArgumentError as error:
                self.error(f"{variable(action.dest)}: {error.message}")
            if action.default is not argparse.SUPPRESS:
                action.default = value

    def _refuse_unknown_flags(self, args: Iterable[str]) -> None:
        """Before argparse takes a mistyped flag's value for a positional argument, and complains of that."""
        for word in args:
            if word == "--":
                return
            name = word.partition("=")[0]
            if name.startswith("--") and " " not in name and name not in self._option_string_actions:
                self.error(self._unknown(name))

    def _unknown(self, flag: str) -> str:
        name = flag.partition("=")[0]
        return f"unknown flag {name}" + meant(name, self._option_string_actions)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        raise argparse.ArgumentError(action, unknown(str(value), map(str, action.choices)))


class PrintCompletion(argparse.Action):
    """Prints a script that completes commands and flags in a shell."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        import shtab

        print(shtab.complete(parser, shell=str(values)))  # noqa: T201 (a script goes out as it is)
        parser.exit(ExitCode.OK)
