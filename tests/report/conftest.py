"""A finished run of several methods, made without Ray."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ncbatch.models import zoo
from ncbatch.models.loading import keep_model
from ncbatch.plan.request import make_spec
from ncbatch.plan.run import list_inputs, open_run
from ncbatch.plan.spec import RunSpec
from ncbatch.store import Store, StoreOptions, open_store
from ncbatch.worker.options import WorkerOptions
from ncbatch.worker.unit import run_unit
from ncbatch.worker.workspace import Workspace
from tests.workbench import MODEL, encoded_as, make_image

FIGURES = (
    "rd_psnr", "rate_savings", "image_savings", "convergence", "rounding_probability", "annealed_objective",
)  # fmt: skip
REQUESTS: list[dict[str, Any]] = [
    *(
        {"method": method, "steps": 20, "model": "base-0.010", "lmbda": lmbda, "name": f"{method}-{lmbda}"}
        for method in ("sga", "map")
        for lmbda in (0.005, 0.02)
    ),
    *({"method": "jpeg", "quality": quality} for quality in (20, 50, 70, 90)),
]


def make_run(
    folder: Any,
    requests: list[dict[str, Any]],
    count: int = 3,
    units: int | list[int] | None = None,
    pixels_per_unit: int = 10**12,
) -> Store:
    """Encodes `count` images; with `units` only so many of the planned units, or those of that place."""
    corpus = open_store(str(folder / "corpus"), create=True)
    output = open_store(str(folder / "out"), create=True)
    for n in range(count):
        corpus.put(f"{n}.png", encoded_as(make_image(96, 80, seed=n)))
    spec: RunSpec = make_spec(corpus.uri, StoreOptions(), requests)
    for name in {variant.model for variant in spec.variants if variant.model}:
        keep_model(output, zoo.load_builtin(name))
    run = open_run(
        spec, list_inputs(spec, corpus, StoreOptions(), output), output, lambda *_: pixels_per_unit
    )
    workspace = Workspace(spec, corpus, output, torch.device("cpu"), WorkerOptions(trace_every=10))
    workspace.models.add(MODEL)
    chosen = [run.units[i] for i in units] if isinstance(units, list) else run.units[:units]
    for unit in chosen:
        run_unit(workspace, unit, "00000001-1", {})
    return output


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("run"), REQUESTS)
