"""What one tar for each unit saves against one file for each image, where images are small.

    python -m benchmarks.tar_output [--images 1000] [--latency 0.02] [--rounds 3] [--method jpeg]

Both forms do the same unit of 64x64 images, in turn, by the worker's own code, between two folders each of
whose requests takes a latency longer. A request is what S3 would be sent: a create-only put is three (it asks
before and after, for servers that ignore the condition), a listing one for each 1,000 keys. By default the
codec is JPEG, which takes next to no time, as images do on a GPU; seconds are medians of the rounds.

The last line is one JSON object. `output_requests` are those to the run's folder for all images together,
`ratio` how many times more of them files take; `input_requests` are the images' own and the same for both.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from benchmarks.counted_store import KEYS_OF_A_PAGE, SENT
from ncbatch.decoding.run_reader import RunReader
from ncbatch.models.loading import RunModels, keep_model, load_model
from ncbatch.plan.corpus import list_corpus
from ncbatch.plan.request import make_variant
from ncbatch.plan.run import open_run
from ncbatch.plan.spec import RunSpec
from ncbatch.store import ObjectInfo, Store, StoreOptions, open_store
from ncbatch.worker.unit import run_unit
from ncbatch.worker.workspace import Workspace

FORMATS: tuple[Literal["files", "tar"], ...] = ("files", "tar")
SIDE = 64


class RemoteStore:
    """A store each of whose requests takes a while longer and is counted. requests: by their kind."""

    def __init__(self, store: Store, latency: float) -> None:
        self._store, self._latency = store, latency
        self.requests: Counter[str] = Counter()
        self._lock = threading.Lock()

    def _send(self, *kinds: str) -> None:
        with self._lock:
            self.requests.update(kinds)
        time.sleep(self._latency * len(kinds))

    def list(self, prefix: str = "", **options: Any) -> Iterator[ObjectInfo]:
        """As the store's, a request for each page."""
        self._send("list")
        for number, info in enumerate(self._store.list(prefix, **options)):
            if number and number % KEYS_OF_A_PAGE == 0:
                self._send("list")
            yield info

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in SENT:
            return found

        def late(*args: Any, **options: Any) -> Any:
            self._send(*SENT[name])
            return found(*args, **options)

        return late


def small_images(count: int) -> Iterator[bytes]:
    """JPEGs of smooth noise; a hundred different ones, again and again."""
    random = np.random.default_rng(0)
    different = []
    for _ in range(min(count, 100)):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        different.append(file.getvalue())
    for n in range(count):
        yield different[n % len(different)]


def measured(
    corpus: Store, form: Literal["files", "tar"], method: str, latency: float
) -> tuple[float, Counter[str], Counter[str]]:
    """Seconds of one unit of the whole corpus, and the requests to the corpus and to the output."""
    options = StoreOptions()
    request = {"method": "jpeg", "quality": 80} if method == "jpeg" else {"method": method, "lmbda": 0.01}
    variant = make_variant(request, options)
    with tempfile.TemporaryDirectory(prefix="ncbatch-") as folder:
        output = open_store(folder)
        spec = RunSpec(corpus=corpus.uri, variants=(variant,), output_format=form)
        if variant.model is not None:
            keep_model(output, load_model(variant.model, options))
        (unit,) = open_run(spec, list_corpus(corpus), output, lambda *_: 10**12).units
        stores: tuple[Any, Any] = (RemoteStore(corpus, latency), RemoteStore(output, latency))
        workspace = Workspace(spec, *stores, torch.device("cpu"))
        if variant.model_digest is not None:
            workspace.models.add(RunModels(output, workspace.device).get(variant.model_digest))
        started = time.monotonic()
        result = run_unit(workspace, unit, "00000001-1", {})
        seconds = time.monotonic() - started
        assert result.ok == len(unit.images)
        assert all(found.problem is None for found in RunReader(output).verify())
    return seconds, stores[0].requests, stores[1].requests


def main() -> int:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="Requests and seconds of tars against files.")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds of a request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="jpeg")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {form: [] for form in FORMATS}
    requests: dict[str, tuple[Counter[str], Counter[str]]] = {}
    with tempfile.TemporaryDirectory(prefix="ncbatch-") as folder:
        corpus = open_store(folder)
        for n, data in enumerate(small_images(args.images)):
            corpus.put(f"{n:06d}.jpg", data)
        for number in range(args.rounds):
            for form in FORMATS:
                took, *sent = measured(corpus, form, args.method, args.latency)
                seconds[form].append(took)
                requests[form] = sent[0], sent[1]
                print(f"round {number + 1}, {form}: {took:.1f} s, requests to the output: {dict(sent[1])}")
    outputs = {form: requests[form][1].total() for form in FORMATS}
    found = {
        "images": args.images,
        "latency_seconds": args.latency,
        "method": args.method,
        "input_requests": requests["tar"][0].total(),
        "output_requests": outputs,
        "ratio": round(outputs["files"] / outputs["tar"], 1),
        "seconds": {form: round(statistics.median(seconds[form]), 2) for form in FORMATS},
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
