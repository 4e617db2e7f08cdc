"""The command that shows what ncbatch does."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ncbatch.cli.common import message_words
from ncbatch.cli.console import out, print_table
from ncbatch.store import open_store

log = logging.getLogger(__name__)


def demo(args: argparse.Namespace) -> int:
    from ncbatch.cli import main
    from ncbatch.metrics.query import query as run_query

    folder = Path(args.folder)
    output = folder / "run"
    corpus, *flags = _words(folder, output)
    words = ["encode", corpus, str(output), *flags]
    log.info("ncbatch %s", " ".join(words))
    code = main.main([*words, *message_words(args)])
    if code:
        return code
    table = run_query(
        open_store(str(output)),
        """select image_key as image, length as bytes, bpp, psnr as "PSNR dB",
                  100 * (1 - rd_loss / amortized_rd_loss) as "saved %"
           from metrics order by image""",
    )
    print_table(table.column_names, zip(*table.to_pydict().values(), strict=True))
    out.print('"saved %": R-D loss (bpp + lmbda * MSE) that refinement saved against the amortized encoding')
    out.print(f"decode them again: ncbatch decode {output} {folder / 'decoded'}")
    return 0


def _words(folder: Path, output: Path) -> list[str]:
    """Corpus and flags: those of the demonstration that stands there, or what this machine can do."""
    from ncbatch.cli.demonstration import PRESET, choose, copy_images, measure, words_of
    from ncbatch.plan.sizing import local_workers
    from ncbatch.plan.spec import stored_spec

    known = stored_spec(open_store(str(output), create=True))
    if known is not None:
        log.info("going on with the demonstration that was begun in %s", folder)
        return words_of(known, str(folder / Path(known.corpus.rstrip("/")).name))
    log.info("measuring this machine, to choose what it can do in about two minutes")
    speed = measure()
    import torch

    choice = choose(speed, local_workers(None, 1.0, None, torch.cuda.device_count()))
    log.info("%s", choice.reason)
    copy_images(folder / choice.folder, choice.scale)
    return [str(folder / choice.folder), "--preset", PRESET, "--steps", str(choice.steps)]
