"""The report on a bulk run: sums, failures, spreads and rankings against the table they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.synthetic_run import FAILURES, make_synthetic_run
from ncbatch.cli.main import main
from ncbatch.metrics.failures import failure_class
from ncbatch.metrics.schema import SCHEMA
from ncbatch.metrics.table import read_table
from ncbatch.report import distributions, rendering
from ncbatch.report.cards import cards
from ncbatch.report.distributions import LEVELS, read_distributions
from ncbatch.report.evaluation import evaluate
from ncbatch.report.figures import image_savings
from ncbatch.report.page import PageOptions, Report, build
from ncbatch.report.rankings import SHOWN, read_groups
from ncbatch.report.rows import Rows
from ncbatch.report.style import rendered
from ncbatch.report.throughput import idle_percent, read_throughput
from ncbatch.store import Store, open_store
from tests.browser import browser, complaints_of, fits, needs_chromium

IMAGES = 3_000


@pytest.fixture(scope="module")
def bulk(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("bulk")
    output = open_store(str(folder / "run"), create=True)
    make_synthetic_run(output, (folder / "images").as_uri() + "/", IMAGES)
    return output


@pytest.fixture(scope="module")
def table(bulk: Store) -> list[dict]:
    return read_table(bulk).to_pylist()


@pytest.fixture(scope="module")
def report(bulk: Store) -> Report:
    rows = Rows.of(bulk)
    return build(evaluate(bulk, rows), rows, bulk, options=PageOptions(price_per_hour=3.0))


def test_the_headline_is_the_sum_of_the_table(report: Report, table: list[dict]) -> None:
    ok = [row for row in table if row["status"] == "ok"]
    found = report.overview
    assert (found.images, found.ok, found.failed) == (IMAGES, len(ok), IMAGES - len(ok))
    assert found.amount.bytes_in == found.original_bytes == sum(row["image_bytes"] for row in ok)
    assert found.amount.bytes_out == sum(row["length"] for row in ok)
    assert found.device_seconds == pytest.approx(sum(row["device_seconds"] for row in ok))
    assert found.psnr == pytest.approx(sum(row["psnr"] for row in ok) / len(ok))
    shown = {card.title: card for card in cards(report)}
    assert shown["Images"].value == "3,000" and shown["Failed"].value == str(IMAGES - len(ok))
    saved = 100 * (1 - found.amount.bytes_out / found.amount.bytes_in)
    assert shown["Saved"].value == f"{saved:.1f} %"
    assert found.device_seconds is not None
    assert shown["Cost"].value == f"{found.device_seconds / 3600 * 3:,.2f}"


def test_failures_have_counts_examples_and_reasons(report: Report, table: list[dict]) -> None:
    counted = Counter(row["error_class"] for row in table if row["status"] == "failed")
    assert {found.name: found.count for found in report.failures} == counted
    assert [found.count for found in report.failures] == sorted(counted.values(), reverse=True)
    for found in report.failures:
        keys = sorted(row["image_key"] for row in table if row["error_class"] == found.name)
        assert [example.image_key for example in found.examples] == keys[:5]
        assert all(example.error == FAILURES[found.name] for example in found.examples)


def test_percentiles_of_very_many_rows_are_approximated(
    table: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rows.held(pa.Table.from_pylist(table, schema=SCHEMA)) as rows:
        exact = read_distributions(rows)
        monkeypatch.setattr(distributions, "EXACT_ROWS", len(table) - 1)
        about = read_distributions(rows)
    assert [found.quantity for found in about] == [found.quantity for found in exact]
    for one, other in zip(exact, about, strict=True):
        for spread, near in zip(one.spreads, other.spreads, strict=True):
            reach = 0.05 * (spread.highest - spread.lowest)
            assert near.percentiles == pytest.approx(spread.percentiles, abs=reach)
            assert near.mean == spread.mean


def test_spreads_are_percentiles_and_their_histograms_lose_nothing(report: Report, table: list[dict]) -> None:
    names = [found.quantity.name for found in report.distributions]
    assert names == ["bpp", "psnr", "ms_ssim", "seconds", "saved"]
    values = [row["bpp"] for row in table if row["status"] == "ok"]
    (spread,) = report.distributions[0].spreads
    assert (spread.count, spread.lowest, spread.highest) == (len(values), min(values), max(values))
    assert spread.percentiles[LEVELS.index(50)] == pytest.approx(median(values))
    assert list(spread.percentiles) == sorted(spread.percentiles)
    for found in report.distributions:
        assert found.histogram is not None
        assert sum(found.histogram.counts["sga"]) + found.histogram.outside == len(values)
        assert found.histogram.outside <= 0.02 * len(values)


def test_throughput_counts_every_encoded_image_once(report: Report, table: list[dict]) -> None:
    found = report.throughput
    assert found is not None
    by_host = Counter(row["host"] for row in table if row["status"] == "ok")
    assert {host: sum(counts) for host, counts in found.counts.items()} == by_host
    assert {host.name: host.ok for host in found.hosts} == by_host
    assert all(len(counts) == len(found.edges) - 1 for counts in found.counts.values())


def test_idle_is_what_workers_have_beside_what_their_devices_compute() -> None:
    """Two workers of one machine, a pause of an hour between two commands, a third worker elsewhere."""
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def row(host: str, attempt: str, begin: int, end: int, device: float | None) -> dict:
        return dict.fromkeys((f.name for f in SCHEMA), None) | {
            "image_key": f"{attempt}-{begin}", "image_etag": "", "image_bytes": 1, "variant": "v",
            "variant_digest": "", "status": "ok", "unit": attempt, "attempt": attempt, "generation": 0,
            "adopted": False, "host": host, "device_seconds": device, "width": 1, "height": 1,
            "started_at": start + timedelta(seconds=begin), "finished_at": start + timedelta(seconds=end),
        }  # fmt: skip

    rows = [
        row("a", "1", 0, 60, 50.0), row("a", "1", 30, 100, 40.0), row("a", "2", 0, 100, 80.0),
        row("a", "3", 100, 200, 90.0), row("a", "4", 100, 200, 40.0), row("a", "5", 3800, 3900, 80.0),
        row("b", "6", 0, 50, 50.0), row("c", "7", 0, 10, None),
    ]  # fmt: skip
    found = read_throughput(Rows.held(pa.Table.from_pylist(rows, SCHEMA)))
    assert found is not None
    hosts = {host.name: host for host in found.hosts}
    assert (hosts["a"].workers, hosts["a"].active_seconds) == (2, 300.0)
    assert hosts["a"].idle_percent == pytest.approx(100 * (1 - 380 / 600))
    assert (hosts["b"].workers, hosts["b"].idle_percent, hosts["c"].idle_percent) == (1, 0.0, None)
    assert idle_percent(found.hosts) == pytest.approx(100 * (1 - 430 / 650))


def test_the_cost_is_that_of_the_workers_and_what_it_saves_is_told(report: Report) -> None:
    found = replace(report, worker_seconds=36_000.0, storage_price=1000.0)
    shown = {card.title: card for card in cards(found)}
    assert shown["Cost"].value == "30.00" and "at 3 per hour of a worker" in shown["Cost"].note
    amount = found.overview.amount
    saved = (amount.bytes_in - amount.bytes_out) / 1e9 * 1000
    assert shown["Storage saved"].value == f"{saved:,.2f} a month"
    assert f"pays for the encoding in {30 / saved:.3g} months" in shown["Storage saved"].note
    assert found.throughput is not None and shown["Idle"].value.endswith(" %")


def test_rankings_are_the_ends_of_the_table(report: Report, table: list[dict]) -> None:
    ok = [row for row in table if row["status"] == "ok"]
    ends = {ranking.name: [row["image_key"] for row in ranking.rows] for ranking in report.rankings}
    assert all(len(keys) == SHOWN for keys in ends.values())
    by_psnr = [row["image_key"] for row in sorted(ok, key=lambda row: row["psnr"])]
    by_rate = [row["image_key"] for row in sorted(ok, key=lambda row: -row["bpp"])]
    assert ends["psnr"] == by_psnr[:SHOWN] and ends["best"] == by_psnr[: -SHOWN - 1 : -1]
    assert ends["bpp"] == by_rate[:SHOWN]


def test_the_gallery_is_of_the_worst_the_median_and_the_best(bulk: Store, table: list[dict]) -> None:
    ok = sorted((row for row in table if row["status"] == "ok"), key=lambda row: row["psnr"])
    keys = [row["image_key"] for row in ok]
    worst, middle, best = ([row["image_key"] for row in g.rows] for g in read_groups(Rows.of(bulk), "sga", 5))
    start = (len(keys) - 3) // 2
    assert (worst, middle, best) == (keys[:5], keys[start : start + 3], keys[-3:])


@pytest.mark.parametrize("worst", [1, 5, 8])
def test_a_gallery_of_few_images_shows_each_once(table: list[dict], worst: int) -> None:
    ok = [row for row in table if row["status"] == "ok"]
    others = (worst + 1) // 2
    for count in range(1, worst + 2 * others + 2):
        groups = read_groups(Rows.held(pa.Table.from_pylist(ok[:count], SCHEMA)), "sga", worst)
        shown = [row["image_key"] for group in groups for row in group.rows]
        assert len(set(shown)) == len(shown) == min(count, worst + 2 * others)
        assert (len(groups) == 1) == (count <= worst + 2 * others)


def test_names_of_images_are_no_formulas() -> None:
    rows = [{"image_key": key, "variant": "v", "saved": 1.0} for key in ("a$^{$.png", "$x_y$.png")]
    drawing = image_savings(rows)
    assert drawing is not None and rendered(drawing).png.startswith(b"\x89PNG")


def test_one_method_has_no_curve_of_one_point(report: Report) -> None:
    assert not {"rd_psnr", "rd_ms_ssim", "rate_savings", "rounding_probability"} & report.figures.keys()
    assert "bd_rates" not in report.tables


@pytest.fixture(scope="module")
def page(bulk: Store) -> Iterator[Path]:
    assert main(["report", bulk.uri, "--price-per-hour", "3", "--thumbnails", "0", "--images", "x"]) == 1
    assert main(["report", bulk.uri, "--price-per-hour", "3", "--no-pictures"]) == 0
    yield Path(bulk.uri.removeprefix("file://")) / "report"


def test_the_page_stands_in_the_run_and_tells_failures(page: Path) -> None:
    text = (page / "index.html").read_text()
    for name, reason in FAILURES.items():
        assert name.replace("_", " ") in text and reason.partition(";")[0] in text
        assert failure_class(name).remedy in text
    assert "R-D curves" not in text and "BD-rate" not in text and "relaxations" not in text
    assert 'href="../bitstreams/sga/' in text
    failed = (page / "tables" / "failures.csv").read_text().splitlines()
    assert len(failed) > 10 and "truncated" in "".join(failed)


@needs_chromium
def test_the_page_of_a_bulk_run_in_a_browser(page: Path) -> None:
    """On a telephone and on a wide screen, in light and dark; it fetches nothing, and nothing goes wrong."""
    with browser() as chromium:
        grounds = set()
        for scheme in ("light", "dark"):
            tab = chromium.new_page(color_scheme=scheme)
            complaints = complaints_of(tab, (page / "index.html").as_uri())
            tab.goto((page / "index.html").as_uri())
            assert fits(tab, 400) and fits(tab, 1400), scheme
            grounds.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            shown = "i => i.decode().then(() => i.naturalWidth)"
            for name in ("throughput", "spread_bpp", "spread_psnr", "spread_ms_ssim", "spread_seconds"):
                assert tab.locator(f"#{name} img").evaluate(shown) > 100
            assert complaints == []
            tab.close()
    assert len(grounds) == 2


def test_all_rows_lie_beside_the_page(page: Path, table: list[dict]) -> None:
    lines = (page / "tables" / "images.csv").read_text().splitlines()
    ok = [row for row in table if row["status"] == "ok"]
    assert len(lines) == 1 + len(ok) and ok[0]["image_key"] in lines[1]


def test_many_rows_are_a_parquet_file(bulk: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "ROWS_AS_CSV", 1_000)
    assert main(["report", bulk.uri, "--out", str(tmp_path), "--no-pictures"]) == 0
    found = pq.read_table(tmp_path / "tables" / "images.parquet")
    assert len(found) == sum(row["status"] == "ok" for row in read_table(bulk).to_pylist())
    assert (
        pc.min(found["psnr"]).as_py() > 0 and "tables/images.parquet" in (tmp_path / "index.html").read_text()
    )


def test_very_many_rows_are_left_in_the_table(
    bulk: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "ROWS_AS_CSV", 500)
    monkeypatch.setattr(rendering, "ROWS_AS_PARQUET", 1_000)
    assert main(["report", bulk.uri, "--out", str(tmp_path), "--no-pictures"]) == 0
    assert not (tmp_path / "tables" / "images.parquet").exists()
    assert "<code>ncbatch query</code> asks" in (tmp_path / "index.html").read_text()


@pytest.mark.slow
def test_the_page_does_not_grow_with_the_run(page: Path, tmp_path: Path) -> None:
    """What 100,000 rows were 33 MB for, and now are under 5: see benchmarks/report_page.py for the times."""
    output = open_store(str(tmp_path / "run"), create=True)
    make_synthetic_run(output, (tmp_path / "images").as_uri() + "/", 100_000, compacted=True)
    assert main(["report", output.uri, "--no-pictures"]) == 0
    large = (tmp_path / "run" / "report" / "index.html").stat().st_size
    assert large < 5_000_000 and large < 1.5 * (page / "index.html").stat().st_size


def test_a_run_of_which_everything_failed_is_reported(tmp_path: Path) -> None:
    output = open_store(str(tmp_path / "run"), create=True)
    make_synthetic_run(output, (tmp_path / "images").as_uri() + "/", 30, failed_share=1.0)
    assert main(["report", output.uri]) == 0
    text = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "What failed" in text and FAILURES["truncated"] in text and "tables/images" not in text
