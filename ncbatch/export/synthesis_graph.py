"""g_s as an ONNX graph: latents to an image, in float32, of any height and width."""

from __future__ import annotations

import torch

from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.transforms import GDN
from ncbatch.export.graph import Graph, tensor

_LAYERS = 7  # four transposed convolutions with inverse GDN between them
_DEVICE = torch.device("cpu")


def synthesis_graph(checkpoint: Checkpoint) -> bytes:
    """The `.onnx` file.

    It takes `y_hat`, float32[batch, M, h, w], and gives `image`, float32[batch, 3, 16 h, 16 w], whose samples
    lie about in 0..1 and are not clipped. GDN's weights are those that enter its formula, not those stored.

    Raises:
        OnnxMissingError: the package onnx is not installed.
    """
    weights = checkpoint.section("g_s")
    graph, x = Graph("g_s"), "y_hat"
    for index in range(_LAYERS):
        name = f"g_s.{index}"
        if index % 2 == 0:
            weight = graph.constant(f"{name}.weight", weights[f"{index}.weight"].float().numpy())
            bias = graph.constant(f"{name}.bias", weights[f"{index}.bias"].float().numpy())
            x = graph.add(
                "ConvTranspose", x, weight, bias,
                kernel_shape=[5, 5], strides=[2, 2], pads=[2, 2, 2, 2], output_padding=[1, 1],
            )  # fmt: skip
        else:
            gdn = GDN.of(weights[f"{index}.gamma"], weights[f"{index}.beta"], torch.float32, _DEVICE)
            gamma = graph.constant(f"{name}.gamma", gdn.gamma.contiguous().numpy())
            beta = graph.constant(f"{name}.beta", gdn.beta.numpy())
            norm = graph.add("Conv", graph.add("Mul", x, x), gamma, beta, kernel_shape=[1, 1])
            x = graph.add("Mul", x, graph.add("Sqrt", norm))
    graph.renamed(x, "image")
    return graph.model(
        [tensor("y_hat", "FLOAT", ["batch", checkpoint.info.m, "h", "w"])],
        [tensor("image", "FLOAT", ["batch", 3, "16 h", "16 w"])],
        {"model_digest": checkpoint.digest},
    )
