"""Runs whose rows were written under earlier versions of the schema: they are read, and go on.

`earlier_runs/schema-<n>/` are whole outputs of two images and a file that is none, as ncbatch wrote them when
its schema had version n.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from ncbatch.decoding.run_reader import RunReader
from ncbatch.metrics.compact import compact
from ncbatch.metrics.failures import failures_of
from ncbatch.metrics.query import query
from ncbatch.metrics.schema import _SINCE, SCHEMA, SCHEMA_VERSION
from ncbatch.metrics.table import read_table
from ncbatch.plan.commits import Commits
from ncbatch.plan.corpus import Listing
from ncbatch.plan.run import Later, load_run, open_run
from ncbatch.plan.spec import read_run
from ncbatch.plan.status import run_status
from ncbatch.plan.units import PlannedImage
from ncbatch.store import LocalStore, open_store
from ncbatch.worker.unit import run_unit
from tests.workbench import ATTEMPTS, Workbench, make_image

EARLIER = Path(__file__).parent / "earlier_runs"
VERSIONS = range(1, SCHEMA_VERSION)


@pytest.fixture(params=VERSIONS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> LocalStore:
    return LocalStore(Path(shutil.copytree(EARLIER / f"schema-{request.param}", tmp_path / "run")))


def _version(output: LocalStore) -> int:
    (folder,) = [v for v in VERSIONS if set(_files(EARLIER / f"schema-{v}")) <= set(_files(output.root))]
    return folder


def _files(folder: Path) -> list[tuple[str, bytes]]:
    return [(str(p.relative_to(folder)), p.read_bytes()) for p in folder.rglob("*") if p.is_file()]


def test_every_earlier_version_has_a_run() -> None:
    assert sorted(p.name for p in EARLIER.iterdir()) == [f"schema-{v}" for v in VERSIONS]


def test_its_rows_are_read(output: LocalStore) -> None:
    table = read_table(output)
    assert table.schema.equals(SCHEMA)
    version = _version(output)
    for name, since in _SINCE.items():
        assert since <= version or table[name].null_count == 3
    assert table["status"].to_pylist() == ["ok", "ok", "failed"]
    assert query(output, "select count(*), sum(length) from metrics where bpp > 0").to_pylist()[0] == {
        "count_star()": 2, "sum(length)": 941,
    }  # fmt: skip
    assert [(f.name, f.count) for f in failures_of(output, 1)] == [("unreadable", 1)]
    status = run_status(output)
    assert (status.images, status.pending, status.summary.ok) == (3, 0, 2)
    assert [finding.problem for finding in RunReader(output).verify()] == [None, None]


def test_it_goes_on_in_rows_of_today_beside_the_earlier_ones(output: LocalStore, tmp_path: Path) -> None:
    planned = [image for unit in load_run(output).units for image in unit.images]
    corpus = open_store(str(tmp_path / "photos"), create=True)
    bench = Workbench(corpus, output, create_only=True)
    bench.add({"new.png": make_image(seed=5)})
    (new,) = corpus.list()
    listing = Listing([*planned, PlannedImage(new.key, new.etag, new.size)])
    stored = read_run(output)
    run = open_run(stored.spec, listing, output, lambda *_: 10**9, Later(), stored=stored)
    (unit,) = run.pending
    run_unit(bench.workspace(stored.spec), unit, ATTEMPTS[0], {})
    assert {key: row.status for key, row in bench.rows().items()} == {
        "a.png": "ok", "b.png": "ok", "bad.png": "failed", "new.png": "ok",
    }  # fmt: skip
    before = read_table(output)
    assert compact(output).rows == 4
    assert read_table(output).equals(before)
    hashes = before["image_sha256"].to_pylist()
    assert all(hashes[:3]) == (_version(output) >= 3) and hashes[3] == bench.rows()["new.png"].image_sha256
    assert pc.all(pc.equal(before["generation"][:3], 0)).as_py()
    assert load_run(output).pending == [] and len(Commits(output).units) == 4
