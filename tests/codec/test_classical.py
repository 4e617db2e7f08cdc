import stat
from pathlib import Path

import numpy as np
import pytest

from ncbatch.codec.classical import decode_classical, encode_classical
from ncbatch.codec.errors import BitstreamError, DecodeCheckError
from ncbatch.codec.methods import CLASSICAL, Bpg
from ncbatch.images.distortion import mse, psnr

INSTALLED = ("jpeg", "webp", "avif", "hevc")


@pytest.mark.parametrize("codec", INSTALLED)
def test_more_quality_is_more_bytes_and_less_error(codec: str, photograph: np.ndarray) -> None:
    pixels = photograph[:131, :203]  # odd sides: nothing is lost at the edges
    sizes, errors = [], []
    for quality in (20, 50, 90):
        recipe = CLASSICAL[codec](quality=quality)
        data = encode_classical(recipe, pixels)
        decoded = decode_classical(recipe, data, max_pixels=pixels.size)
        assert decoded.shape == pixels.shape and decoded.dtype == np.uint8
        sizes.append(len(data))
        errors.append(mse(pixels, decoded))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    assert psnr(errors[0]) > 24 and psnr(errors[2]) > 33


@pytest.mark.parametrize("codec", INSTALLED)
def test_coding_twice_gives_the_same_bytes(codec: str, photograph: np.ndarray) -> None:
    recipe = CLASSICAL[codec](quality=50)
    assert encode_classical(recipe, photograph[:64, :64]) == encode_classical(recipe, photograph[:64, :64])


@pytest.mark.parametrize("codec", INSTALLED)
def test_bytes_that_are_no_such_file_are_one_error(codec: str, photograph: np.ndarray) -> None:
    recipe = CLASSICAL[codec](quality=50)
    data = encode_classical(recipe, photograph[:64, :64])
    other = CLASSICAL["webp" if codec == "jpeg" else "jpeg"](quality=50)
    for bad in (b"", b"NCB", data[: len(data) // 3], encode_classical(other, photograph[:64, :64])):
        with pytest.raises(BitstreamError):
            decode_classical(recipe, bad, max_pixels=10**6)
    with pytest.raises(BitstreamError, match="larger than 100"):
        decode_classical(recipe, data, max_pixels=100)


def test_qualities_out_of_range_are_refused() -> None:
    for method, quality in (("jpeg", 101), ("jpeg", -1), ("bpg", 52)):
        with pytest.raises(ValueError, match="quality"):
            CLASSICAL[method](quality=quality)


def test_bpg_where_it_is_not_installed(
    photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DecodeCheckError, match="bpgenc is not on the PATH"):
        encode_classical(Bpg(quality=30), photograph[:64, :64])


def test_bpg_through_programs_of_that_name(
    photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stand-ins that copy: what is tested is how they are called and believed."""
    for name in ("bpgenc", "bpgdec"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\nwhile [ "$1" != "-o" ]; do shift; done\ncp "$3" "$2"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    recipe, pixels = Bpg(quality=30), photograph[:40, :50]
    data = encode_classical(recipe, pixels)
    assert np.array_equal(decode_classical(recipe, data, max_pixels=pixels.size), pixels)
    (tmp_path / "bpgdec").write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    with pytest.raises(DecodeCheckError, match="bpgdec failed: no such thing"):
        decode_classical(recipe, data, max_pixels=pixels.size)
