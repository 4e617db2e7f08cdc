"""The exported decoder in headless Chromium, where there is one: from a disk, without a network."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import browser, complaints_of, fits, needs_chromium
from tests.export.conftest import KINDS, NAMES, Sample, with_tail

pytestmark = needs_chromium

_START = """simd => {
    const model = Uint8Array.from(atob(ncbModel.tensors), letter => letter.charCodeAt(0)).buffer;
    window.own = new ncb.Decoder(model, {simd});
    return own.fast;
}"""

_DECODE = """file => {
    const letters = array => Array.from(new Uint8Array(array.buffer), byte => String.fromCharCode(byte));
    const text = array => btoa(letters(array).join(""));
    const bytes = Uint8Array.from(atob(file), letter => letter.charCodeAt(0));
    const {width, height, yHat} = own.latents(bytes), image = own.decode(bytes);
    return [width, height, text(yHat), text(image.data)];
}"""

_SHOWN = """figure => {
    const canvas = figure.querySelector("canvas");
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.width, canvas.height, [...data]];
}"""


def refusal(tab: Any, data: bytes) -> str:
    """What the decoder says of a file that it does not decode."""
    program = "file => { try { (%s)(file); return 'decoded'; } catch (error) { return error.message; } }"
    return str(tab.evaluate(program % _DECODE, base64.b64encode(data).decode()))


def close(rgba: np.ndarray, sample: Sample) -> bool:
    """Whether pixels are those of a sample within a level, and opaque."""
    difference = np.abs(rgba[..., :3].astype(int) - sample.pixels)
    return bool((rgba[..., 3] == 255).all() and difference.max() <= 1 and (difference > 0).mean() < 0.001)


@pytest.fixture(scope="module")
def tabs(folders: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """The exported page of each kind of model, from its folder, with what goes wrong in it."""
    with browser() as chromium:
        found = {}
        for kind in KINDS:
            tab = chromium.new_page()
            complaints = complaints_of(tab, "file:", "blob:")
            tab.goto((folders[kind] / "browser" / "index.html").as_uri())
            found[kind] = tab
        yield found
        assert complaints == []


@pytest.mark.parametrize("simd", [True, False], ids=["simd", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_the_same_and_pixels_within_a_level(
    tabs: dict[str, Any], samples: dict[str, dict[str, Sample]], kind: str, simd: bool
) -> None:
    tab = tabs[kind]
    assert tab.evaluate(_START, simd) is simd
    for name in NAMES:
        sample = samples[kind][name]
        width, height, y_hat, pixels = tab.evaluate(_DECODE, base64.b64encode(sample.data).decode())
        assert (height, width) == sample.pixels.shape[:2]
        found = np.frombuffer(base64.b64decode(y_hat), "<i4").reshape(sample.y_hat.shape)
        assert np.array_equal(found, sample.y_hat), name
        rgba = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 4)
        assert close(rgba, sample), name


def test_the_page_shows_files_that_are_chosen(
    tabs: dict[str, Any], samples: dict[str, dict[str, Sample]], tmp_path: Path
) -> None:
    tab, sample = tabs["base"], samples["base"]["plain"]
    (tmp_path / "a.ncb").write_bytes(sample.data)
    (tmp_path / "other.ncb").write_bytes(samples["bits-back"]["plain"].data)
    tab.locator("input").set_input_files([tmp_path / "a.ncb", tmp_path / "other.ncb"])
    tab.locator("figure a").wait_for()
    tab.locator(".error").wait_for()
    figure = tab.locator("figure", has=tab.locator("canvas"))
    width, height, data = figure.evaluate(_SHOWN)
    assert close(np.array(data, np.uint8).reshape(height, width, 4), sample)
    bpp = 8 * len(sample.data) / (130 * 70)
    assert f"a.ncb: 130 x 70, {len(sample.data)} bytes, {bpp:.3f} bpp" in figure.inner_text()
    assert figure.locator("a").get_attribute("download") == "a.png"
    assert "other.ncb: the file is of the model" in tab.locator(".error").inner_text()
    assert all(fits(tab, size) for size in (360, 1280))


@pytest.mark.parametrize(
    ("start", "replaced", "says"),
    [
        (0, b"NCP", "a pack of several images, which only ncbatch decodes"),
        (0, b"PNG", "not an .ncb file"),
        (3, b"\x63", "the .ncb file is of a version that this decoder does not know"),
        (13, b"\xff" * 5, "the header holds a number that does not end"),
        (40, b"\0\1\2", "the checksum does not match: the file is cut short or damaged"),
    ],
)
def test_what_is_no_file_is_refused(
    tabs: dict[str, Any], samples: dict[str, dict[str, Sample]], start: int, replaced: bytes, says: str
) -> None:
    data = samples["base"]["plain"].data
    tabs["base"].evaluate(_START, True)
    changed = data[:start] + replaced + data[start + len(replaced) :]
    assert refusal(tabs["base"], changed) == says
    assert refusal(tabs["base"], with_tail(data)) == "decoded"
    assert "cut short or damaged" in refusal(tabs["base"], data + b"a tail")


def test_it_needs_no_network(folders: dict[str, Path]) -> None:
    for name in ("index.html", "ncb-decoder.js"):
        assert "://" not in (folders["base"] / "browser" / name).read_text()
