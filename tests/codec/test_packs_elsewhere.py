"""Packs decode in other processes, with other threads and other instructions. Run with `-m slow`."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ncbatch.codec.bits_back.encode import encode_pack, find
from ncbatch.codec.methods import BitsBackBbvi
from ncbatch.codec.model.hyperprior import Model

SIDE = bytes(range(256)) * 16

DECODE = """
import hashlib, json, sys
import torch
from ncbatch.models import zoo
from ncbatch.codec.model.hyperprior import Model
from ncbatch.codec.bits_back.pack import PackReader

data, threads, strided = open(sys.argv[1], "rb").read(), int(sys.argv[2]), sys.argv[3] == "strided"
torch.set_num_threads(threads)
model = Model(zoo.load_builtin("bits-back-0.010"))
if strided:  # the float64 transforms get their weights and inputs in torch's default layout
    torch.channels_last = torch.contiguous_format
    for name in ("precise_hyper_analysis", "precise_hyper_synthesis"):
        getattr(model, name)
reader = PackReader(model, data, max_pixels=10**7)
sums = {u.index: hashlib.sha256(u.y_hat.numpy().tobytes()).hexdigest() for u in reader.images()}
json.dump([[sums[i] for i in sorted(sums)], hashlib.sha256(reader.side_information).hexdigest()], sys.stdout)
"""

ELSEWHERE = {
    "one thread": (1, "", {}),
    "two threads": (2, "", {}),
    "another memory layout": (1, "strided", {}),
    "AVX2 only": (
        1, "",
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ),
    "no vectors": (1, "", {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """64x64 crops of photographs of scikit-image, all different."""
    import skimage
    from PIL import Image

    crops = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
            pixels = np.array(image.convert("RGB"))
        crops += [
            pixels[t : t + 64, left : left + 64] for t in (40, 110, 180) for left in (20, 120, 220, 320)
        ]
    return crops


@pytest.mark.slow
@pytest.mark.parametrize(("count", "steps"), [(1, 60), (2, 60), (12, 60), (1, 500)])
def test_packs_decode_everywhere(
    posterior_model: Model, photographs: list[np.ndarray], tmp_path: Path, count: int, steps: int
) -> None:
    recipe = BitsBackBbvi(lmbda=0.01, bbvi_steps=steps)
    images = [find(posterior_model, [p], recipe)[0] for p in photographs[:count]]
    packed = encode_pack(posterior_model, images, recipe, side_information=SIDE)
    assert packed.plain == frozenset()
    (tmp_path / "pack").write_bytes(packed.pack.data)
    y_hats = [hashlib.sha256(image.y_hat.numpy().tobytes()).hexdigest() for image in images]
    expected = [y_hats, hashlib.sha256(SIDE).hexdigest()]
    for where, (threads, layout, variables) in ELSEWHERE.items():
        done = subprocess.run(
            [sys.executable, "-c", DECODE, str(tmp_path / "pack"), str(threads), layout],
            env={**os.environ, **variables}, capture_output=True, text=True, check=True, timeout=900,
        )  # fmt: skip
        assert json.loads(done.stdout) == expected, where
