from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ncbatch.layout import unit_key
from ncbatch.metrics.schema import Row, rows_to_parquet
from ncbatch.store import Store, open_store


def a_row(image_key: str = "a.png", **values: object) -> Row:
    """An ok row with a value in most columns, changed by `values`."""
    usual: dict[str, object] = {
        "image_etag": "e1",
        "image_bytes": 1000,
        "width": 768,
        "height": 512,
        "variant": "sga",
        "variant_digest": "d" * 16,
        "lmbda": 0.01,
        "steps": 2000,
        "status": "ok",
        "bpp": 0.5,
        "psnr": 32.0,
        "length": 100,
        "unit": "u0",
        "attempt": "a0",
        "generation": 0,
        "adopted": False,
        "started_at": datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=timezone.utc),
    }
    return Row(image_key=image_key, **(usual | values))  # type: ignore[arg-type]


@pytest.fixture
def make_row() -> Callable[..., Row]:
    return a_row


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"), create=True)


@pytest.fixture
def commit(store: Store) -> Callable[..., None]:
    """Commit a unit that holds the given images."""

    def commit_unit(unit: str, *image_keys: str, **values: object) -> None:
        rows = [a_row(key, unit=unit, **values) for key in image_keys]
        assert store.put_if_absent(unit_key(unit), rows_to_parquet(rows))

    return commit_unit
