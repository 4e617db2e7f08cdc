"""Where a training starts: from the weights of a trained model of another rate, kind or fewer channels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.info import ModelInfo
from ncbatch.codec.model.prior import quantile
from ncbatch.errors import UsageError
from ncbatch.training.hyperprior import GDN, MeanScaleHyperprior
from ncbatch.training.network import TrainableHyperprior
from ncbatch.training.settings import TrainingSettings

_BOX_VARIANCE = 1 / 12  # of uniform noise
_SCALES_AND_MEANS = "h_s.4."  # their channels lie one after the other, so each half grows by itself


def _widened(weights: dict[str, Tensor], network: MeanScaleHyperprior) -> dict[str, Tensor]:
    """Weights for more channels, under which the old channels everywhere, and so the image, stay what they
    were.

    A new channel keeps its fresh weights where it is computed, and nothing old depends on it yet (Chen et
    al., Net2Net, 2016, copy channels instead, which then have to part).
    """
    widened = dict(weights)
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | GDN):
            continue
        for parameter, fresh in module.named_parameters():
            full = f"{name}.{parameter}"
            halves = 2 if full.startswith(_SCALES_AND_MEANS) else 1
            inputs = int(not isinstance(module, nn.ConvTranspose2d)) if fresh.ndim > 1 else None
            old, new = (t.reshape(halves, -1, *t.shape[1:]) for t in (weights[full], fresh.detach().clone()))
            corner = [slice(0, size) for size in old.shape]
            if inputs is not None:
                from_new = list(corner)
                from_new[inputs + 1] = slice(old.shape[inputs + 1], None)
                new[tuple(from_new)] = module.nothing if isinstance(module, GDN) else 0.0
            new[tuple(corner)] = old
            widened[full] = new.reshape(fresh.shape)
    return widened


def _broadened(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """p(z) of a base model, stretched about each channel's median to the width that it has in rates.

    There it is convolved with a box. The density alone may be a spike, under which a posterior as wide as the
    box would be expensive, above all in channels that carry nothing.
    """
    prefix = "entropy_bottleneck."
    prior = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    below, median, above = (quantile(prior, probability) for probability in (0.16, 0.5, 0.84))
    deviation = (above - below) / 2
    slower = (deviation / (deviation.square() + _BOX_VARIANCE).sqrt()).view(-1, 1, 1)
    slope = F.softplus(prior["matrices.0"].double())
    matrix = torch.log(torch.expm1(slope * slower))
    bias = prior["biases.0"] + slope * (1 - slower) * median.view(-1, 1, 1)
    return {f"{prefix}matrices.0": matrix.float(), f"{prefix}biases.0": bias.float()}


def _channels(model: ModelInfo | TrainingSettings) -> tuple[int, ...]:
    """Of y, and within g_a from the image inwards."""
    return (model.m, *(model.widths or (model.n,) * 3))


def _shape(model: ModelInfo | TrainingSettings) -> str:
    widths = "" if model.widths is None else f", widths {','.join(map(str, model.widths))}"
    return f"N = {model.n}, M = {model.m}{widths}"


def check_start(settings: TrainingSettings, info: ModelInfo) -> None:
    """Whether a training can start from such a checkpoint.

    Raises:
        UsageError: it has another N or more channels somewhere than the training, or it is a bits-back
            checkpoint and the training of the kind base.
    """
    fits = info.n == settings.n and all(
        theirs <= ours for theirs, ours in zip(_channels(info), _channels(settings), strict=True)
    )
    if not fits:
        raise UsageError(
            f"a checkpoint of {_shape(info)} cannot start a training of {_shape(settings)}; give --n "
            f"{info.n}, and of other channels as many as it has or more"
        )
    if (info.kind, settings.kind) == ("bits-back", "base"):
        raise UsageError(
            "a bits-back checkpoint cannot start a training of the kind base; start from a base checkpoint, "
            "or give --kind bits-back"
        )


def warm_start(model: TrainableHyperprior, checkpoint: Checkpoint) -> None:
    """Takes over the weights of a trained neighbour: of another rate or, for bits-back, of the kind base.

    A model with more channels, of y or within g_a and g_s, keeps its own weights for them. A posterior that
    no base model has starts with the variance of the uniform noise that it replaces, and p(z) as wide as it
    is with that noise.

    Raises:
        UsageError: see `check_start`.
    """
    info, settings = checkpoint.info, model.settings
    check_start(settings, info)
    weights = checkpoint.state_dict()
    if info.kind != settings.kind:
        mean_weight, mean_bias = weights["h_a.4.weight"], weights["h_a.4.bias"]
        log_variance = torch.full_like(mean_bias, math.log(_BOX_VARIANCE))
        weights["h_a.4.weight"] = torch.cat([mean_weight, torch.zeros_like(mean_weight)])
        weights["h_a.4.bias"] = torch.cat([mean_bias, log_variance])
        weights |= _broadened(weights)
    if _channels(info) != _channels(settings):
        weights = _widened(weights, model.network)
    model.network.load_state_dict(weights)
