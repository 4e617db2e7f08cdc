"""What the ONNX graphs of this room have in common: nodes, constants and a model made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncbatch.errors import NcbatchError

OPSET = 13
"""Of ONNX: the oldest with all that is needed here, so that runtimes since 2021 load the graphs."""

_IR_VERSION = 7  # what came with that opset; the library's default is its newest


class OnnxMissingError(NcbatchError):
    """The package onnx is not installed."""


def onnx() -> Any:
    """The package `onnx`, which is an extra.

    Raises:
        OnnxMissingError: it is not installed.
    """
    try:
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise OnnxMissingError(
            f"ONNX files need the package onnx ({error}); install it with pip install 'ncbatch[onnx]'"
        ) from error
    return onnx


@dataclass
class Graph:
    """Nodes in the order in which they compute, and the constants that they take.

    A value is its name; the methods return the name of what they make.
    """

    name: str
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One operator with one output."""
        return self.add_several(1, operator, *inputs, **attributes)[0]

    def add_several(self, count: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        """One operator with so many outputs."""
        outputs = [f"{operator.lower()}_{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(onnx().helper.make_node(operator, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, name: str, value: Any) -> str:
        """An array that the model holds. The same name stands for the same array."""
        self.constants[name] = np.asarray(value)
        return name

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], properties: dict[str, str]) -> bytes:
        """The bytes of an `.onnx` file, checked; the same graph always gives the same bytes.

        Args:
            inputs: as `onnx.helper.make_tensor_value_info` makes them.
            outputs: likewise.
            properties: a text by name, for whoever opens the file.
        """
        library = onnx()
        constants = [
            library.numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in self.constants.items()
        ]
        graph = library.helper.make_graph(self.nodes, self.name, list(inputs), list(outputs), constants)
        model = library.helper.make_model(
            graph,
            opset_imports=[library.helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="ncbatch",
        )
        library.helper.set_model_props(model, properties)
        library.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

    def renamed(self, value: str, name: str) -> str:
        """The same value under a name that is told outside."""
        self.nodes.append(onnx().helper.make_node("Identity", [value], [name]))
        return name


def tensor(name: str, kind: str, shape: Sequence[int | str]) -> Any:
    """An input or output. kind: as ONNX calls it, such as FLOAT; names in the shape stand for any size."""
    library = onnx()
    return library.helper.make_tensor_value_info(name, getattr(library.TensorProto, kind), list(shape))
