"""The reference pages of the docs, generated from the code whenever the site is built (a hook of MkDocs).

Commands and flags come from the help that the program itself prints, whatever library makes it; columns,
error classes and exit codes from the tables that the code uses.
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ncbatch
from ncbatch.exit_codes import ExitCode
from ncbatch.metrics.failures import CLASSES
from ncbatch.metrics.schema import SCHEMA, SCHEMA_VERSION, column_descriptions
from ncbatch.telemetry.instruments import INSTRUMENTS

_COLUMNS = 100  # characters of a line of help
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_FIRST_WORD = re.compile(r"^\W{0,8}([a-z]+(?:-[a-z]+)*)\b", re.MULTILINE)
_QUOTED = re.compile(r"(: |-> )'([^']*)'")
_BLAME = {"image": "the file", "variant": "the settings", "system": "the environment"}


def _run(*arguments: str) -> tuple[int, str]:
    environment = os.environ | {"COLUMNS": str(_COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", "ncbatch", *arguments], capture_output=True, text=True, env=environment
    )
    return done.returncode, "\n".join(line.rstrip() for line in done.stdout.splitlines())


@functools.cache
def helps() -> dict[str, str]:
    """What `ncbatch --help` prints, by the name "", and what `ncbatch COMMAND --help` does, by the command.

    Any word that a line of the program's help begins with may be a command; it is one if its help says how
    that very command is used.
    """
    _, overview = _run("--help")
    words = list(dict.fromkeys(_FIRST_WORD.findall(overview)))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        answers = list(threads.map(lambda word: _run(word, "--help"), words))
    found = {
        word: text
        for word, (code, text) in zip(words, answers, strict=True)
        if code == 0 and re.match(rf"usage: ncbatch {word}\b", text, re.IGNORECASE)
    }
    return {"": overview, **found}


def flags(command: str) -> frozenset[str]:
    """The flags that a command takes, before or after its name."""
    return frozenset(_FLAG.findall(helps()[command] + helps()[""]))


def commands_page() -> str:
    """reference/commands.md."""
    lines = ["# Commands", "", "What `--help` prints, for every command of this version.", ""]
    for command, text in helps().items():
        title = f"ncbatch {command}".strip()
        lines += [f"## {title}", "", "```text", f"$ {title} --help", text.strip(), "```", ""]
    return "\n".join(lines)


def columns_page() -> str:
    """reference/columns.md."""
    lines = [
        "# Columns of the metrics table",
        "",
        f"Version {SCHEMA_VERSION} of the schema, which is written into every Parquet file. The table has",
        "one row for each image and variant; of an image that was planned again (because it was changed,",
        "retried or repaired), `ncbatch query` shows the newest row.",
        "",
        "| column | type | null? | what it holds |",
        "|---|---|---|---|",
    ]
    for name, description in column_descriptions().items():
        field = SCHEMA.field(name)
        nullable = "may be null" if field.nullable else "never"
        lines.append(f"| `{name}` | {field.type} | {nullable} | {description} |")
    return "\n".join([*lines, ""])


def outcomes_page() -> str:
    """reference/outcomes.md."""
    lines = ["# Exit codes and error classes", "", "## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    lines += [
        "",
        "A job that is followed (`ncbatch submit --wait`, `ncbatch job follow`) passes its own exit code on.",
        "",
        "## Error classes",
        "",
        "An image that cannot be encoded becomes a row with the status `failed`, an error class and a",
        "message. `ncbatch failures` lists them with what to do:",
        "",
        "| error class | what is to blame | what to do |",
        "|---|---|---|",
    ]
    for name, known in CLASSES.items():
        lines.append(f"| `{name}` | {_BLAME[known.fault]} | {known.remedy} |")
    return "\n".join([*lines, ""])


def metrics_page() -> str:
    """reference/metrics.md."""
    lines = [
        "# Metrics for Prometheus",
        "",
        "Ray's agent on each node exports them with `ray_` before the names, and with the label `run`, the",
        "URI of the run's folder, beside those that are named here and Ray's own (`NodeAddress`, `WorkerId`",
        "and others). A process that is killed takes what it counted in the last ten seconds with it; the",
        "driver's counts are complete. The sums of histograms are approximate, since Ray sends their buckets",
        "only.",
        "",
        "| metric | kind | labels | what it holds |",
        "|---|---|---|---|",
    ]
    for each in INSTRUMENTS:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `ray_{each.name}` | {type(each).__name__.lower()} | {labels} | {each.help} |")
    return "\n".join([*lines, ""])


def python_page() -> str:
    """reference/python.md."""
    lines = ["# Python API", "", "What `import ncbatch` offers; the examples are run as tests.", ""]
    names = [name for name in ncbatch.__all__ if not name.startswith("_")]
    for path in [*names, "datasets.RunDataset", "ray_data.read_run"]:
        public, name = operator.attrgetter(path)(ncbatch), path.rpartition(".")[2]
        lines += [f"## ncbatch.{path}", "", "```text", *_documented(name, public), "```", ""]
        if name in ("Run", "RunDataset"):
            methods = inspect.getmembers(public, inspect.isfunction)
            own = [(m, f) for m, f in methods if m[0] != "_" and f.__module__ == public.__module__]
            for method, function in own:
                lines += [f"### {name}.{method}", "", "```text", *_documented(method, function), "```", ""]
    return "\n".join(lines)


def _documented(name: str, public: Any) -> list[str]:
    """The signature, of functions, and the docstring."""
    text = inspect.getdoc(public) or ""
    if not inspect.isfunction(public):
        return [text]
    # Annotations are kept as strings, which is how they would be shown.
    return [name + _QUOTED.sub(r"\1\2", str(inspect.signature(public))), "", text]


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/columns.md": columns_page,
    "reference/outcomes.md": outcomes_page,
    "reference/metrics.md": metrics_page,
    "reference/python.md": python_page,
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages to the site (called by MkDocs)."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files
