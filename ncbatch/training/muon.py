"""Muon (Jordan et al. 2024): steepest descent in the spectral norm, for the weights of convolutions.

torch's own takes matrices only and iterates in bfloat16 on the whole of each. A CPU without the instructions
emulates that some fifteen times slower than float32, which takes five times as long as `orthogonalized`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_STEPS = 5  # of Newton and Schulz's iteration
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: steep at 0; singular values end between about 0.7 and 1.2
_TINY = 1e-7


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix with all its singular values near 1, by five steps of Newton and Schulz's iteration.

    A step is x <- (a + b g + c g^2) x with g = x x^T. The factors of all steps are polynomials in the first g
    and commute, so they are multiplied as small squares, and x itself takes part twice instead of ten times.

    Args:
        matrix: float32[rows, columns], with no more rows than columns: time grows with rows^2 columns.
    """
    a, b, c = _QUINTIC
    x = matrix / (matrix.norm() + _TINY)
    gram = x @ x.T
    identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    product = identity
    for _ in range(_STEPS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and no weight decay.

    A convolution's weight is the matrix of one of its channel axes by all its other axes: of the shorter one,
    which makes the iteration cheap.

    Args:
        weights: of convolutions, four-dimensional.
        lr: about the spectral norm of a step's change.
        momentum: the decay of the average of gradients.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(average, group["momentum"])
                axis = int(weight.shape[1] < weight.shape[0])
                rows = ahead.movedim(axis, 0)
                change = orthogonalized(rows.flatten(1)).view(rows.shape).movedim(0, axis)
                weight.add_(change, alpha=-group["lr"])
