"""TIFFs of hundreds of kinds, written by tifffile: the right pixels or "unsupported", never wrong ones.

Each file is judged twice: tifffile reads back the samples that were written, and Pillow's pixels are compared
wherever Pillow knows the kind and is right about it.
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from ncbatch.images.checks import ImageError
from ncbatch.images.read import read_image

HEIGHT, WIDTH = 21, 37
COLOURS = {"minisblack": 1, "miniswhite": 1, "palette": 1, "rgb": 3, "separated": 4}
ALPHA_KINDS = {"unassalpha": 2, "assocalpha": 1, "unspecified": 0}
PALETTE = (np.random.default_rng(3).integers(0, 256, (3, 256)) * 257).astype(np.uint16)


@dataclass(frozen=True)
class Kind:
    photometric: str
    bits: int
    extra: tuple[str, ...]
    planar: str
    compression: str | None
    predictor: bool
    tile: tuple[int, int] | None
    byteorder: Any  # "<" or ">"
    bigtiff: bool

    def samples(self) -> np.ndarray:
        """`[height, width, channels]`, premultiplied where the kind says so."""
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
        channels = COLOURS[self.photometric] + len(self.extra)
        top = 2**self.bits - 1
        ramps = np.stack([(x * 3 + y * (k + 1) * 5 + k * 40) % 256 for k in range(channels)], -1)
        samples = (ramps * (top // 255) + (ramps % 7 if self.bits > 8 else 0)).clip(0, top)
        if "assocalpha" in self.extra:
            colours = COLOURS[self.photometric]
            samples[..., :colours] = samples[..., :colours] * samples[..., colours:][..., :1] // top
        return samples.astype(np.uint8 if self.bits == 8 else np.uint16)

    def stored(self) -> np.ndarray:
        """The samples in the axes that tifffile wants them in."""
        samples = self.samples()
        if samples.shape[-1] == 1:
            return samples[..., 0]
        return samples if self.planar == "contig" else np.ascontiguousarray(np.moveaxis(samples, -1, 0))

    def written(self) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            self.stored(),
            photometric=self.photometric,
            planarconfig=self.planar if self.extra or COLOURS[self.photometric] > 1 else None,
            extrasamples=self.extra or None,
            compression=self.compression,
            predictor=self.predictor or None,
            tile=self.tile,
            byteorder=self.byteorder,
            bigtiff=self.bigtiff,
            colormap=PALETTE if self.photometric == "palette" else None,
            rowsperstrip=None if self.tile else 8,
            metadata=None,
        )
        return buffer.getvalue()

    def over_white(self) -> np.ndarray:
        """The pixels before rounding, 0 to 255, by arithmetic."""
        colours, top = COLOURS[self.photometric], 2**self.bits - 1
        samples = self.samples() / top
        colour = samples[..., :colours]
        if self.photometric == "miniswhite":
            colour = 1 - colour
        elif self.photometric == "palette":
            colour = np.moveaxis(PALETTE[:, self.samples()[..., 0]], 0, -1) / 65535
        elif self.photometric == "separated":
            inks = np.rint(colour * 255) / 255
            colour = (1 - inks[..., :3]) * (1 - inks[..., 3:])
        kinds = [ALPHA_KINDS[name] for name in self.extra]
        if any(kinds):
            weight = samples[..., colours + kinds.index(max(kinds)), None]
            colour = (colour if 1 in kinds else colour * weight) + 1 - weight
        return np.broadcast_to(colour * 255, (HEIGHT, WIDTH, 3))


def kinds() -> Iterator[Kind]:
    extras = [(), ("unassalpha",), ("assocalpha",), ("unspecified",), ("unspecified", "unassalpha")]
    compressions = [(None, False), ("packbits", False), ("zlib", False), ("zlib", True), ("lzw", True)]
    compressions += [("zstd", False), ("lzma", True)]
    planes, tiles, sizes = ("contig", "separate"), (None, (16, 32)), (False, True)
    for values in itertools.product(COLOURS, (8, 16), extras, planes, compressions, tiles, "<>", sizes):
        photometric, bits, extra, planar, (compression, predictor), tile, byteorder, bigtiff = values
        single = COLOURS[photometric] + len(extra) == 1
        if (single and planar == "separate") or (photometric == "palette" and (bits == 16 or extra)):
            continue
        yield Kind(photometric, bits, extra, planar, compression, predictor, tile, byteorder, bigtiff)


@pytest.fixture(scope="module", autouse=True)
def _codecs() -> None:
    pytest.importorskip("imagecodecs", reason="tifffile compresses with it")


def judged(kind: Kind) -> bool:
    """Whether our reader reads it, and then rightly."""
    data = kind.written()
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), kind.stored())
    try:
        result = read_image(data, alpha="white")
    except ImageError as error:
        assert error.error_class == "unsupported", f"{kind}: {error}"
        return False
    want = kind.over_white()
    # Half a level for rounding, and once more where inks or alpha are rounded in between.
    slack = 1.51 if kind.extra or kind.photometric == "separated" else 0.51
    worst = np.abs(result - want).max() if result.shape == want.shape else np.inf
    assert worst <= slack, f"{kind}: off by {worst}"
    if kind.bits == 8 and not kind.extra and kind.planar == "contig" and not kind.bigtiff:
        by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.abs(by_pillow.astype(int) - result).max() <= 1, kind
    return True


# The kinds that people's programs write; they must be read, not refused.
def expected(kind: Kind) -> bool:
    if kind.compression in ("zstd", "lzma"):
        simple = kind.photometric == "minisblack" or (kind.photometric == "rgb" and kind.bits == 8)
        return simple and not kind.extra and not kind.bigtiff
    return "assocalpha" not in kind.extra or kind.photometric in ("minisblack", "rgb")


def check(some: list[Kind]) -> None:
    read = {kind: judged(kind) for kind in some}
    refused = [kind for kind, is_read in read.items() if not is_read and expected(kind)]
    assert not refused, f"{len(refused)} kinds refused, {refused[0]} for one"
    assert sum(read.values()) > len(some) / 2


def test_a_sample_of_the_kinds() -> None:
    rng = np.random.default_rng(11)
    check([kind for kind in kinds() if rng.random() < 0.08])


@pytest.mark.slow
def test_all_the_kinds() -> None:
    everything = list(kinds())
    assert len(everything) > 1000
    check(everything)
