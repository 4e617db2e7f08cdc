"""The exact h_s as an ONNX graph: hyper-latents to the means and standard deviations of y, as integers.

It computes in float64, where every value is an integer, or one times a power of two. The convolutions are
matrix products, and any sum of some of their products lies below 2**53 (`quantize_layer` makes sure of it).
So the result is exact in whatever order a runtime adds, with fused multiplications or without. ConvTranspose
would leave a runtime free to choose an algorithm that only approximates, and onnxruntime has none in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.exact_hyper_synthesis import (
    ACTIVATION_BITS,
    LEAKY_SLOPE,
    MAX_ACTIVATION,
    MAX_SIGMA,
    MIN_SIGMA,
    SLOPE_BITS,
    UNIT_BITS,
    UPSAMPLES,
)
from ncbatch.export.graph import Graph, tensor

Array = NDArray[np.generic]


def hyper_synthesis_graph(checkpoint: Checkpoint) -> bytes:
    """The `.onnx` file.

    It takes `z`, int32[batch, N, h, w], and gives `mu` and `sigma`, int32[batch, M, 4 h, 4 w], in units of
    1/256.

    Raises:
        OnnxMissingError: the package onnx is not installed.
    """
    info = checkpoint.info
    graph = Graph("exact_h_s")
    x = _times(graph, _as_double(graph, "z"), 2.0 ** (ACTIVATION_BITS - UNIT_BITS))
    x = _clipped(graph, x, -MAX_ACTIVATION, MAX_ACTIVATION)
    layers = zip(checkpoint.integer_layers(), UPSAMPLES, strict=True)
    for index, (layer, upsamples) in enumerate(layers):
        if index:
            leaked = graph.add("Floor", _times(graph, x, LEAKY_SLOPE * 2.0**-SLOPE_BITS))
            x = graph.add("Where", graph.add("Less", x, _number(graph, 0.0)), leaked, x)
        weight, bias = layer.weight.numpy(), layer.bias.numpy()
        x = _sums(graph, f"exact.{index}", x, *(subpixels(weight, bias) if upsamples else (weight, bias)))
        if upsamples:
            x = graph.add("DepthToSpace", x, blocksize=2, mode="CRD")
        x = _clipped(graph, _rounded(graph, x, layer.shift), -MAX_ACTIVATION, MAX_ACTIVATION)
    x = _rounded(graph, x, ACTIVATION_BITS - UNIT_BITS)
    sizes = graph.constant("sizes", np.array([info.m, info.m], np.int64))
    sigma, mu = graph.add_several(2, "Split", x, sizes, axis=1)
    sigma = _clipped(graph, sigma, MIN_SIGMA, MAX_SIGMA)
    integer = tensor("", "INT32", []).type.tensor_type.elem_type
    graph.renamed(graph.add("Cast", mu, to=integer), "mu")
    graph.renamed(graph.add("Cast", sigma, to=integer), "sigma")
    return graph.model(
        [tensor("z", "INT32", ["batch", info.n, "h", "w"])],
        [tensor(name, "INT32", ["batch", info.m, "4 h", "4 w"]) for name in ("mu", "sigma")],
        {"model_digest": checkpoint.digest, "unit": f"1/{1 << UNIT_BITS}"},
    )


def subpixels(weight: Array, bias: Array) -> tuple[Array, Array]:
    """A 5x5 transposed convolution of stride 2 as a 3x3 convolution to four times as many channels.

    Of these, 4 c + 2 a + b is channel c at the output position (2 i + a, 2 j + b), to which the input at
    (i + d - 1, j + e - 1) contributes by the tap (a + 4 - 2 d, b + 4 - 2 e). Taps beyond the 5x5 are zero.

    Args:
        weight: [inputs, outputs, 5, 5].
        bias: [outputs].

    Returns:
        [4 outputs, inputs, 3, 3] and [4 outputs].
    """
    padded = np.pad(weight, ((0, 0), (0, 0), (0, 1), (0, 1)))
    taps = np.array([[a + 4 - 2 * d for d in range(3)] for a in range(2)])
    picked = padded[:, :, taps[:, :, None, None], taps[None, None]]  # [inputs, outputs, a, d, b, e]
    wide = picked.transpose(1, 2, 4, 0, 3, 5).reshape(-1, weight.shape[0], 3, 3)
    return np.ascontiguousarray(wide), np.repeat(bias, 4)


def _sums(graph: Graph, name: str, x: str, weight: Array, bias: Array) -> str:
    """A 3x3 convolution as one matrix product: of the weights and the nine neighbours of every position."""
    outputs, inputs = weight.shape[:2]
    border = graph.constant("border", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    padded = graph.add("Pad", x, border, _number(graph, 0.0))
    axes = graph.constant("axes", np.array([2, 3], np.int64))
    neighbours = []
    for row in range(3):
        for column in range(3):
            starts = graph.constant(f"start_{row}{column}", np.array([row, column], np.int64))
            last = [side - 2 if side < 2 else np.iinfo(np.int64).max for side in (row, column)]
            ends = graph.constant(f"end_{row}{column}", np.array(last, np.int64))
            neighbours.append(graph.add("Slice", padded, starts, ends, axes))
    together = graph.add("Concat", *neighbours, axis=1)
    flat = graph.constant(f"{name}.flat", np.array([0, 9 * inputs, -1], np.int64))
    matrix = weight.transpose(0, 2, 3, 1).reshape(outputs, 9 * inputs)
    product = graph.add(
        "MatMul",
        _as_double(graph, graph.constant(f"{name}.weight", matrix)),
        graph.add("Reshape", together, flat),
    )
    summed = graph.add("Add", product, graph.constant(f"{name}.bias", bias.astype(np.float64)[:, None]))
    size = graph.add(
        "Slice",
        graph.add("Shape", x),
        *(graph.constant(f"only_{i}", np.array([i], np.int64)) for i in (2, 4)),
    )
    channels = graph.constant(f"{name}.channels", np.array([0, outputs], np.int64))
    return graph.add("Reshape", summed, graph.add("Concat", channels, size, axis=0))


def _number(graph: Graph, value: float) -> str:
    return graph.constant(f"number {value!r}", np.array(value, np.float64))


def _as_double(graph: Graph, x: str) -> str:
    return graph.add("Cast", x, to=tensor("", "DOUBLE", []).type.tensor_type.elem_type)


def _times(graph: Graph, x: str, factor: float) -> str:
    return graph.add("Mul", x, _number(graph, factor))


def _rounded(graph: Graph, x: str, shift: int) -> str:
    """floor(x / 2**shift + 1/2)."""
    return graph.add("Floor", graph.add("Add", _times(graph, x, 2.0**-shift), _number(graph, 0.5)))


def _clipped(graph: Graph, x: str, lowest: int, highest: int) -> str:
    return graph.add("Clip", x, _number(graph, float(lowest)), _number(graph, float(highest)))
