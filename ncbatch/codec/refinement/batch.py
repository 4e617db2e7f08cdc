"""Refinement of a batch, such that no image's result depends on the others.

On a CPU every image of a batch is computed in tensors of its own. Convolutions are given other kernels for a
batch than for one image, and elementwise functions are vectorised by chunks of the whole tensor, whose ends
take another path: either rounds differently, and Adam amplifies a last bit to other latents. A batch of large
images is a sixth faster that way, one of thumbnails a fifth slower. On a GPU a batch shares its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from ncbatch.codec.methods import Refined
from ncbatch.codec.model.hyperprior import Latents, Model
from ncbatch.codec.refinement.loop import JointRefinement, Target, TracePoint


class Refinement:
    """A refinement in progress; `advance` it until `done`, then take `best`.

    Images that have converged stop, each at its own step (see `RefinedRecipe.patience`).

    Args:
        images: float32[batch, 3, H, W] in 0..1, padded.
        targets: one per image.
    """

    def __init__(self, model: Model, images: Tensor, targets: Sequence[Target], recipe: Refined) -> None:
        self._recipe = recipe
        together = 1 if model.device.type == "cpu" else len(targets)
        self._parts = [
            JointRefinement(model, images[i : i + together], targets[i : i + together], recipe)
            for i in range(0, len(targets), together)
        ]

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self._parts[0].step

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or all images have converged."""
        return all(part.done for part in self._parts)

    @property
    def steps_taken(self) -> list[int]:
        """By each image; fewer than `step` by one that has converged."""
        return list(chain.from_iterable(part.steps_taken for part in self._parts))

    @property
    def has_stopped(self) -> list[bool]:
        """Of each image, whether it has converged, so that it takes no more steps."""
        return list(chain.from_iterable(part.has_stopped for part in self._parts))

    @property
    def variables(self) -> dict[str, Tensor]:
        """What is optimised, by name, a copy of the whole batch; "y" is always among it. Zero of images that
        have stopped.
        """
        names = self._parts[0].variables
        return _joined([{name: part.state()[name] for name in names} for part in self._parts])

    @property
    def best(self) -> Latents:
        """The hard-rounded iterate of the smallest loss so far, per image; the amortized one at first."""
        return self._latents(lambda part: part.best)

    @property
    def amortized(self) -> Latents:
        """What the encoder network gave, rounded."""
        return self._latents(lambda part: part.amortized)

    @property
    def best_loss(self) -> Tensor:
        """The smallest loss so far, bits + lmbda * 255^2 * SSE / 3; float64[batch]."""
        return torch.cat([part.best_loss for part in self._parts])

    def advance(self, steps: int) -> None:
        """Takes up to `steps` steps.

        Raises:
            DivergedError: an image's loss is not finite any more.
        """
        for _ in range(steps):
            if self.done:
                break
            for part in self._parts:
                part.advance()

    def looks(self) -> list[TracePoint]:
        """Rate and distortion of every image's rounded latents at this step; changes nothing."""
        return list(chain.from_iterable(part.looks() for part in self._parts))

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on later, on any device; see `restore`."""
        tensors = _joined([part.state() for part in self._parts]) | {"step": torch.tensor(self.step)}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from a `state()` of the same images, model and settings; further entries do no harm."""
        first = 0
        for part in self._parts:
            last = first + len(part.best_loss)
            part.restore(state, slice(first, last))
            first = last

    def _latents(self, which: Callable[[JointRefinement], Latents]) -> Latents:
        found = [which(part) for part in self._parts]
        return Latents(
            torch.cat([latents.y for latents in found]), torch.cat([latents.z for latents in found])
        )


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name].detach() for part in parts]) for name in parts[0]}
