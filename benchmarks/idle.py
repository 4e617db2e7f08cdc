"""How long a fast device waits for the worker around it: the share of a unit's wall time.

    python -m benchmarks.idle [--images 200] [--serial-images 60] [--finishers 2]

The device is a stand-in. In the place of refining, the thread sleeps for the time that a GPU is assumed to
take, and hands out latents that were refined before the clock starts. Everything else is the worker's own
code and real: requests to a store that answers after 100 ms, decoding of PNGs, coding, the decode check,
all measures, publishing and the commit. The last line is one JSON object; `idle_share` is 1 minus the
device's time over the unit's wall time, and so counts the first fetch and the last image's end as waiting.
`before` runs the same stages one after the other in the calling thread, as the worker did once.

What the stand-in assumes:

- A step takes 0.8 ms whatever the image's size: 200 operations (the most that a step has) of 4 microseconds
  each, in which a GPU can be told of them one by one. Up to 0.4 megapixels a large GPU computes a step of
  N = 64 in less. So 300 steps, `fast`, take 0.24 s, and images come one by one.
- Steps are in blocks of ten, after which the host is asked, as the loop asks at its pauses: a host thread
  that does not get a core, or Python's lock, in time makes the device wait. The launches of single kernels
  need that lock, too, which is not in it; a CUDA graph takes one launch for a step.
- A thread that waits for a GPU spins, and goes on at once. A thread that sleeps on Linux is woken up to 50
  microseconds late, to save power, unless it asks for better; so it does.
- On a GPU, the synthesis and the measures of finishing run on the device and take little of its time. Here
  they take most of the CPU's: images are small (0.06 megapixels on average), so that two cores keep up.

`cpu_wait_share` is the part of the time in which the calling thread was ready and had no core, where the
system tells: on a machine that others use, that much of `idle_share` is theirs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from ncbatch import stages
from ncbatch.codec import codecs
from ncbatch.codec.allocator import keep_freed_memory
from ncbatch.codec.encode import FoundLatents, Pause, Refill, RefinementState, find_latents
from ncbatch.codec.methods import Learned, Sga
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.recipe import STEPS_BETWEEN_PAUSES
from ncbatch.images.pixels import Pixels
from ncbatch.images.write import write_png
from ncbatch.models import zoo
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.plan.units import PlannedImage, make_units
from ncbatch.store import Store, open_store
from ncbatch.worker.bounds import Bounds
from ncbatch.worker.unit import run_unit
from ncbatch.worker.workspace import Workspace

SECONDS_PER_STEP = 0.0008
LATENCY = 0.1
STEPS = 300
SIZES = ((256, 256), (320, 240), (256, 192), (192, 256), (300, 225), (240, 320), (384, 256), (192, 192))
"""Width and height, one after the other."""
_PR_SET_TIMERSLACK = 29
"""Of linux/prctl.h; the value is in nanoseconds."""
_REQUESTS = ("get", "get_with_info", "get_range", "head", "put", "put_if_absent", "delete", "check")


class DistantStore:
    """A store each of whose requests takes a while longer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self, prefix: str = "", **options: Any) -> Iterator[Any]:
        """As the store's, after one wait, as for one page."""
        time.sleep(LATENCY)
        return self._store.list(prefix, **options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in _REQUESTS:
            return found

        def late(*args: Any, **options: Any) -> Any:
            time.sleep(LATENCY)
            return found(*args, **options)

        return late


@dataclass
class _Standing:
    """A refinement in progress, as far as a worker looks at one."""

    latents: dict[str, torch.Tensor]
    images: int
    step: int = 0

    @property
    def done(self) -> bool:
        return self.step >= STEPS

    @property
    def numbers(self) -> range:
        return range(self.images)

    @property
    def steps_taken(self) -> list[int]:
        return [self.step] * self.images

    @property
    def has_ended(self) -> list[bool]:
        return [self.done] * self.images

    def state(self) -> RefinementState:
        """As large as a real one's: variables, two moments of Adam each, and the best iterate."""
        copies = ("value", "first", "second", "best")
        return {f"{name}.{copy}": t.clone() for name, t in self.latents.items() for copy in copies}


@dataclass
class FastDevice:
    """Takes the place of `find_latents`. busy: seconds that it has computed, so to say."""

    known: dict[bytes, FoundLatents] = field(default_factory=dict)
    busy: float = 0.0

    def learn(self, model: Model, pixels: Pixels, recipe: Learned) -> None:
        """Refines an image for real, a little."""
        key = pixels.tobytes()
        if key not in self.known:
            ((_, found),) = find_latents(model, [pixels], recipe)
            assert isinstance(found, FoundLatents)
            self.known[key] = found

    def __call__(
        self,
        model: Model,
        images: Sequence[Pixels],
        recipe: Learned,
        *,
        resume_from: RefinementState | None = None,
        on_pause: Pause | None = None,
        refill: Refill | None = None,
    ) -> Iterator[tuple[int, FoundLatents]]:
        """Arguments as of `find_latents`; there is no state to resume from, and all images end together."""
        found = [self.known[image.tobytes()] for image in images]
        seconds = SECONDS_PER_STEP * STEPS
        pause: Callable[[Any], None] = on_pause or (lambda refinement: None)
        refinement = _Standing({"y": found[0].best.y.float(), "z": found[0].best.z.float()}, len(images))
        pause(refinement)
        while not refinement.done:
            time.sleep(SECONDS_PER_STEP * STEPS_BETWEEN_PAUSES)
            refinement.step += STEPS_BETWEEN_PAUSES
            pause(refinement)
        self.busy += seconds
        for number, latents in enumerate(found):
            yield number, replace(latents, seconds=seconds / len(images))


class InTheCallersThread:
    """In the place of an executor: work is done when it is submitted."""

    def __init__(self, *_: Any) -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Does it."""
        future: Future[Any] = Future()
        future.set_result(work(*args))
        return future

    def shutdown(self, **_: Any) -> None:
        """Nothing is left."""


def photographs(count: int) -> Iterator[Pixels]:
    """Crops of photographs in all sizes; the same ones come again after a while."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    sources = [Image.open(folder / name).convert("RGB") for name in ("astronaut.png", "coffee.png")]
    for n in range(count):
        width, height = SIZES[n % len(SIZES)]
        source = sources[n // len(SIZES) % len(sources)]
        left, top = (source.width - width) // 2, max(source.height - height, 0) // 2
        yield np.asarray(source.crop((left, top, left + width, top + height)))


@dataclass(frozen=True)
class Shares:
    """What came of a unit: shares of its wall time, and seconds of all cores per image."""

    idle: float
    cpu_wait: float
    cpu_seconds: float


def measured(
    model: Model, device: FastDevice, recipe: Sga, images: Sequence[Pixels], finishers: int, *, serial: bool
) -> Shares:
    """Does one unit of images."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, output = (open_store(f"{folder}/{name}", create=True) for name in ("in", "out"))
        for n, pixels in enumerate(images):
            corpus.put(f"{n:05}.png", write_png(pixels))
        planned = [PlannedImage(info.key, info.etag, info.size) for info in corpus.list()]
        variant = Variant(name="v", model="base-0.010", model_digest=model.digest, recipe=recipe)
        (unit,) = make_units(planned, variant.name, variant.digest, 0, 10**12)
        spec = RunSpec(corpus=corpus.uri, variants=(variant,), create_only=True)
        distant: tuple[Any, Any] = (DistantStore(corpus), DistantStore(output))
        workspace = Workspace(spec, distant[0], distant[1], torch.device("cpu"))
        workspace.models.add(model)
        workspace.bounds = replace(
            Bounds.of(torch.device("cuda"), 1),
            finishers=finishers,
            **({"ahead": 0} if serial else {}),
        )
        device.busy = 0.0
        executor: Any = InTheCallersThread if serial else stages.ThreadPoolExecutor
        with (
            mock.patch.object(codecs, "find_latents", device),
            mock.patch.object(stages, "ThreadPoolExecutor", executor),
        ):
            started, waited, cpu = time.monotonic(), _waited_for_cpu(), time.process_time()
            result = run_unit(workspace, unit, "00000001-1", {})
            seconds = time.monotonic() - started
            waited, cpu = _waited_for_cpu() - waited, time.process_time() - cpu
    assert result.ok == len(images)
    return Shares(1 - device.busy / seconds, waited / seconds, cpu / len(images))


def _waited_for_cpu() -> float:
    """Seconds that this thread has been ready and had no core; 0 where the system does not tell."""
    told = Path("/proc/thread-self/schedstat")
    return int(told.read_text().split()[1]) / 1e9 if told.exists() else 0.0


def _wake_in_time() -> None:
    """Lets this thread's sleeps end when they are to, where the system can do so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)


def main() -> int:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description="The share of the time that a fast device waits.")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--serial-images", type=int, default=60, help="of them, for the loop as it was")
    parser.add_argument("--finishers", type=int, default=2, help="threads that finish images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as workers do
    _wake_in_time()
    model, recipe = Model(zoo.load_builtin("base-0.010")), Sga(lmbda=0.01, steps=STEPS)
    images, device = list(photographs(args.images)), FastDevice()
    for pixels in images:
        device.learn(model, pixels, recipe.model_copy(update={"steps": 10}))
    before = measured(model, device, recipe, images[: args.serial_images], args.finishers, serial=True)
    print(f"one after the other: {before}", flush=True)
    now = measured(model, device, recipe, images, args.finishers, serial=False)
    found = {
        "idle_share": {"before": round(before.idle, 4), "now": round(now.idle, 4)},
        "cpu_wait_share": {"before": round(before.cpu_wait, 4), "now": round(now.cpu_wait, 4)},
        "cpu_seconds_per_image": round(now.cpu_seconds, 4),
        "device_seconds_per_image": round(SECONDS_PER_STEP * STEPS, 4),
        "images": len(images),
        "serial_images": args.serial_images,
        "latency_seconds": LATENCY,
        "finishers": args.finishers,
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
