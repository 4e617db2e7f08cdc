"""The largest file and the longest function of each room, in lines without docstrings, as a Markdown table.

    python tools/sizes.py                          prints the table
    python tools/sizes.py --write CONTRIBUTING.md  puts it between the markers of a file

Exits with 1 where a file or a function of the package is longer than the limits below.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ncbatch"

MAX_FILE, MAX_FUNCTION = 310, 60
"""Lines without docstrings. A module has one role and a function fits a screen; split what is larger."""

BEGIN, END = "<!-- sizes: begin -->", "<!-- sizes: end -->"


@dataclass(frozen=True)
class Length:
    """How many lines something has, and what it is called."""

    lines: int
    name: str


def docstring_lines(tree: ast.AST) -> int:
    """How many lines the docstrings in a syntax tree take, its own included."""
    total = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if ast.get_docstring(node, clean=False) is not None and first is not None:
                total += (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def functions(tree: ast.AST, prefix: str = "") -> Iterator[Length]:
    """Every function and method below a node of a syntax tree, without decorators and docstrings."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1 - docstring_lines(node)
            yield Length(lines, f"{prefix}{node.name}")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")


def measure(files: list[Path]) -> tuple[Length, Length]:
    """The largest of some files, and the longest of all functions in them."""
    sizes, found = [], []
    for file in files:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        sizes.append(Length(len(text.splitlines()) - docstring_lines(tree), file.name))
        found += [Length(length.lines, f"{file.name}: {length.name}") for length in functions(tree)]
    return max(sizes, key=_lines), max(found, key=_lines, default=Length(0, "none"))


def _lines(length: Length) -> int:
    return length.lines


def rooms() -> dict[str, list[Path]]:
    """The Python files of each folder of the package; single modules are one room together."""
    found = {"`ncbatch/*.py`": sorted(PACKAGE.glob("*.py"))}
    for folder in sorted(path for path in PACKAGE.iterdir() if path.is_dir()):
        files = sorted(folder.rglob("*.py"))
        if files:
            found[f"`{folder.name}/`"] = files
    return found


def main() -> int:
    """Prints or writes the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="a file with the two markers in it")
    args = parser.parse_args()

    table = [
        "| room | files | largest file | lines | longest function | lines |",
        "|---|---|---|---|---|---|",
    ]
    too_long = []
    for room, files in rooms().items():
        largest, longest = measure(files)
        table.append(
            f"| {room} | {len(files)} | `{largest.name}` | {largest.lines} "
            f"| `{longest.name}` | {longest.lines} |"
        )
        too_long += [f"{room} {largest.name}: {largest.lines} lines"] * (largest.lines > MAX_FILE)
        too_long += [f"{room} {longest.name}: {longest.lines} lines"] * (longest.lines > MAX_FUNCTION)
    text = "\n".join(table)
    if args.write:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end:
            sys.exit(f"{args.write} lacks the markers {BEGIN} and {END}")
        args.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    else:
        print(text)
    for problem in too_long:
        print(f"too long, split it: {problem}", file=sys.stderr)
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
