"""The line that shows a run's progress."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from ncbatch.cli.progress_line import progress_line
from ncbatch.driver.progress import Snapshot, VariantCount
from ncbatch.words import counted


def snapshot(**fields: Any) -> Snapshot:
    known = {
        "state": "running", "images": 6, "ok": 1, "pending": 5, "fraction": 0.374, "eta_seconds": 175.2,
        "workers": 2, "elapsed_seconds": 30.1, "mean_bpp": 0.44, "mean_psnr": 32.11,
        "images_per_second": 0.033,
    }  # fmt: skip
    return Snapshot(updated_at=datetime.now(timezone.utc), **(known | fields))


def test_what_matters_fits_beside_the_time_on_80_columns() -> None:
    assert progress_line(snapshot()) == "1/6 images, 37 % | ETA 2 min 55 s | 2 workers, 30 s"
    over = snapshot(state="finished", ok=6, pending=0, fraction=1.0, eta_seconds=0.0)
    assert progress_line(over) == "finished: 6/6 images | 2 workers, 30 s | 0.440 bpp, 32.11 dB"


def test_a_forecast_of_no_time_at_all_is_not_shown() -> None:
    assert progress_line(snapshot(fraction=0.0, eta_seconds=0.2)) == (
        "1/6 images, 0 % | 2 workers, 30 s | 0.440 bpp, 32.11 dB"
    )


def test_more_fits_on_a_wider_terminal() -> None:
    assert progress_line(snapshot(), 80) == (
        "1/6 images, 37 % | ETA 2 min 55 s | 2 workers, 30 s | 0.440 bpp, 32.11 dB"
    )
    assert progress_line(snapshot(), 120).endswith(" | 0.440 bpp, 32.11 dB | 0.033 images/s")


@pytest.mark.parametrize("width", [71, 80])
@pytest.mark.parametrize("state", ["running", "finishing", "interrupted"])
def test_a_large_run_fits_as_well(width: int, state: str) -> None:
    large = snapshot(
        state=state, images=1_234_567, ok=123_456, failed=7_890, workers=1024, eta_seconds=1e6,
        elapsed_seconds=1e6, images_per_second=123.4,
    )  # fmt: skip
    line = progress_line(large, width)
    assert len(line) <= width
    assert "131346/1234567 images" in line and "7890 failed" in line


def test_the_number_of_workers_gives_way_before_the_time() -> None:
    hurt = snapshot(images=123_456, ok=12_345, failed=7_890, elapsed_seconds=1e5, images_per_second=None)
    assert progress_line(hurt).endswith(" | 7890 failed | ETA 2 min 55 s | 27 h 46 min")
    assert progress_line(hurt, 60).endswith(" | 7890 failed | ETA 2 min 55 s")


def test_numbers_agree_with_their_nouns() -> None:
    assert counted(1, "workers") == "1 worker"
    assert counted(0, "images") == "0 images"
    assert " | 1 worker, " in progress_line(snapshot(workers=1))


def test_several_variants_encode_images_into_encodings() -> None:
    variants = tuple(VariantCount(name=name, images=3) for name in ("jpeg", "sga"))
    line = progress_line(snapshot(variants=variants, mean_bpp=None, mean_psnr=None))
    assert line.startswith("1/6 encodings, 37 %")
