import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch

from ncbatch.codec import ans, bitstream
from ncbatch.codec.codecs import LearnedCoder
from ncbatch.codec.decode import decode, decode_latents
from ncbatch.codec.encode import Encoded, FoundLatents, encode, evaluate, find_latents, finish
from ncbatch.codec.errors import DecodeCheckError
from ncbatch.codec.measure import Baseline, amortized_baseline
from ncbatch.codec.methods import Amortized, Learned, Recipe, Sga
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.codec.model.exact_hyper_synthesis import UNIT
from ncbatch.codec.model.hyperprior import Latents, Model, to_tensor
from ncbatch.codec.model.rates import gaussian_bits
from ncbatch.codec.refinement.batch import Refinement
from ncbatch.images import distortion

AMORTIZED = Amortized(lmbda=0.01)

DECODER = """
import hashlib, sys, torch
torch.set_num_threads(int(sys.argv[2]))
from ncbatch.codec import bitstream
from ncbatch.models import zoo
from ncbatch.codec.decode import decode_latents
from ncbatch.codec.model.hyperprior import Model
model = Model(zoo.load_builtin("base-0.010"))
stream = bitstream.parse(open(sys.argv[1], "rb").read(), max_pixels=10**8)
y_hat = model.y_hat(decode_latents(model, stream))
print(hashlib.sha256(y_hat.contiguous().numpy().tobytes()).hexdigest())
"""


def fingerprint(y_hat: torch.Tensor) -> str:
    return hashlib.sha256(y_hat.contiguous().numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module")
def refined(model: Model, photograph: np.ndarray) -> Encoded:
    torch.set_num_threads(1)
    return encode(model, [photograph], Sga(lmbda=0.01, steps=40))[0]


def test_bytes_are_the_information_content_and_little_more(refined: Encoded) -> None:
    outcome = refined.outcome
    assert outcome.bits_y is not None and outcome.bits_z is not None
    information = (outcome.bits_y + outcome.bits_z) / 8
    assert information < len(outcome.data) < information * 1.005 + 40


def test_refinement_lowers_the_rd_loss(refined: Encoded) -> None:
    assert refined.amortized is not None
    assert refined.outcome.loss < 0.99 * refined.amortized.rd_loss


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 64), (200, 300)])
def test_the_baseline_takes_the_bytes_that_its_file_would(
    model: Model, photograph: np.ndarray, shape: tuple[int, int]
) -> None:
    pixels = photograph[: shape[0], : shape[1]]
    real = encode(model, [pixels], AMORTIZED)[0]
    baseline = amortized_baseline(model, pixels, 0.01).expected
    assert len(real.outcome.data) == pytest.approx(baseline.bytes, rel=1e-3, abs=4)
    assert baseline.mse == real.outcome.mse
    assert baseline.rd_loss == pytest.approx(baseline.bytes * 8 / pixels[..., 0].size + 0.01 * baseline.mse)
    # Published itself, it is what was written.
    assert real.amortized == Baseline(len(real.outcome.data), real.outcome.mse, real.outcome.loss)


class Codings:
    """Counts how often latents are coded and decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pushed = self.popped = 0
        push, pop = ans.push_gaussian, ans.pop_gaussian

        def counting_push(*args: Any) -> None:
            self.pushed += 1
            push(*args)

        def counting_pop(*args: Any) -> ans.Symbols:
            self.popped += 1
            return pop(*args)

        monkeypatch.setattr(ans, "push_gaussian", counting_push)
        monkeypatch.setattr(ans, "pop_gaussian", counting_pop)

    @property
    def counts(self) -> tuple[int, int]:
        return self.pushed, self.popped


@pytest.mark.parametrize("recipe", [AMORTIZED, Sga(lmbda=0.01, steps=20)])
def test_only_what_is_published_is_coded_and_decoded(
    model: Model, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch, recipe: Learned
) -> None:
    codings = Codings(monkeypatch)
    encoded = encode(model, [photograph[:128, :128]] * 2, recipe)
    assert codings.counts == (2, 2)
    assert {bitstream.parse(e.outcome.data, max_pixels=128**2).method for e in encoded} == {recipe.method}


def test_where_refinement_is_no_better_the_verified_amortized_encoding_is_published(
    model: Model, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, genuine = photograph[:64, :128], Refinement.best

    def worse(refinement: Refinement) -> Latents:
        latents = genuine.__get__(refinement)
        return Latents(latents.y + 2, latents.z)

    monkeypatch.setattr(Refinement, "best", property(worse))
    codings = Codings(monkeypatch)
    encoded = encode(model, [pixels], Sga(lmbda=0.01, steps=5))[0]
    assert codings.counts == (1, 1)
    assert encoded.outcome.data == encode(model, [pixels], AMORTIZED)[0].outcome.data
    assert encoded.amortized is not None and encoded.amortized.rd_loss == encoded.outcome.rd_loss


def test_a_standing_file_of_the_older_version_is_adopted(model: Model, photograph: np.ndarray) -> None:
    pixels = photograph[:64, :128]
    latents = amortized_baseline(model, pixels, 0.01).latents
    _, sigma = model.coding_parameters(latents.z)
    stack = ans.new_coder()
    ans.push_gaussian(stack, latents.y[0].numpy(), sigma[0].numpy())
    model.z_tables.push(stack, latents.z[0].numpy())
    digest = bitstream.short_digest(model.digest)
    older = bitstream.Bitstream("amortized", digest, 128, 64, ans.payload_of(stack), bitstream.EXACT_VERSION)
    data = bitstream.serialise(older)
    assert data != encode(model, [pixels], AMORTIZED)[0].outcome.data
    adopted = LearnedCoder(model, AMORTIZED).measured(pixels, data)
    assert adopted is not None and adopted.outcome.data == data
    assert adopted.amortized == Baseline(len(data), adopted.outcome.mse, adopted.outcome.loss)


def test_an_adopted_file_is_measured_as_when_it_was_encoded(model: Model, photograph: np.ndarray) -> None:
    for recipe in (AMORTIZED, Sga(lmbda=0.01, steps=20)):
        for pixels in (photograph[:64, :128], photograph[:1, :1]):
            encoded = encode(model, [pixels], recipe)[0]
            adopted = LearnedCoder(model, recipe).measured(pixels, encoded.outcome.data)
            assert adopted is not None
            assert adopted.amortized == encoded.amortized and adopted.ms_ssim == encoded.ms_ssim
            assert replace(adopted.outcome, decode_seconds=0) == replace(encoded.outcome, decode_seconds=0)


def test_numbers_are_those_of_the_bytes(model: Model, photograph: np.ndarray, refined: Encoded) -> None:
    image = decode(model, refined.outcome.data)
    error = np.mean((image.astype(float) - photograph) ** 2)
    assert refined.outcome.mse == pytest.approx(error)
    bpp = len(refined.outcome.data) * 8 / (300 * 451)
    assert refined.outcome.rd_loss == pytest.approx(bpp + 0.01 * error)
    assert refined.outcome.psnr == pytest.approx(10 * np.log10(255**2 / error))
    assert refined.ms_ssim is not None and 0.9 < refined.ms_ssim < 1


@pytest.mark.parametrize(
    "environment",
    [{}, {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}],
)
def test_a_fresh_process_with_other_threads_decodes_the_same_latents(
    model: Model,
    refined: Encoded,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.ncb"
    path.write_bytes(refined.outcome.data)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    output = subprocess.run(
        [sys.executable, "-c", DECODER, str(path), "3"], check=True, capture_output=True, text=True
    ).stdout
    stream = bitstream.parse(refined.outcome.data, max_pixels=10**8)
    assert output.strip() == fingerprint(model.y_hat(decode_latents(model, stream)))


def test_exact_coding_costs_next_to_nothing(
    model: Model, checkpoint: Checkpoint, photograph: np.ndarray
) -> None:
    """Rate of y with the integer mu and sigma against the float network's, for one photograph."""
    from ncbatch.codec.model.transforms import Transform

    y, z = model.analyse(to_tensor(photograph, model.device))
    latents = model.round(y, z)
    with torch.no_grad():
        synthesis = Transform(checkpoint.section("h_s"), "h_s", torch.float32, model.device)
        scales, means = synthesis(latents.z + model.medians).chunk(2, 1)
    floats = gaussian_bits((y - means).round(), scales.clamp_min(0.11)).sum().item()
    _, sigma = model.coding_parameters(latents.z)
    integers = gaussian_bits(latents.y.float(), sigma.float() / UNIT).sum().item()
    assert integers < floats * 1.0007


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (63, 65), (64, 64), (65, 130), (2, 3)])
def test_every_size(model: Model, photograph: np.ndarray, shape: tuple[int, int]) -> None:
    pixels = np.resize(photograph, (*shape, 3))
    for recipe in (AMORTIZED, Sga(lmbda=0.01, steps=3)):
        encoded = encode(model, [pixels], recipe)[0]
        assert decode(model, encoded.outcome.data).shape == pixels.shape


def test_extreme_images(model: Model) -> None:
    """Noise and flat black or white: all symbols far from what the model knows."""
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    for pixels in (noise, np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)):
        encoded = encode(model, [pixels], AMORTIZED)[0]
        assert encoded.outcome.mse >= 0 and decode(model, encoded.outcome.data).shape == pixels.shape


def test_noise_follows_the_seed(model: Model, photograph: np.ndarray) -> None:
    image = photograph[:64, :128]
    results = {
        seed: encode(model, [image], Sga(lmbda=0.01, steps=30, seed=seed))[0].outcome.data for seed in (0, 1)
    }
    assert results[0] != results[1]


def test_bytes_that_do_not_decode_are_never_returned(
    model: Model, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coder that drops an escape, say: the check before publication sees it."""
    from ncbatch.codec import encode as module

    genuine = module.write

    def faulty(model: Model, latents: Latents, method: str, height: int, width: int) -> bytes:
        changed = latents.y.clone()
        changed[0, 0, 0, 0] += 1
        return genuine(model, type(latents)(changed, latents.z), method, height, width)

    monkeypatch.setattr(module, "write", faulty)
    with pytest.raises(DecodeCheckError):
        encode(model, [photograph[:64, :64]], AMORTIZED)


def test_evaluate_refuses_an_image_of_another_size(model: Model, photograph: np.ndarray) -> None:
    data = encode(model, [photograph[:64, :64]], AMORTIZED)[0].outcome.data
    with pytest.raises(DecodeCheckError, match="another size"):
        evaluate(model, photograph[:64, :65], data, 0.01)


@pytest.mark.parametrize(
    "fields",
    [{"method": "sga", "steps": 0}, {"method": "amortized", "steps": 5}, {"lmbda": 0.0},
     {"lmbda": float("inf")}, {"learning_rate": 0.0}, {"seed": -1}, {"method": "magic"}],
)  # fmt: skip
def test_recipes_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        pydantic.TypeAdapter(Recipe).validate_python({"method": "sga", "lmbda": 0.01, "steps": 10, **fields})


def test_quality_measures() -> None:
    a = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + 3, 0, 255).astype(np.uint8)
    assert distortion.mse(a, b) == pytest.approx(np.mean((a.astype(float) - b) ** 2))
    assert distortion.psnr(distortion.mse(a, a)) == np.inf
    assert distortion.ms_ssim(a, a) == pytest.approx(1)
    assert distortion.ms_ssim(a[:100], b[:100]) is None


def test_images_are_finished_in_any_thread(model: Model, photograph: np.ndarray) -> None:
    """As workers do: while others are, and while latents of further ones are found."""
    images = [photograph[:64, 10 * n : 10 * n + 100] for n in range(6)]
    recipe = Sga(lmbda=0.01, steps=10)
    alone = [encode(model, [image], recipe)[0] for image in images]
    with ThreadPoolExecutor(3) as threads:
        futures = [
            threads.submit(finish, model, image, recipe, found)
            for image in images
            for _, found in find_latents(model, [image], recipe)
            if isinstance(found, FoundLatents)
        ]
        encoded = [future.result() for future in futures]
    assert [e.outcome.data for e in encoded] == [e.outcome.data for e in alone]
    assert [(e.outcome.mse, e.ms_ssim) for e in encoded] == [(e.outcome.mse, e.ms_ssim) for e in alone]
