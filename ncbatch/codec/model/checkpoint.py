"""Checkpoints: one safetensors file with the weights, what coding needs as integers, and JSON metadata.

Loading never unpickles. The digest covers every tensor and the metadata that gives them meaning; a bitstream
names it, so a decoder knows at once whether it has the right model.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ncbatch.codec.errors import ModelError
from ncbatch.codec.model.exact_hyper_synthesis import (
    FINE_STEP,
    UNIT,
    UPSAMPLES,
    IntegerLayer,
    check_layers,
    quantize_layer,
)
from ncbatch.codec.model.info import (
    ModelInfo,
    ModelKind,
    check_digest,
    digest_of,
    not_a_checkpoint,
    read_header,
)
from ncbatch.codec.model.prior import coding_tables, fixed_point_medians
from ncbatch.errors import first_line

FINE_GRID = f"fine{UNIT // FINE_STEP}"
"""Prefix of the tables of p(z) on the fine grid. It says the grid, so that those of another are none."""


@dataclass(frozen=True)
class Checkpoint:
    """A frozen model as it is stored.

    Attributes:
        info: its kind, sizes and lmbda.
        tensors: `g_a.*`, `h_a.*`, `g_s.*` and `prior.*` (floats, by CompressAI's names), and for coding
            `exact.<layer>.weight|bias` (h_s), `z.median`, `z.first`, `z.lengths` and `z.frequencies`
            (integers). The kind bits-back has tables of p(z) on the finer grid of z, too:
            `<FINE_GRID>.first|lengths|frequencies`.
        digest: SHA-256 over both, hexadecimal.
    """

    info: ModelInfo
    tensors: dict[str, Tensor]
    digest: str

    def section(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix.`, named without it; h_s, which is stored as integers, as floats."""
        if prefix == "h_s":
            return dict(self._hyper_synthesis())
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(prefix + ".")}

    def state_dict(self) -> dict[str, Tensor]:
        """The float32 weights by CompressAI's names."""
        return {
            f"{'entropy_bottleneck' if part == 'prior' else part}.{name}": tensor.float()
            for part in ("g_a", "h_a", "g_s", "h_s", "prior")
            for name, tensor in self.section(part).items()
        }

    def _hyper_synthesis(self) -> Iterator[tuple[str, Tensor]]:
        for i, layer in enumerate(self.integer_layers()):
            weight, bias = layer.real()
            yield f"{2 * i}.weight", weight
            yield f"{2 * i}.bias", bias

    def integer_layers(self) -> list[IntegerLayer]:
        """The convolutions of h_s as coding uses them, in their order."""
        exact = self.section("exact")
        return [
            IntegerLayer(exact[f"{i}.weight"], exact[f"{i}.bias"], shift)
            for i, shift in enumerate(self.info.shifts)
        ]

    def to_bytes(self) -> bytes:
        """The safetensors file; the same checkpoint always gives the same bytes."""
        # One entry: safetensors writes several in any order, and the same checkpoint is the same bytes.
        described = self.info.model_dump(mode="json") | {"digest": self.digest}
        return save(self.tensors, {"ncbatch": json.dumps(described, separators=(",", ":"))})


def _digest(info: ModelInfo, tensors: dict[str, Tensor]) -> str:
    return digest_of(info, {name: tensor.contiguous().numpy() for name, tensor in tensors.items()})


def export(
    state_dict: dict[str, Tensor],
    *,
    lmbda: float,
    kind: ModelKind = "base",
    dtype: torch.dtype = torch.float16,
) -> Checkpoint:
    """Freezes a trained CompressAI `MeanScaleHyperprior` into a checkpoint.

    Everything that coding needs is derived here and only here: h_s, which is stored as integers of 15 bits
    and a sign, and the tables of p(z), from the weights as rounded to `dtype`.

    Args:
        state_dict: the weights by CompressAI's names; other tensors are passed over.
        lmbda: weight of the MSE on 0..255 that they were trained with.
        kind: "bits-back" where h_a gives mean and log-variance.
        dtype: of the stored weights.

    Raises:
        ModelError: tensors are missing or do not fit together.
    """
    weights = {
        name.replace("entropy_bottleneck.", "prior."): tensor.detach().cpu().to(dtype).contiguous()
        for name, tensor in state_dict.items()
        if name.startswith(("g_a.", "h_a.", "g_s.", *_PRIOR_NAMES))
    }
    # Parametrizer buffers are constants of CompressAI, not weights.
    weights = {k: v for k, v in weights.items() if not k.endswith((".pedestal", ".bound"))}
    try:
        n, m = weights["h_a.0.weight"].shape[0], weights["h_a.0.weight"].shape[1]
        first, second, third = (weights[f"g_a.{i}.weight"].shape[0] for i in (0, 2, 4))
        prior = {k[len("prior.") :]: v.float() for k, v in weights.items() if k.startswith("prior.")}
        layers = [
            quantize_layer(
                state_dict[f"h_s.{2 * i}.weight"].detach().cpu().float(),
                state_dict[f"h_s.{2 * i}.bias"].detach().cpu().float(),
                upsamples=upsamples,
            )
            for i, upsamples in enumerate(UPSAMPLES)
        ]
        medians = fixed_point_medians(prior, trained=kind == "base")
        tables = {"z": coding_tables(prior, medians)}
        if kind == "bits-back":
            tables[FINE_GRID] = coding_tables(prior, torch.zeros_like(medians), FINE_STEP / UNIT)
    except KeyError as error:
        raise ModelError(
            f"the weights lack {error}; only CompressAI's MeanScaleHyperprior can be exported"
        ) from error
    except (IndexError, RuntimeError, ValueError) as error:  # torch's, of shapes that do not go together
        raise ModelError(
            "the weights do not fit together; only CompressAI's MeanScaleHyperprior can be exported "
            f"({first_line(error)})"
        ) from error
    tensors = dict(weights)
    for i, layer in enumerate(layers):
        tensors[f"exact.{i}.weight"], tensors[f"exact.{i}.bias"] = layer.weight, layer.bias
    tensors["z.median"] = medians
    for grid, arrays in tables.items():
        for name, array in zip(("first", "lengths", "frequencies"), arrays, strict=True):
            tensors[f"{grid}.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
    info = ModelInfo(
        kind=kind, n=n, m=m, widths=None if first == second == third == n else (first, second, third),
        lmbda=lmbda, shifts=tuple(layer.shift for layer in layers),
    )  # fmt: skip
    _check(info, tensors, "the network")
    return Checkpoint(info, tensors, _digest(info, tensors))


_PRIOR_NAMES = tuple(
    f"entropy_bottleneck.{name}" for name in ("matrices.", "biases.", "factors.", "quantiles")
)


_PRIOR_WIDTHS = (3, 3, 3, 3)  # of the layers within p(z)


def _expected_shapes(info: ModelInfo) -> dict[str, tuple[int, ...]]:
    """Shapes of the float tensors; the integer part is checked by `check_layers`."""
    n, m = info.n, info.m
    widths = info.widths or (n, n, n)
    sides = tuple(pairwise((3, *widths, m)))
    convs = {
        "g_a": [(coarse, fine, 5, 5) for fine, coarse in sides],
        "g_s": [(coarse, fine, 5, 5) for fine, coarse in reversed(sides)],
        "h_a": [(n, m, 3, 3), (n, n, 5, 5), (n if info.kind == "base" else 2 * n, n, 5, 5)],
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.{2 * i}.weight": shape for name, layers in convs.items() for i, shape in enumerate(layers)
    }
    shapes |= {  # the synthesis has its outputs in the second place
        f"{name}.{2 * i}.bias": (shape[1 if name == "g_s" else 0],)
        for name, layers in convs.items()
        for i, shape in enumerate(layers)
    }
    for name, order in (("g_a", widths), ("g_s", widths[::-1])):
        for i, width in zip((1, 3, 5), order, strict=True):
            shapes[f"{name}.{i}.gamma"], shapes[f"{name}.{i}.beta"] = (width, width), (width,)
    shapes |= {"prior.quantiles": (n, 1, 3), "z.median": (n,)}
    for i, (width, before) in enumerate(zip((*_PRIOR_WIDTHS, 1), (1, *_PRIOR_WIDTHS), strict=True)):
        shapes[f"prior.matrices.{i}"], shapes[f"prior.biases.{i}"] = (n, width, before), (n, width, 1)
        if i < len(_PRIOR_WIDTHS):
            shapes[f"prior.factors.{i}"] = (n, width, 1)
    shapes |= {f"{grid}.{name}": (n,) for grid in _grids(info) for name in ("first", "lengths")}
    return shapes


def _grids(info: ModelInfo) -> tuple[str, ...]:
    """Sections with tables of p(z)."""
    return ("z", FINE_GRID) if info.kind == "bits-back" else ("z",)


def _check(info: ModelInfo, tensors: dict[str, Tensor], source: str) -> None:
    for name, shape in _expected_shapes(info).items():
        if name not in tensors:
            raise ModelError(f"{source} lacks the tensor {name}; it is cut short or of another model")
        if tuple(tensors[name].shape) != shape:
            raise ModelError(f"{source}: {name} is {tuple(tensors[name].shape)}, expected {shape}")
    try:
        check_layers(Checkpoint(info, tensors, "").integer_layers(), info.n, info.m)
        tables = [(tensors[f"{grid}.lengths"], tensors[f"{grid}.frequencies"]) for grid in _grids(info)]
    except KeyError as error:
        raise ModelError(f"{source} lacks the tensor {error}; export it again") from error
    for lengths, frequencies in tables:
        if int(lengths.sum()) != len(frequencies) or int(lengths.min()) < 2 or int(frequencies.min()) < 1:
            raise ModelError(f"{source}: the tables of p(z) do not add up; export it again")


def parse(data: bytes, name: str) -> Checkpoint:
    """Reads a checkpoint's bytes; `name` is what messages call it.

    Raises:
        ModelError: not a safetensors file, not ours, damaged, or of a newer format.
    """
    info, written = read_header(data, name)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise not_a_checkpoint(name) from error
    _check(info, tensors, name)
    digest = _digest(info, tensors)
    check_digest(written, digest, name)
    return Checkpoint(info, tensors, digest)
