"""One step of Adam on the latents of images that share their tensors.

The loss per image is bits + lmbda * 255^2 * SSE / 3, or with MS-SSIM what `structural` says. It is a sum: a
mean per pixel would make the gradients as small as Adam's epsilon, and the result would depend on image and
batch size. Noise, loss and Adam are elementwise or per image. The number of operations does not depend on the
batch, and on a GPU all of them are recorded once and launched together from then on: a step then costs the
processor nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ncbatch.codec.methods import Refined
from ncbatch.codec.model.extents import fitted
from ncbatch.codec.model.hyperprior import Latents, Model, Tile
from ncbatch.codec.recipe import STEPS_BETWEEN_PAUSES
from ncbatch.codec.refinement.adam import PerImageAdam
from ncbatch.codec.refinement.latents import Noise, PointSpace, PosteriorSpace, Relaxed, Variables
from ncbatch.codec.refinement.noise import BatchNoise, ImageNoise
from ncbatch.codec.refinement.originals import Originals
from ncbatch.codec.refinement.recorded_step import RecordedStep
from ncbatch.codec.refinement.relaxation import Heat, Relaxation
from ncbatch.codec.refinement.structural import StructuralDistortion

_PREFIXES = ("", "exp_avg.", "exp_avg_sq.")
"""Of the names in a saved state: of the variables, and of Adam's moments."""
_NOISY = ("y", "z")
"""The variables that noise is drawn for."""
_FLOATS = 4
"""Rows of what a step is told in floats: a temperature's two numbers, Adam's two."""


class Step:
    """Takes steps; all that changes from one to the next is in `values`, Adam's moments and `taken`.

    Images may be at different steps: each has its own temperature, learning rate and noise.

    Args:
        model: whose latents.
        recipe: how they are found.
        space: what the variables are.
        variables: of the images, by name.
        originals: the images themselves.
        noise: of each image.

    Attributes:
        taken: steps, by each image.
        leaves: the variables that the last relaxed latents come from.
    """

    def __init__(
        self,
        model: Model,
        recipe: Refined,
        space: PointSpace | PosteriorSpace,
        variables: Variables,
        originals: Originals,
        noise: Sequence[ImageNoise],
    ) -> None:
        self._model, self._recipe, self._space = model, recipe, space
        self._relax = Relaxation(recipe)
        self.originals = originals
        self._shapes = {name: variable.shape[1:] for name, variable in variables.items()}
        self.taken = [0] * len(noise)
        # One tensor, so that Adam takes as many operations for all variables as for one.
        self._values = torch.cat([_flat(v) for v in variables.values()], 1).requires_grad_()
        self.leaves: Variables = {}
        self._adam = PerImageAdam(self._values.detach(), recipe.beta1, recipe.beta2)
        noisy = {name: self._shapes[name] for name in _NOISY}
        self._noise = BatchNoise(noise, noisy, model.device, originals.extents)
        # Of an error in the gradient of lmbda * 255^2 * SSE / 3; none in the padding.
        self._per_error = 2 * recipe.lmbda * 255**2 / 3
        mask = originals.mask
        self._weight = torch.tensor(self._per_error) if mask is None else mask * self._per_error
        # What differs from step to step lies in one tensor, which a recorded step reads anew: floats, and the
        # noise's keys, which are integers of the same size.
        keys = 2 * len(noisy) if self._relax.wants_noise else 0
        self._told = torch.zeros(_FLOATS + keys, len(noise), dtype=torch.int32, device=model.device)
        self._ready, self._used = self._told[None][:0], 0
        floats = self._told[:_FLOATS].view(torch.float32)
        self._heat = Heat(*floats[:2, :, None, None, None])
        self._inverse_rate, self._epsilon = floats[2:, :, None]
        self._structural: StructuralDistortion | None = None
        if recipe.ms_ssim_weight:
            self._structural = StructuralDistortion(model, recipe, originals)
        # A recorded step could not copy MS-SSIM's windows to the device.
        records = model.device.type == "cuda" and self._structural is None
        self._recorded = RecordedStep(model.device) if records else None

    @property
    def variables(self) -> Variables:
        """What is optimised, by name, float32[images, channels, height, width]; parts of one tensor."""
        return self._by_name(self._values.detach())

    def _by_name(self, values: Tensor) -> Variables:
        """The variables in a tensor [images, elements], channels-last as the transforms have them, so that
        nothing has to be turned round on the way to them and back.
        """
        parts = values.split([shape.numel() for shape in self._shapes.values()], 1)
        return {
            name: part.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
            for (name, (channels, height, width)), part in zip(self._shapes.items(), parts, strict=True)
        }

    def take(self) -> None:
        """Takes a step with all images."""
        self.prepare()
        if self._recorded is None:
            self.descend()
        else:
            self._recorded.take(self.descend)
        self.taken = [taken + 1 for taken in self.taken]
        self._used += 1

    def prepare(self) -> None:
        """Tells `descend` what it needs for the next step."""
        if self._used >= len(self._ready):
            self._make_ready()
        self._told.copy_(self._ready[self._used])

    def _make_ready(self) -> None:
        """Puts on the device what some steps need, so that no step has to wait for a transfer."""
        ready = []
        for ahead in range(STEPS_BETWEEN_PAUSES):
            steps = [taken + ahead for taken in self.taken]
            floats = [
                (*self._relax.heat(step), *self._adam.factors(step, self._recipe.learning_rate_at(step)))
                for step in steps
            ]
            rows = [torch.tensor(floats).T.contiguous().view(torch.int32)]
            if self._relax.wants_noise:
                rows.append(self._noise.keys(steps))
            ready.append(torch.cat(rows))
        self._ready, self._used = torch.stack(ready).to(self._told.device), 0

    def relaxed(self) -> Relaxed:
        """The relaxed latents, with the gradient of their rate."""
        self.leaves = self._by_name(self._values)  # autograd takes no view from before the last change
        uniform: Noise = {}
        added: Noise = {}
        if self._relax.wants_noise:
            drawn = self._noise.draw(self._told[_FLOATS:])
            uniform, added = (
                self._noise.by_name(drawn),
                self._noise.by_name(self._relax.noise(drawn, self._heat.scale.view(-1, 1))),
            )
        return self._space.relaxed(
            self.leaves,
            lambda name, values: self._relax(values, self._heat, added.get(name)),
            uniform,
            self.originals.extents,
        )

    def rounded(self) -> tuple[Latents, Tensor]:
        """The rounded iterate, and its information content; float64[images].

        The noise of such a look is always the same, so that iterates are compared, not luck.
        """
        values = {name: variable.contiguous() for name, variable in self.variables.items()}
        keys = self._noise.keys(["look"] * len(self.taken)).to(self._told.device)
        noise = self._noise.by_name(self._noise.draw(keys))
        return self._space.rounded(values, noise, self.originals.extents)

    def descend(self) -> None:
        """The step itself, which waits for nothing that the device has to do."""
        self._values.grad = None
        relaxed = self.relaxed()
        # The graph of g_s is the large one, so it is built and released tile by tile; the gradients it
        # leaves at y then join those of the rate.
        leaf = relaxed.y.detach().requires_grad_()
        if self._structural is not None:
            self._structural.backward(leaf)
        else:
            for tile in self.originals.tiles:
                self.backward_distortion(leaf, tile)
        torch.autograd.backward([*relaxed.roots, relaxed.y], [*relaxed.gradients, leaf.grad])
        assert self._values.grad is not None
        self._adam.step(self._values.grad, self._inverse_rate, self._epsilon)

    def error(self, y_hat: Tensor) -> Tensor:
        """Of rounded latents, by the loop's g_s: the squared error of samples in 0..1, summed over each
        image's true pixels, or what stands in its place in the loss; float64[images].
        """
        if self._structural is not None:
            return self._structural.error(y_hat)
        return self.originals.squared_error(self._model, y_hat)

    def precise_error(self, places: Sequence[int], y_hat: Tensor) -> Tensor:
        """As `error`, of the images at some places, by the decoder's g_s."""
        if self._structural is not None:
            return self._structural.error(y_hat, precise=True)
        return self.originals.only(places).precise_squared_error(self._model, y_hat)

    def backward_distortion(self, y: Tensor, tile: Tile) -> None:
        """Adds the gradient of lmbda * 255^2 * SSE / 3 over the tile's true pixels to `y.grad`.

        The loop has no use for the value, and the gradient of a square needs no graph.
        """
        reconstruction, slope = self.originals.slope(self._model, y, tile, self._weight)
        reconstruction.backward(slope)

    def only(self, images: Sequence[int]) -> Step:
        """The same with some of its images."""
        chosen = list(images)
        return self._with(
            [tensor[chosen] for tensor in self._changing],
            self.originals.only(chosen),
            [self._noise.images[image] for image in chosen],
            [self.taken[image] for image in chosen],
        )

    def turned(self, recipe: Refined, taken: int) -> Step:
        """The same under another recipe of the same method, as if so many steps had been taken."""
        other = self._with(self._changing, self.originals, self._noise.images, self.taken, recipe)
        other.taken = [taken] * len(self.taken)
        return other

    def masked(self, *, extents: bool) -> Step:
        """The same with a mask over its originals, even if it is all 1, and with extents if asked for."""
        originals = self.originals.masked(extents=extents)
        if originals.is_like(self.originals):
            return self
        return self._with(self._changing, originals, self._noise.images, self.taken)

    @staticmethod
    def together(parts: Sequence[Step]) -> Step:
        """The images of several of one model and recipe, whose originals are alike."""
        return parts[0]._with(
            [torch.cat(tensors) for tensors in zip(*(part._changing for part in parts), strict=True)],
            Originals.together([part.originals for part in parts]),
            [image for part in parts for image in part._noise.images],
            [taken for part in parts for taken in part.taken],
        )

    def put(self, place: int, other: Step, image: int) -> None:
        """Puts an image of others in the place of one of these, in the same memory: a recorded step goes on.
        The originals of both are alike.
        """
        for mine, theirs in zip(self._changing, other._changing, strict=True):
            mine[place].copy_(theirs[image])
        self.originals = self.originals.with_put(place, other.originals, image)
        if self.originals.mask is not None:
            torch.mul(self.originals.mask[place], self._per_error, out=self._weight[place])
        self._noise.put(place, other._noise, image)
        self.taken[place] = other.taken[image]
        self._used = len(self._ready)

    @property
    def _changing(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that changes from step to step on the device; float32[images, elements] each."""
        return self._values.detach(), self._adam.mean, self._adam.square

    def _with(
        self,
        changing: Sequence[Tensor],
        originals: Originals,
        noise: Sequence[ImageNoise],
        taken: Sequence[int],
        recipe: Refined | None = None,
    ) -> Step:
        variables = self._by_name(changing[0])
        other = Step(self._model, recipe or self._recipe, self._space, variables, originals, noise)
        for new, old in zip(other._changing, changing, strict=True):
            new.copy_(old)
        other.taken = list(taken)
        return other

    def state(self) -> dict[str, Tensor]:
        """The variables and Adam's moments, by name."""
        return {
            prefix + name: part
            for prefix, tensor in zip(_PREFIXES, self._changing, strict=True)
            for name, part in self._by_name(tensor).items()
        }

    def restore(self, saved: Callable[[str], Tensor], taken: Sequence[int]) -> None:
        """Goes on from a `state()` of the same images, after so many steps of each; `saved` gives its
        tensors.
        """
        for prefix, tensor in zip(_PREFIXES, self._changing, strict=True):
            for name, part in self._by_name(tensor).items():
                part.copy_(fitted(saved(prefix + name), *part.shape[2:]))
        self.taken, self._used = list(taken), len(self._ready)


def _flat(variable: Tensor) -> Tensor:
    """[images, channels, height, width] as [images, elements] in channels-last order."""
    return variable.detach().permute(0, 2, 3, 1).flatten(1)
