"""Names of what a user chooses from: methods, presets, classical codecs. Imports nothing but the standard
library, so that `--help` and a mistyped name are answered at once.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Method = Literal[
    "amortized", "sga", "map", "ste", "uniform-noise", "deterministic-annealing",
    "bits-back", "bits-back+bbvi", "sga+bits-back",
]  # fmt: skip
"""amortized: the encoder network alone. The next refine its latents, each under its own relaxation of the
rounding: the paper's M1 (sga) and its ablations A1 to A4. The last code z with bits-back, in packs: with the
posterior that the encoder network gives (A6), with one inferred for the same y (A5), and with SGA and
inference (M2)."""

Rounding = Literal["atanh", "linear", "cosine", "ssl"]
"""Rounding probabilities of sga: the paper's, and those of SGA+ (see `codec.relaxation`)."""

Codec = Literal["jpeg", "webp", "avif", "hevc", "bpg"]
"""hevc: intra 4:4:4 by x265; bpg: where its programs are on the PATH."""

CODECS: tuple[str, ...] = get_args(Codec)

PROGRAMS: dict[str, tuple[str, ...]] = {"bpg": ("bpgenc", "bpgdec")}
"""What has to be on the PATH for a codec."""

PAPER_STEPS = 2000

INFERENCE: dict[str, dict[str, Any]] = {
    "paper": {"bbvi_steps": 2000, "bbvi_learning_rate": 3e-3},
    "fast": {"bbvi_steps": 100, "bbvi_learning_rate": 0.02},
    "best": {"bbvi_steps": 500, "bbvi_learning_rate": 0.01},
}
"""Of q(z|y), by preset."""

BITS_BACK: dict[str, dict[str, Any]] = {
    "bits-back": {"bbvi_steps": 0},
    "bits-back+bbvi": INFERENCE["paper"],
    "sga+bits-back": INFERENCE["paper"],
}
"""Methods that pack, and their defaults."""

BITS_BACK_METHODS = tuple(BITS_BACK)

_SEARCHED: dict[str, Any] = {
    "method": "sga", "rounding": "linear", "decay": "cosine", "beta1": 0.8, "check_every": 10,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"method": "sga", "steps": PAPER_STEPS},
    "fast": {**_SEARCHED, "steps": 300, "learning_rate": 0.05, "noise": 0.45},
    "best": {**_SEARCHED, "steps": 2000, "learning_rate": 0.02, "noise": 0.8},
}
"""Recipes by name, to be completed with lmbda. fast and best were searched for with `benchmarks/presets.py`:
less Gumbel noise lets far larger steps converge, and linear rounding probabilities suit them better."""

STEPS_BETWEEN_PAUSES = 10
"""Steps between two moments at which a refinement can be looked at, saved or stopped."""
