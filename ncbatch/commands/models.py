"""Commands for models."""

from __future__ import annotations

import argparse
from pathlib import Path

from ncbatch.console import out, print_table


def models(args: argparse.Namespace) -> int:
    from ncbatch.codec import zoo

    rows = []
    for name in zoo.builtin_models():
        checkpoint = zoo.load_builtin(name)
        info = checkpoint.info
        rows.append((name, info.kind, info.lmbda, info.n, info.m, checkpoint.digest[:16]))
    print_table(("name", "kind", "lmbda", "N", "M", "digest"), rows)
    return 0


def convert(args: argparse.Namespace) -> int:
    from ncbatch.codec import zoo

    checkpoint = zoo.convert(Path(args.source), lmbda=args.lmbda)
    Path(args.destination).write_bytes(checkpoint.to_bytes())
    out.print(f"{args.destination}: lmbda {checkpoint.info.lmbda:g}, digest {checkpoint.digest[:16]}")
    return 0
