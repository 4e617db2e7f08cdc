"""Classical codecs as variants: the same units, rows, adoption and checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ncbatch import layout
from ncbatch.codec.methods import Jpeg
from ncbatch.decoding.run_reader import RunReader
from ncbatch.plan.spec import Variant
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, Workbench, make_image


def jpeg(quality: int = 60) -> Variant:
    return Variant(name="jpeg", recipe=Jpeg(quality=quality))


def test_rows_have_real_bytes_and_nothing_that_only_models_have(bench: Workbench) -> None:
    bench.add({"a.png": make_image(70, 50), "b.png": b"no image"})
    rows = bench.encode(bench.spec(jpeg()))
    row = rows["a.png"]
    assert rows["b.png"].status == "failed" and row.status == "ok"
    assert row.bitstream_key is not None and row.bitstream_key.endswith(".jpg")
    data = bench.output.get(row.bitstream_key)
    assert row.bpp == len(data) * 8 / (70 * 50) and row.length == len(data)
    assert row.psnr is not None and row.psnr > 25 and row.method == "jpeg"
    for name in ("model", "model_digest", "lmbda", "steps", "rd_loss", "information_bpp", "amortized_bpp"):
        assert getattr(row, name) is None, name
    assert [f.problem for f in RunReader(bench.output).verify()] == [None]


def test_what_an_earlier_attempt_published_is_adopted(bench: Workbench) -> None:
    bench.add({"a.png": make_image()})
    spec = bench.spec(jpeg())
    unit = bench.unit(spec)
    for attempt in ATTEMPTS[:2]:
        run_unit(bench.workspace(spec), unit, attempt, {})
        bench.output.delete(layout.unit_key(unit.id))
    run_unit(bench.workspace(spec), unit, ATTEMPTS[2], {})
    (row,) = bench.commit(unit)
    assert row.adopted and len(bench.keys(layout.BITSTREAMS_PREFIX)) == 1


def test_bytes_of_another_image_are_not_adopted(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1), "b.png": make_image(seed=2)})
    spec = local.spec(jpeg())
    local.encode(spec)
    unit = local.unit(spec)
    local.output.delete(layout.unit_key(unit.id))
    a, b = (layout.bitstream_key("jpeg", key, 0, suffix="jpg") for key in ("a.png", "b.png"))
    theirs = local.output.get(b)
    local.output.put(a, theirs)
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    rows = {row.image_key: row for row in local.commit(unit)}
    assert not rows["a.png"].adopted and rows["b.png"].adopted
    assert rows["a.png"].bitstream_key != a and local.output.get(a) == theirs
    assert all(finding.problem is None for finding in RunReader(local.output).verify())


@pytest.mark.parametrize("damage", [lambda data: data[:50], lambda data: b""])
def test_damaged_bytes_are_found(local: Workbench, damage: Callable[[bytes], bytes]) -> None:
    local.add({"a.png": make_image()})
    row = local.encode(local.spec(jpeg()))["a.png"]
    assert row.bitstream_key is not None
    local.output.put(row.bitstream_key, damage(local.output.get(row.bitstream_key)))
    (finding,) = RunReader(local.output).verify()
    assert finding.problem is not None and "its hash differs" in finding.problem
