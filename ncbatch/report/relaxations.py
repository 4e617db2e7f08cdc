"""Figures of the relaxations themselves (the supplement's S1 and S2), from the code that refines."""

from __future__ import annotations

from typing import get_args

import torch
from matplotlib.figure import Figure

from ncbatch.codec.recipe import Rounding
from ncbatch.codec.refinement.relaxation import rounding_logit, stochastic_gumbel_annealing
from ncbatch.report.style import add_legend, ink, new_figure

_TEMPERATURES = (1.0, 0.5, 0.25, 0.1, 0.05)
_POINTS = 401
_SAMPLES = 2000


def rounding_probability() -> Figure:
    """Probability of rounding up over (0, 1): the paper's at several temperatures, others at tau = 1 (S1)."""
    figure, axes = new_figure("Rounding probability", "value above its floor", "probability of rounding up")
    fraction = torch.linspace(1e-4, 1 - 1e-4, _POINTS, dtype=torch.float64)
    for tau in _TEMPERATURES:
        axes.plot(fraction, torch.sigmoid(rounding_logit(fraction, tau)), label=f"atanh, tau {tau:g}")
    for rounding in get_args(Rounding)[1:]:
        probability = torch.sigmoid(rounding_logit(fraction, 1.0, rounding))
        axes.plot(fraction, probability, ":", label=f"{rounding}, tau 1")
    add_legend(figure, axes)
    return figure


def annealed_objective() -> Figure:
    """The expectation of f(z) = z^2 over stochastic Gumbel annealing, at several temperatures (S2)."""
    figure, axes = new_figure("Annealed objective of f(z) = z^2", "z", "expected value")
    values = torch.linspace(-1.999, 1.999, _POINTS, dtype=torch.float64)
    uniform = (torch.arange(_SAMPLES, dtype=torch.float64) + 0.5) / _SAMPLES  # its quantiles, not samples
    for tau in _TEMPERATURES:
        grid = values[:, None].expand(-1, _SAMPLES)
        sample = stochastic_gumbel_annealing(grid, tau, uniform.expand_as(grid))
        axes.plot(values, sample.square().mean(1), label=f"tau {tau:g}")
    axes.plot(values, values.square(), "--", color=ink(), linewidth=1, label="z^2")
    axes.plot(values, values.round().square(), ":", color=ink(), linewidth=1, label="rounded z, squared")
    add_legend(figure, axes)
    return figure
