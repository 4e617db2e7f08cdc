"""The command line as a whole: its commands, what they have in common, and how its words are read."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.help import DefaultFormatter, PanelSpec
from rich.box import Box

from ncbatch import __version__
from ncbatch.cli.console import Console
from ncbatch.cli.flags import Command, Flag, command
from ncbatch.cli.messages import Messages
from ncbatch.exit_codes import table
from ncbatch.settings import MESSAGES

COMMANDS = {
    "encode": ("encode:encode", "encode a corpus, or continue an interrupted run"),
    "demo": ("demo:demo", "encode a few images that come with scikit-image"),
    "pack": ("pack:pack", "put several images into one file, with bits-back"),
    "status": ("status:status", "how much of a run is done, and what its driver does"),
    "watch": ("watch:watch", "show a run live, in the terminal or in a browser"),
    "pause": ("orders:pause", "let a run's driver begin nothing more, and wait"),
    "resume": ("orders:resume", "let a paused run go on"),
    "drain": ("orders:drain", "end a run's driver as soon as what is in flight is done"),
    "query": ("query:query", "ask a run's tables, metrics and findings (of verify), in SQL"),
    "decode": ("decode:decode", "decode a run, or one .ncb or .ncbp file, into PNG files"),
    "failures": ("failures:failures", "which images of a run failed, why, and what can be done"),
    "verify": ("verify:verify", "check that every row's bytes are there, hash and decode"),
    "compact": ("compact:compact", "merge a run's unit commits into few large table parts"),
    "gc": ("gc:gc", "find and delete objects that no row of a run refers to"),
    "report": ("report:report", "write an HTML page about a run, with figures and tables"),
    "evaluate": ("evaluate:evaluate", "encode by several methods and codecs, and report on them"),
    "submit": ("submit:submit", "encode as a job on a Ray cluster"),
    "job": ("jobs:job", "list, follow, read or stop submitted jobs"),
    "train": ("train:train", "train models, or continue an interrupted training"),
    "models": ("models:models", "list the built-in models, the zoo's, and those in a folder"),
    "convert": ("models:convert", "make a checkpoint from a CompressAI torch file"),
    "export-decoder": ("export_decoder:export_decoder", "write a model for decoders other than ncbatch"),
    "info": ("info:info", "say what a bitstream, a pack or a checkpoint is; decode nothing"),
    "selftest": ("selftest:selftest", "whether this machine's CPU or GPU codes exactly, and how fast"),
}
"""Where each command is, and what it does. Its module is imported when the command is used."""

_OTHERS = {
    "encode-request": ("submit:encode_request", "carry out what `ncbatch submit` sent"),
    "--print-completion": (
        "completion:print_completion",
        "print a script that completes commands and flags in bash, zsh or fish",
    ),
}
_HIDDEN = ("encode-request",)

_EPILOG = f"""\
exit codes:
{table()}

examples:
  ncbatch demo                 encode six images that come with scikit-image
  ncbatch encode photos/ out/  a folder into a folder, on this machine
  ncbatch encode s3://raw/ s3://out/run1/ --method sga --steps 2000 --workers 2
  ncbatch status s3://out/run1/                  from any terminal
  ncbatch query s3://out/run1/ "select image_key, bpp from metrics limit 5"
  ncbatch decode s3://out/run1/ decoded/         also one .ncb or .ncbp file
  ncbatch verify s3://out/run1/                  all bytes are there and decode
  ncbatch train photos/ --ladder --kind base,bits-back --out models/
  ncbatch submit s3://raw/ s3://out/run1/        as a job on a Ray cluster

Places are folders, file:///... or s3://bucket/prefix. Credentials come from
boto3's own chain (environment, profile, instance role), never from a flag.

Flags that say how a command is carried out take their defaults from the
environment, too: --workers from NCBATCH_WORKERS. The help of each command
names these variables."""


@dataclass(frozen=True)
class Request:
    """A command line that was understood: the function of its command, and what that is called with."""

    messages: Messages
    function: Callable[..., int]
    arguments: inspect.BoundArguments

    def carry_out(self) -> int:
        """Does what was asked for, and returns the exit code."""
        return self.function(*self.arguments.args, **self.arguments.kwargs)


app = App(
    name="ncbatch",
    help="Bulk-encodes image corpora with a learned codec that optimises every image's latents.",
    usage="Usage: ncbatch COMMAND [OPTIONS]",
    version=f"ncbatch {__version__}",
    version_flags=("--version", "-V"),
    help_format="plaintext",
    help_formatter=DefaultFormatter(panel_spec=PanelSpec(box=Box("    \n" * 8), padding=(0, 0, 0, 3))),
    help_epilogue=_EPILOG,
    default_parameter=Parameter(negative=()),
    console=Console(highlight=False, markup=False),
    result_action="return_value",
)
app["--help"].help = "print this help, or a command's"
app["--version"].help = "print the version"
for _place, (_name, (_where, _help)) in enumerate({**COMMANDS, **_OTHERS}.items()):
    app.command(
        f"ncbatch.cli.{_where}",
        name=_name,
        help=_help,
        help_epilogue="",
        sort_key=_place,
        show=_name not in _HIDDEN,
    )


@app.meta.default
@command
def launch(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    messages: Annotated[Messages, MESSAGES],
) -> Any:
    """Reads a command line as far as all commands have it in common, and finds its command."""
    if not words:
        raise CycloptsError("a COMMAND is required")
    found, bound, _ = app.parse_args(_with_values(words), exit_on_error=False, print_error=False)
    if not isinstance(found, Command):  # help or the version
        return found(*bound.args, **bound.kwargs)
    return Request(messages, found.function, found.arguments(*bound.args, **bound.kwargs))


def parse(words: Sequence[str] | None) -> Request | None:
    """What a command line asks for; None where that was help or the version, which is printed.

    Raises:
        CycloptsError: it cannot be understood.
    """
    words = list(sys.argv[1:] if words is None else words)
    if words and not words[0].startswith("-") and words[0] not in {**COMMANDS, **_OTHERS}:
        words = words[:1]  # an unknown command is refused even where --help follows it
    found = app.meta(words, exit_on_error=False, print_error=False)
    return found if isinstance(found, Request) else None


def flags_of(name: str) -> list[Flag]:
    """The flags and arguments of a command."""
    found = app[name].default_command
    assert isinstance(found, Command)
    return found.flags


COMMON: list[Flag] = launch.flags
"""The flags that every command has."""


def _with_values(words: Sequence[str]) -> list[str]:
    """The same words; behind a flag that stands alone, where it may, an empty value.

    It stands alone where the next word is another flag, or a place rather than anything that it could mean.
    """
    alone = {f.name: f for f in flags_of(words[0]) if f.setting.stands_alone} if words[0] in COMMANDS else {}
    found: list[str | None] = list(words)
    for index, word in enumerate(words):
        if word == "--":
            break
        if word in alone and not _is_value(alone[word], words[index + 1 : index + 2]):
            found[index] = f"{word}="
        elif word.startswith("--") and "=" not in word and list(words[index + 1 : index + 2]) == ["-"]:
            found[index : index + 2] = [f"{word}=-", None]  # standard input, which looks like a flag
    return [word for word in found if word is not None]


def _is_value(flag: Flag, word: Sequence[str]) -> bool:
    """Whether the next word, if any, is a value for a flag; a negative number is one, if not a good one."""
    if not word or word[0].startswith("-"):
        return bool(word) and word[0][1:2].isdigit()
    try:
        flag.read(word[0])
    except ValueError:
        return not ("/" in word[0] or Path(word[0]).exists())
    return True
