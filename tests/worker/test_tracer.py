"""Traces: how refinements went, in a side table."""

from __future__ import annotations

from typing import Any

import pytest

from ncbatch import layout
from ncbatch.codec.methods import LEARNED
from ncbatch.metrics.traces import read_traces
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant, sga


def traced(bench: Workbench, method: str = "sga", every: int = 20, steps: int = 60) -> list[dict]:
    bench.add({"a.png": make_image(seed=1), "b.png": make_image(90, 70, seed=2)})
    recipe = LEARNED[method].model_validate({"steps": steps, "lmbda": 0.01})
    bench.encode(bench.spec(make_variant(recipe)), trace_every=every, batch_size=2)
    return read_traces(bench.output).to_pylist()


def test_a_trace_goes_from_the_amortized_latents_to_the_last_step(bench: Workbench) -> None:
    looks = traced(bench)
    assert [(k["image_key"], k["step"]) for k in looks] == [
        (key, step) for key in ("a.png", "b.png") for step in (0, 20, 40, 60)
    ]
    rows = bench.rows()
    for first, last in ((looks[0], looks[3]), (looks[4], looks[7])):
        row = rows[first["image_key"]]
        # By the loop's bfloat16 g_s and without the file's header.
        assert first["psnr"] == pytest.approx(row.amortized_psnr, abs=0.1)
        assert first["rd_loss"] == pytest.approx(row.amortized_rd_loss, rel=0.05)
        assert last["rd_loss"] < first["rd_loss"] and (first["tau"], last["tau"]) == (
            0.5,
            pytest.approx(0.136, abs=1e-3),
        )


def test_methods_without_temperature_have_none(local: Workbench) -> None:
    assert {look["tau"] for look in traced(local, "map")} == {None}


def test_nothing_is_traced_unless_asked_for(local: Workbench) -> None:
    assert traced(local, every=0) == [] and local.keys(layout.TRACES_PREFIX) == []


def test_tracing_changes_no_byte_and_an_interrupted_trace_goes_on(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.add({"a.png": make_image(seed=3)})
    spec = local.spec(make_variant(sga(60)))
    unit = local.unit(spec)
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    plain = local.bitstream(local.rows()["a.png"])
    for key in local.keys(""):
        if key.startswith((layout.UNITS_PREFIX, layout.BITSTREAMS_PREFIX)):
            local.output.delete(key)

    put = type(local.output).put

    def put_and_die(self: Any, key: str, data: bytes) -> None:
        put(self, key, data)
        if key.startswith("wip/") and len(saved) < 3:
            saved.append(key)
            if len(saved) == 3:
                raise ConnectionError("the worker is gone")

    saved: list[str] = []
    monkeypatch.setattr(type(local.output), "put", put_and_die)
    with pytest.raises(ConnectionError):
        run_unit(local.workspace(spec, trace_every=20, wip_seconds=0), unit, ATTEMPTS[1], {})
    run_unit(local.workspace(spec, trace_every=20), unit, ATTEMPTS[2], {})
    assert [look["step"] for look in read_traces(local.output).to_pylist()] == [0, 20, 40, 60]
    assert local.bitstream(local.rows()["a.png"]) == plain
