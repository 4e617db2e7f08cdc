"""The demonstration: the main job on images that scikit-image ships, as much of it as a machine does in two
minutes.
"""

from __future__ import annotations

import heapq
import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncbatch.codec.methods import Sga
from ncbatch.codec.recipe import PRESETS, REFINEMENT_PRESETS, RefinedRecipe
from ncbatch.errors import NcbatchError

if TYPE_CHECKING:
    from ncbatch.plan.spec import RunSpec

# Public-domain and freely licensed images: name, width, height.
IMAGES = (
    ("astronaut.png", 512, 512),
    ("chelsea.png", 451, 300),
    ("coffee.png", 600, 400),
    ("hubble_deep_field.jpg", 1000, 872),
    ("motorcycle_left.png", 741, 500),
    ("rocket.jpg", 640, 427),
)
PRESET = "fast"

BUDGET_SECONDS = 75.0
"""For the encoding itself: of two minutes, what is left by the imports, by Ray's start and by calibration."""
_CONTENTION = 1.25  # workers that share a machine's memory take longer than the one that was measured
_FOLDERS = {1: "images", 2: "images-half", 3: "images-third", 4: "images-quarter"}


@dataclass(frozen=True)
class Speed:
    """Of a worker, per pixel: seconds that every image takes, and seconds of a step of refinement."""

    base: float
    step: float


@dataclass(frozen=True)
class Choice:
    """scale: copies are a `scale`-th of the width and the height; steps: of the preset `fast`.

    seconds: that the encoding should take.
    """

    scale: int
    steps: int
    seconds: float

    @property
    def folder(self) -> str:
        """The folder of the images at this scale."""
        return _FOLDERS[self.scale]

    @property
    def reason(self) -> str:
        """What was chosen and why, in a sentence."""
        what = f"{self.steps} steps of the preset {PRESET}"
        whole = REFINEMENT_PRESETS[PRESET]["steps"]
        what += "" if self.steps == whole else f" instead of {whole}"
        if self.scale > 1:
            what += f", on copies of 1/{self.scale} of the width and height"
        return f"this machine should take about {self.seconds:.0f} s for {what}"


# The whole thing first; then fewer steps, which cost some of the gain, and smaller images.
CANDIDATES = ((1, 300), (1, 200), (2, 300), (2, 200), (2, 150), (3, 150), (3, 100), (4, 100), (4, 60))


def choose(speed: Speed, workers: int) -> Choice:
    """The most that the workers do within the budget; the least there is, where they do not."""
    for scale, steps in CANDIDATES:
        choice = Choice(scale, steps, _seconds(scale, steps, speed, workers))
        if choice.seconds <= BUDGET_SECONDS:
            return choice
    return choice


def _seconds(scale: int, steps: int, speed: Speed, workers: int) -> float:
    """The longest image first, to whichever worker is free."""
    per_pixel = speed.base + steps * speed.step
    ends = [0.0] * workers
    for pixels in sorted(((w // scale) * (h // scale) for _, w, h in IMAGES), reverse=True):
        heapq.heapreplace(ends, ends[0] + pixels * per_pixel)
    return max(ends) * (_CONTENTION if workers > 1 else 1.0)


def measure() -> Speed:
    """What one worker does on this machine; takes some seconds."""
    import torch

    from ncbatch.codec.allocator import keep_freed_memory
    from ncbatch.codec.codecs import LearnedCoder
    from ncbatch.codec.model.hyperprior import Model
    from ncbatch.models.zoo import load_builtin
    from ncbatch.worker.batching import new_batching
    from ncbatch.worker.bounds import Bounds
    from ncbatch.worker.calibration import costs_per_pixel

    torch.set_num_threads(1)  # as a worker does
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Sga(lmbda=0.01, **Sga.preset(PRESET))
    coder = LearnedCoder(Model(load_builtin("base-0.010"), device), recipe)
    costs = costs_per_pixel(coder, new_batching(None, device, recipe), Bounds.of(device, 1))
    return Speed(costs.base, costs.repeated["steps"])


def fields_of(spec: RunSpec) -> dict[str, Any]:
    """What was asked for of the variant of a demonstration that was begun earlier."""
    (variant,) = spec.variants
    kind = {"preset": variant.name} if variant.name in PRESETS else {"method": variant.recipe.method}
    return kind | ({"steps": variant.recipe.steps} if isinstance(variant.recipe, RefinedRecipe) else {})


def copy_images(folder: Path, scale: int) -> None:
    """Puts the images into a folder, those that are not there yet.

    Args:
        scale: of the copies: 1 copies the files as they are, 2 halves width and height.

    Raises:
        NcbatchError: this scikit-image has others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, _ in IMAGES:
        source = files("skimage.data") / name
        target = folder / (name if scale == 1 else f"{Path(name).stem}.png")
        if target.exists():
            continue
        if not source.is_file():
            raise NcbatchError(f"the installed scikit-image has no {name}; install a release from 0.25 on")
        data = source.read_bytes() if scale == 1 else _smaller(source.read_bytes(), scale)
        part = target.with_suffix(".part")  # a copy that was interrupted is made again
        part.write_bytes(data)
        part.replace(target)


def _smaller(data: bytes, scale: int) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        size = (image.width // scale, image.height // scale)
        sink = io.BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(sink, "PNG")
    return sink.getvalue()
