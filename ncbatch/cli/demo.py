"""The command that shows what ncbatch does."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Annotated, Any

from ncbatch.cli.console import out, print_table
from ncbatch.cli.encode import encode_and_summarise, make_run_spec
from ncbatch.cli.flags import command, from_environment
from ncbatch.driver.options import EncodeOptions
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting
from ncbatch.store import open_store

log = logging.getLogger(__name__)


@command
def demo(
    folder: Annotated[str, Setting("folder for the images and the run", "FOLDER")] = "ncbatch-demo", /
) -> ExitCode:
    """Encodes a few images that come with scikit-image, and shows what refinement saved."""
    from ncbatch.metrics.query import query

    output = str(Path(folder) / "run")
    corpus, variant = choice(Path(folder), output)
    flags = [word for name, value in variant.items() for word in (f"--{name}", str(value))]
    log.info("%s", shlex.join(["ncbatch", "encode", corpus, output, *flags]))
    options = from_environment(EncodeOptions)
    spec = make_run_spec(corpus, None, variant, {}, options.store)
    code = encode_and_summarise(spec, output, options)
    if code:
        return code
    table = query(
        open_store(output),
        """select image_key as image, length as bytes, bpp, psnr as "PSNR dB",
                  100 * (1 - rd_loss / amortized_rd_loss) as "saved %"
           from metrics order by image""",
    )
    print_table(table.column_names, zip(*table.to_pydict().values(), strict=True))
    out.print('"saved %": R-D loss (bpp + lmbda * MSE) that refinement saved against the amortized encoding')
    out.print(f"decode them again: ncbatch decode {output} {Path(folder) / 'decoded'}")
    return ExitCode.OK


def choice(folder: Path, output: str) -> tuple[str, dict[str, Any]]:
    """Corpus and variant: those of the demonstration that stands there, or what this machine can do."""
    from ncbatch.cli.demonstration import PRESET, choose, copy_images, fields_of, measure
    from ncbatch.plan.sizing import local_workers
    from ncbatch.plan.spec import stored_spec

    known = stored_spec(open_store(output, create=True))
    if known is not None:
        log.info("going on with the demonstration that was begun in %s", folder)
        return str(folder / Path(known.corpus.rstrip("/")).name), fields_of(known)
    log.info("measuring this machine, to choose what it can do in about two minutes")
    speed = measure()
    import torch

    chosen = choose(speed, local_workers(None, 1.0, None, torch.cuda.device_count()))
    log.info("%s", chosen.reason)
    copy_images(folder / chosen.folder, chosen.scale)
    return str(folder / chosen.folder), {"preset": PRESET, "steps": chosen.steps}
