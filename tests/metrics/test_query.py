import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ncbatch.metrics.errors import MetricsError
from ncbatch.metrics.query import query
from ncbatch.metrics.schema import SCHEMA
from ncbatch.metrics.summary import Summary, summarise
from ncbatch.metrics.table import read_table
from ncbatch.store import Store

Commit = Callable[..., None]


def test_query(store: Store, commit: Commit) -> None:
    commit("u1", "a.png", bpp=0.25)
    commit("u2", "b.png", bpp=0.75)
    commit("u3", "a.png", bpp=0.5, generation=1)
    table = query(store, "select image_key, bpp, psnr from metrics order by bpp desc limit 5")
    assert table.to_pylist() == [
        {"image_key": "b.png", "bpp": 0.75, "psnr": 32.0},
        {"image_key": "a.png", "bpp": 0.5, "psnr": 32.0},
    ]
    assert query(store, "from metrics").column_names == SCHEMA.names
    assert query(store, "select count(*) as n from metrics where status = 'failed'")["n"].to_pylist() == [0]


def test_times_are_in_utc_wherever_one_asks(store: Store, commit: Commit) -> None:
    commit("u1", "a.png", finished_at=datetime(2026, 1, 2, 3, tzinfo=timezone.utc))
    sql = "select finished_at, hour(finished_at) as hour from metrics"
    asked = f"""
from ncbatch.metrics.query import opened_rows
import pyarrow.parquet as pq, sys
with opened_rows(pq.read_table(sys.argv[1])) as opened:
    ((time, hour),) = [row.values() for row in opened.query({sql!r}).to_pylist()]
print(time.isoformat(), hour)
"""
    (file,) = (store.root / "units").rglob("*.parquet")  # type: ignore[attr-defined]
    environment = {**os.environ, "TZ": "Asia/Kolkata"}
    command = (sys.executable, "-c", asked, str(file))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2026-01-02T03:00:00+00:00", "3"]


def test_query_before_the_first_commit(store: Store) -> None:
    assert query(store, "select count(*) as n, avg(bpp) as bpp from metrics").to_pylist() == [
        {"n": 0, "bpp": None}
    ]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("selec image_key from metrics", "syntax error"),
        ("select bitrate from metrics", "bitrate.*the columns of metrics are image_key, .*torch_version"),
        ("select * from runs", "the only table is metrics"),
        ("select upper(bpp, 3) from metrics", "upper"),
        ("select * from metrics where bpp > 'much'", "much"),
        ("", "no rows"),
        ("select 1; select 2", "several statements"),
    ],
)
def test_bad_sql_is_explained_in_one_line(store: Store, commit: Commit, sql: str, message: str) -> None:
    commit("u1", "a.png")
    with pytest.raises(MetricsError, match=message) as caught:
        query(store, sql)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


def test_a_query_sees_the_table_and_nothing_else(store: Store, commit: Commit, tmp_path: Path) -> None:
    commit("u1", "a.png")
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    rows = read_table(store)  # a Python variable that DuckDB would find by its name
    assert len(rows) == 1
    for sql in (
        f"select * from '{secret}'",
        f"select * from read_csv('{secret}')",
        f"select * from read_text('{secret}')",
        f"copy metrics to '{tmp_path / 'copy.csv'}'",
        f"attach '{tmp_path / 'db'}' as db; select 1",
        f"export database '{tmp_path / 'all'}'",
        "set enable_external_access = true; select 1",
        "install httpfs",
        "select * from rows",
        "select * from SCHEMA",
    ):
        with pytest.raises(MetricsError):
            query(store, sql)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "secret.csv"]


def test_summary(store: Store, commit: Commit) -> None:
    commit("u1", "a.png", "b.png", bpp=0.25, psnr=30.0)
    commit("u2", "c.png", bpp=1.0, psnr=float("inf"), length=400)
    commit("u3", "d.png", status="failed", error_class="empty", bpp=None, psnr=None, length=None)
    summary = summarise(store)
    assert summary == Summary(
        ok=3, failed=1, mean_bpp=0.5, mean_psnr=30.0, image_bytes=3000, bitstream_bytes=600
    )


def test_summary_of_nothing(store: Store) -> None:
    assert summarise(store) == Summary(0, 0, None, None, 0, 0)
