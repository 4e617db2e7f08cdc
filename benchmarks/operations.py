"""How many operations a step of the refinement launches, as PyTorch's profiler counts them.

    python -m benchmarks.operations [--method sga] [--batches 1 32]

On a GPU each would be a kernel; a step whose count grows with the batch keeps the processor
busy, not the GPU.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
import torch
from torch.autograd.profiler_util import FunctionEvent

from ncbatch.codec.methods import LEARNED, Refined
from ncbatch.codec.model.hyperprior import Model, to_tensor
from ncbatch.codec.refinement.loop import JointRefinement, Target
from ncbatch.codec.refinement.noise import ImageNoise
from ncbatch.models import zoo

_NO_WORK = frozenset(
    (
        "_local_scalar_dense", "_reshape_alias", "_unsafe_view", "alias",
        "as_strided", "as_strided_", "chunk", "detach", "detach_", "empty", "empty_like",
        "empty_strided", "expand", "item", "lift_fresh", "mT", "narrow", "new_empty",
        "new_empty_strided", "permute", "reshape", "resize_", "resolve_conj", "result_type",
        "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
        "unflatten", "unsqueeze", "view", "view_as",
    )
)  # fmt: skip
"""Operations that only look at tensors in another way, allocate them, or read a number."""
_WHOLE = frozenset(("aten::convolution", "aten::convolution_backward"))
"""Operations that count once, whatever a library that suits the processor and the size does in them."""


def operations(work: JointRefinement) -> Counter[str]:
    """Operations of the next step by their names, noise and Adam included."""
    for _ in range(2):  # the first steps allocate
        work.advance()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        work.advance()
    events = profile.events()
    assert events is not None
    counted: Counter[str] = Counter()
    for event in events:
        innermost = event.name in _WHOLE or not any(map(_works, _below(event)))
        if _works(event) and innermost and not any(above.name in _WHOLE for above in _above(event)):
            counted[event.name.removeprefix("aten::")] += 1
    return counted


def _below(event: FunctionEvent) -> list[FunctionEvent]:
    """What it calls, at any depth."""
    return [below for child in event.cpu_children for below in (child, *_below(child))]


def _above(event: FunctionEvent) -> list[FunctionEvent]:
    """What called it, from the inside out."""
    parent = event.cpu_parent
    return [] if parent is None else [parent, *_above(parent)]


def _works(event: FunctionEvent) -> bool:
    """Whether an operation computes, by itself or through others; the types of mere numbers do not count."""
    if not event.name.startswith("aten::") or event.name.removeprefix("aten::") in _NO_WORK:
        return False
    if event.name in ("aten::to", "aten::_to_copy"):
        return False  # of itself; the copy below it counts
    return event.name != "aten::copy_" or any(event.input_shapes)


def refinement_of_noise(model: Model, recipe: Refined, batch: int, side: int = 64) -> JointRefinement:
    """A refinement of images of noise, a little smaller than their padded size."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (side - 4, side - 9, 3), dtype=np.uint8) for _ in range(batch)]
    targets = [Target(p.shape[0], p.shape[1], ImageNoise(0, p.tobytes())) for p in pixels]
    return JointRefinement(model, torch.cat([to_tensor(p, model.device) for p in pixels]), targets, recipe)


def main() -> None:
    """Counts what the command line asks for."""
    parser = argparse.ArgumentParser(description="operations of a step")
    parser.add_argument("--method", default="sga")
    parser.add_argument("--rounding", default="atanh", help="of sga")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    args = parser.parse_args()
    kind = LEARNED[args.method]
    more = {"rounding": args.rounding} if "rounding" in kind.model_fields else {}
    recipe = kind.model_validate({"lmbda": 0.01, "steps": 100, **more})
    assert isinstance(recipe, Refined)
    model = Model(zoo.load_builtin("bits-back-0.010" if recipe.uses_bits_back else "base-0.010"))
    for batch in args.batches:
        counted = operations(refinement_of_noise(model, recipe, batch))
        print(f"batch of {batch}: {counted.total()} operations")
    print(", ".join(f"{count} {name}" for name, count in counted.most_common()))


if __name__ == "__main__":
    main()
