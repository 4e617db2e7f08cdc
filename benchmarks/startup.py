"""Processor seconds until a command has answered: `python -m benchmarks.startup [--against CHECKOUT]`.

With --against, each command runs alternately here and from another checkout (a `git worktree` of an earlier
commit), in this environment. Processor time hardly depends on what else the machine does; waiting does.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]
_COMMANDS = {
    "--help": ("--help",),
    "a mistyped flag": ("encode", "in", "out", "--lamda", "0.01"),
    "a folder that is not there": ("encode", "not-there/", "out/"),
    "a preset that is not there": ("encode", ".", "out/", "--preset", "quick"),
    "status where no run is": ("status", "."),
    "models": ("models",),
}


def processor_seconds(checkout: Path, words: tuple[str, ...], folder: str) -> float:
    """Of one command, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(
        [sys.executable, "-m", "ncbatch", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--times", type=int, default=5, help="runs of each command; default: %(default)s")
    args = parser.parse_args()
    checkouts = {"here": _HERE} | ({"there": args.against.resolve()} if args.against else {})
    print(f"{'':28}" + "".join(f"{name:>8}" for name in checkouts))
    with tempfile.TemporaryDirectory() as folder:
        for title, words in _COMMANDS.items():
            seconds: dict[str, list[float]] = {name: [] for name in checkouts}
            for _ in range(args.times + 1):  # the first one compiles bytecode
                for name, checkout in checkouts.items():
                    seconds[name].append(processor_seconds(checkout, words, folder))
            medians = (statistics.median(values[1:]) for values in seconds.values())
            print(f"{title:28}" + "".join(f"{median:8.2f}" for median in medians))


if __name__ == "__main__":
    main()
