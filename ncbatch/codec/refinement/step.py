"""One step of Adam on the latents of images that share their tensors.

The loss per image is bits + lmbda * 255^2 * SSE / 3 (a sum; a mean per pixel would make the gradients as
small as Adam's epsilon, and the result would depend on image and batch size). Noise, loss and Adam are
elementwise or per image. The number of operations does not depend on the batch, and on a GPU all of them are
recorded once and launched together from then on: a step then costs the processor nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ncbatch.codec.methods import Refined
from ncbatch.codec.model.hyperprior import Model, Tile
from ncbatch.codec.model.precision import fastest_kernels
from ncbatch.codec.recipe import STEPS_BETWEEN_PAUSES
from ncbatch.codec.refinement.latents import Noise, PointSpace, PosteriorSpace, Relaxed, Variables
from ncbatch.codec.refinement.noise import BatchNoise, ImageNoise
from ncbatch.codec.refinement.originals import Originals
from ncbatch.codec.refinement.relaxation import Heat, Relaxation

log = logging.getLogger(__name__)

_MOMENTS = ("exp_avg", "exp_avg_sq")
_NOISY = ("y", "z")
"""The variables that noise is drawn for."""


class Step:
    """Takes steps; all that changes from one to the next is in `variables` and Adam's moments.

    Args:
        model: whose latents.
        recipe: how they are found.
        space: what the variables are.
        variables: of the images, by name.
        originals: the images themselves.
        noise: of each image.
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
        self._model, self._recipe, self._space, self._noises = model, recipe, space, noise
        self._relax = Relaxation(recipe)
        self.originals = originals
        # Of an error in the gradient of lmbda * 255^2 * SSE / 3; none in the padding.
        weight = 2 * recipe.lmbda * 255**2 / 3
        self._weight = torch.tensor(weight) if originals.mask is None else originals.mask * weight
        # In the layout of the transforms, so that nothing has to be turned round on the way to them and back.
        layout = torch.channels_last
        self.variables = {
            n: v.contiguous(memory_format=layout).requires_grad_() for n, v in variables.items()
        }
        shapes = {name: self.variables[name].shape[1:] for name in _NOISY}
        self._noise = BatchNoise(noise, shapes, model.device)
        # What differs from step to step lies in tensors, which a recorded step reads anew.
        self._keys = self._noise.keys([0])
        self._key = self._keys[0].clone()
        self._schedule = torch.zeros(3, device=model.device)
        self._schedules, self._ready = self._schedule[None][:0], 0
        self._heat, self._rate = Heat(*self._schedule[:2]), self._schedule[2]
        on_gpu = model.device.type == "cuda"
        self._adam = torch.optim.Adam(
            self.variables.values(), self._rate, (recipe.beta1, recipe.beta2), fused=True, capturable=on_gpu
        )
        self._run: Callable[[], None] = RecordedStep(self.descend, model.device) if on_gpu else self.descend

    def take(self, step: int) -> None:
        """Takes the step of this number."""
        self.prepare(step)
        self._run()

    def prepare(self, step: int) -> None:
        """Sets what `descend` needs for the step of this number."""
        if not self._ready <= step < self._ready + len(self._schedules):
            self._make_ready(step)
        self._schedule.copy_(self._schedules[step - self._ready])
        if self._relax.wants_noise:
            self._key.copy_(self._keys[step - self._ready])

    def _make_ready(self, first: int) -> None:
        """Puts on the device what some steps need, so that no step has to wait for a transfer."""
        steps = range(first, first + STEPS_BETWEEN_PAUSES)
        schedules = [(*self._relax.heat(step), self._recipe.learning_rate_at(step)) for step in steps]
        self._schedules = torch.tensor(schedules).to(self._schedule.device)
        if self._relax.wants_noise:
            self._keys = self._noise.keys(steps)
        self._ready = first

    def relaxed(self) -> Relaxed:
        """The relaxed latents, with the gradient of their rate."""
        uniform: Noise = {}
        added: Noise = {}
        if self._relax.wants_noise:
            drawn = self._noise.draw(self._key)
            uniform, added = self._noise.by_name(drawn), self._noise.by_name(self._relax.noise(drawn))
        return self._space.relaxed(
            self.variables, lambda name, values: self._relax(values, self._heat, added.get(name)), uniform
        )

    def look_noise(self) -> Noise:
        """The noise of a look: always the same, so that iterates are compared, not luck."""
        return self._noise.by_name(self._noise.draw(self._noise.keys(["look"])[0]))

    def descend(self) -> None:
        """The step itself, which waits for nothing that the device has to do."""
        self._adam.zero_grad(set_to_none=True)
        relaxed = self.relaxed()
        # The graph of g_s is the large one, so it is built and released tile by tile; the gradients it
        # leaves at y then join those of the rate.
        leaf = relaxed.y.detach().requires_grad_()
        for tile in self.originals.tiles:
            self.backward_distortion(leaf, tile)
        torch.autograd.backward([*relaxed.roots, relaxed.y], [*relaxed.gradients, leaf.grad])
        self._adam.step()

    def backward_distortion(self, y: Tensor, tile: Tile) -> None:
        """Adds the gradient of lmbda * 255^2 * SSE / 3 over the tile's true pixels to `y.grad`.

        The loop has no use for the value, and the gradient of a square needs no graph.
        """
        reconstruction, slope = self.originals.slope(self._model, y, tile, self._weight)
        reconstruction.backward(slope)

    def only(self, images: Sequence[int], step: int) -> Step:
        """The same with some of its images, after as many steps."""
        chosen = list(images)
        kept = Step(
            self._model,
            self._recipe,
            self._space,
            {name: variable.detach()[chosen] for name, variable in self.variables.items()},
            self.originals.only(chosen),
            [self._noises[image] for image in chosen],
        )
        state = self.state()
        kept.restore(lambda name: state[name][chosen], step)
        return kept

    def state(self) -> dict[str, Tensor]:
        """The variables and Adam's moments, by name; the moments only after the first step."""
        tensors = {name: variable.detach() for name, variable in self.variables.items()}
        for name, variable in self.variables.items():
            for moment in _MOMENTS:
                if variable in self._adam.state:
                    tensors[f"{moment}.{name}"] = self._adam.state[variable][moment]
        return tensors

    def restore(self, saved: Callable[[str], Tensor], step: int) -> None:
        """Goes on from a `state()` of the same images, after as many steps; `saved` gives its tensors."""
        for name, variable in self.variables.items():
            variable.data.copy_(saved(name))
            if step:
                moments = {m: torch.empty_like(variable).copy_(saved(f"{m}.{name}")) for m in _MOMENTS}
                count = torch.tensor(float(step), device=variable.device)
                self._adam.state[variable] = {"step": count, **moments}


class RecordedStep:
    """A step on a GPU: recorded as a CUDA graph after a few ordinary ones, and replayed from then on.

    Args:
        descend: the step; reads and writes the same tensors each time.
        device: the GPU.
    """

    enabled = True
    """Whether steps are recorded at all; benchmarks and tests compare both."""

    _ORDINARY = 3  # steps in which libraries choose their kernels and allocate what they keep

    def __init__(self, descend: Callable[[], None], device: torch.device) -> None:
        self._descend, self._device = descend, device
        self._taken, self._records = 0, self.enabled
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Takes the step.

        Raises:
            torch.cuda.OutOfMemoryError: recording needs memory of its own.
        """
        if self._records and self._graph is None and self._taken >= self._ORDINARY:
            self._record()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._ordinary()
        self._taken += 1

    def _ordinary(self) -> None:
        # On a stream of its own, as recording demands of what comes before it.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), fastest_kernels(self._device):
            self._descend()
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, which fetch and finish images, may allocate meanwhile.
            with fastest_kernels(self._device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._descend()
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a driver or library that cannot: slower, and as good
            log.warning("this GPU's steps are launched one operation at a time: %s", error)
            self._records = False
        else:
            self._graph = graph
