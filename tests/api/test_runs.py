"""The Python API for runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

import ncbatch
from ncbatch.codec.decode import decode
from ncbatch.metrics.schema import SCHEMA
from ncbatch.models.loading import keep_model
from ncbatch.worker.unit import run_unit
from tests.end_to_end.command_line import ROOT, environment
from tests.workbench import ATTEMPTS, CHECKPOINT, MODEL, Workbench, make_image, make_variant


def encoded(bench: Workbench, *names: str) -> None:
    """A run of one or several variants, each of all images of the corpus."""
    spec = bench.spec(*(make_variant(name=name) for name in names))
    keep_model(bench.output, CHECKPOINT)
    run = bench.open(spec)
    for unit, attempt in zip(run.pending, ATTEMPTS, strict=False):
        run_unit(bench.workspace(spec), unit, attempt, {})


def test_a_runs_table_and_images(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1), "b.png": make_image(48, 80, seed=2), "bad.png": b"none"})
    encoded(local, "v")
    run = ncbatch.open_run(local.output.uri)
    assert (run.uri, run.variants) == (local.output.uri, ("v",))

    table = run.table()
    assert table.schema.names == SCHEMA.names
    assert table["image_key"].to_pylist() == ["a.png", "b.png", "bad.png"]
    assert run.table(["bpp", "status"]).column_names == ["bpp", "status"]
    (failed,) = run.relation().filter("status = 'failed'").project("image_key, error_class").fetchall()
    assert failed == ("bad.png", "unreadable")
    with duckdb.connect() as connection:
        assert run.relation(connection).aggregate("count(*)").fetchall() == [(3,)]

    key = local.rows()["b.png"].bitstream_key
    assert key is not None
    assert np.array_equal(run.image("b.png"), decode(MODEL, local.output.get(key)))
    with pytest.raises(ncbatch.NcbatchError, match=r"bad.png failed under v; the column `error`"):
        run.image("bad.png")
    with pytest.raises(ncbatch.NcbatchError, match=r"the run has no row of 'c.png'; the column"):
        run.image("c.png")
    with pytest.raises(ncbatch.NcbatchError, match="nope"):
        run.table(["nope"])


def test_a_query_gives_arrow_and_sees_the_table_only(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1), "b.png": b"none"})
    encoded(local, "v")
    run = ncbatch.open_run(local.output.uri)
    found = run.query("select status, count(*) as images from metrics group by status order by status")
    assert found.to_pydict() == {"status": ["failed", "ok"], "images": [1, 1]}
    with pytest.raises(ncbatch.NcbatchError, match="correct the SQL"):
        run.query("select")
    with pytest.raises(ncbatch.NcbatchError):
        run.query("select * from read_csv('/etc/passwd')")


def test_an_image_that_is_encoded_later_is_found(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1)})
    encoded(local, "v")
    run = ncbatch.open_run(local.output.uri)
    run.image("a.png")
    local.add({"b.png": make_image(seed=2)})
    encoded(local, "v")
    assert run.image("b.png").shape == (64, 64, 3)


def test_of_several_variants_one_has_to_be_named(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1)})
    encoded(local, "v", "w")
    run = ncbatch.open_run(local.output.uri)
    assert run.variants == ("v", "w")
    with pytest.raises(ncbatch.NcbatchError, match="several variants; name one: v, w"):
        run.image("a.png")
    assert np.array_equal(run.image("a.png", "v"), run.image("a.png", variant="w"))
    with pytest.raises(ncbatch.NcbatchError, match="under the variant 'x'"):
        run.image("a.png", "x")


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ncbatch.NcbatchError, match="holds no run"):
        ncbatch.open_run(tmp_path)
    with pytest.raises(ncbatch.NcbatchError, match="does not exist"):
        ncbatch.open_run(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="uri: not a path or URI but NoneType; give text or a Path"):
        ncbatch.open_run(None)  # type: ignore[arg-type]
    with pytest.raises(ncbatch.NcbatchError, match="there is no 'payer'"):
        ncbatch.open_run(tmp_path, storage_options={"payer": "me"})


def test_a_key_that_is_not_there_is_told_from_one_that_is_to_come(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1)})
    encoded(local, "v")
    run = ncbatch.open_run(local.output.uri)
    with pytest.raises(ncbatch.NcbatchError, match=r"no row of 'b\.png'; the column `image_key`"):
        run.image("b.png")
    local.add({"b.png": make_image(seed=2)})
    local.open(local.spec(make_variant()))
    with pytest.raises(ncbatch.NcbatchError, match=r"no row of 'b\.png' yet; it is still to be encoded"):
        run.image("b.png")


def test_importing_ncbatch_loads_nothing_heavy_and_a_table_needs_no_torch(local: Workbench) -> None:
    local.add({"a.png": make_image(seed=1)})
    encoded(local, "v")
    program = (
        "import sys, ncbatch; print('torch' in sys.modules, 'pyarrow' in sys.modules);"
        f"print(len(ncbatch.open_run({local.output.uri!r}).table()), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.split() == ["False", "False", "1", "False"], done.stderr


def test_the_public_names_are_all_there() -> None:
    for name in ncbatch.__all__:
        assert getattr(ncbatch, name) is not None
        assert name in dir(ncbatch)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        ncbatch.nope  # noqa: B018
