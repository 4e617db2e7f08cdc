"""A plugin of pytest: small runs of each form, encoded once for all tests that only read them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from ncbatch.codec.methods import BitsBackBbvi
from ncbatch.models import zoo
from ncbatch.models.loading import keep_model
from ncbatch.plan.spec import Variant
from ncbatch.store import open_store
from ncbatch.worker.unit import run_unit
from tests.end_to_end.command_line import ROOT
from tests.workbench import ATTEMPTS, CHECKPOINT, Workbench, make_image, make_variant

KEYS = [f"{n}.png" for n in range(7)]
SIZES = [(64, 64)] * 4 + [(48, 80), (64, 64), (33, 70)]
Form = Literal["files", "tar", "packs"]


@dataclass(frozen=True)
class EncodedRun:
    """A run of seven images in two units, and their colours, by `ncbatch.Run.image`."""

    uri: str
    decoded: dict[str, np.ndarray]


def encode(bench: Workbench, form: Form = "files") -> None:
    """Encodes the seven images, and one that is none: first three of them, and then those that came later."""
    images = {key: make_image(*size, seed=n) for n, (key, size) in enumerate(zip(KEYS, SIZES, strict=True))}
    images["3.png"] = np.dstack([images["3.png"], images["3.png"][..., 0]])  # with an alpha channel
    checkpoint, variant = CHECKPOINT, make_variant(alpha="keep")
    if form == "packs":
        checkpoint = zoo.load_builtin("bits-back-0.010")
        recipe = BitsBackBbvi(lmbda=0.01, bbvi_steps=2)
        variant = Variant(
            name="v", model="bits-back-0.010", model_digest=checkpoint.digest, recipe=recipe, alpha="black"
        )
    keep_model(bench.output, checkpoint)
    spec = bench.spec(variant, output_format="tar" if form == "tar" else "files")
    for keys in KEYS[:3], KEYS[3:]:
        bench.add({key: images[key] for key in keys} | {"bad.png": b"no image"})
        (unit,) = bench.open(spec).pending
        run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})


def example_of_page(word: str, uri: str) -> str:
    """The code block with a word, of the page on data sets, with the URI of a run in the place of its own."""
    page = (ROOT / "docs" / "how-to" / "datasets.md").read_text()
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if word in block)
    return str(block.replace("s3://out/run1/", uri))


@pytest.fixture(scope="session")
def encoded_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Form, EncodedRun]:
    """By their forms; not to be changed."""
    import ncbatch

    found: dict[Form, EncodedRun] = {}
    forms: tuple[Form, ...] = ("files", "tar", "packs")
    for form in forms:
        folder = tmp_path_factory.mktemp(form)
        corpus, output = (open_store(str(folder / name), create=True) for name in ("corpus", "output"))
        bench = Workbench(corpus, output, create_only=True)
        encode(bench, form)
        run = ncbatch.open_run(bench.output.uri)
        found[form] = EncodedRun(run.uri, {key: run.image(key)[..., :3] for key in KEYS})
    return found
