"""True sizes go into the plan, so that units, forecasts and deadlines count pixels that are there."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from ncbatch.cli.main import main
from ncbatch.driver.driver import SpeedEstimate
from ncbatch.plan.corpus import list_corpus
from ncbatch.plan.run import Later, Run, list_inputs, open_run
from ncbatch.plan.scan import Scan
from ncbatch.plan.spec import find_run
from ncbatch.plan.units import PlannedImage
from ncbatch.store import AccessDenied, LocalStore, Store, StoreOptions, StoreUnavailable
from tests.driver.test_requests import _without_ray as without_ray  # noqa: F401 - a fixture
from tests.driver.test_requests import encode
from tests.workbench import Workbench, encoded_as, make_image

MOST = 10**8


def planned(bench: Workbench, *, scan: bool = True) -> Run:
    spec = bench.spec()
    listing = list_inputs(spec, bench.corpus, StoreOptions(), bench.output)
    return open_run(
        spec, listing, bench.output, lambda *_: 40_000, Later(),
        scan=Scan(bench.corpus, MOST) if scan else None, stored=find_run(bench.output),
    )  # fmt: skip


def sizes(run: Run) -> dict[str, tuple[int | None, int | None]]:
    return {image.key: (image.width, image.height) for unit in run.units for image in unit.images}


def fill(bench: Workbench) -> None:
    bench.add(
        {
            "a.png": make_image(80, 64),
            "b.webp": encoded_as(make_image(96, 48), "WEBP", quality=20),
            "c.jpg": encoded_as(make_image(100, 50), "JPEG"),
            "empty.png": b"",
            "text.png": b"no image",
        }
    )


def test_a_plan_has_the_sizes_that_headers_tell(bench: Workbench) -> None:
    fill(bench)
    first = planned(bench)
    nothing = (None, None)
    expected = {"a.png": (80, 64), "b.webp": (96, 48), "c.jpg": (100, 50)}
    assert sizes(first) == expected | {"empty.png": nothing, "text.png": nothing}
    assert sizes(planned(bench, scan=False)) == sizes(first), "it stands in the plan"
    bench.add({"d.png": make_image(33, 44)})
    assert sizes(planned(bench))["d.png"] == (33, 44)


def test_without_a_scan_sizes_are_those_of_the_manifest_or_none(local: Workbench) -> None:
    fill(local)
    assert set(sizes(planned(local, scan=False)).values()) == {(None, None)}


def test_units_are_cut_by_true_pixels(local: Workbench) -> None:
    """Small files of many pixels: by bytes, all would be in one unit."""
    local.add(
        {f"{n}.webp": encoded_as(make_image(200, 200, seed=0)[:1].repeat(200, 0), "WEBP") for n in range(8)}
    )
    run = planned(local)
    assert [len(unit.images) for unit in run.units] == [1] * 8
    assert [unit.pixels for unit in run.units] == [40_000] * 8


def test_a_webp_corpus_is_expected_to_take_what_it_takes(local: Workbench) -> None:
    """Guesses were three to four times too low, and a deadline is four times what is expected."""
    local.add({"a.webp": encoded_as(make_image(512, 512)[::8].repeat(8, 0), "WEBP", quality=10)})
    (image,) = list_corpus(local.corpus).images
    assert image.pixels < 512 * 512 / 4
    (unit,) = planned(local).units
    assert SpeedEstimate({"v": 1e-3}).expected(unit) == pytest.approx(512 * 512 * 1e-3)


def test_each_image_is_read_once_and_known_sizes_are_not_read(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(local)
    read: list[str] = []
    get_range, lock = LocalStore.get_range, threading.Lock()

    def noted(store: LocalStore, key: str, start: int, length: int) -> bytes:
        with lock:
            read.append(key)
        return get_range(store, key, start, length)

    monkeypatch.setattr(LocalStore, "get_range", noted)
    listed = list_corpus(local.corpus).images
    known = PlannedImage("known.png", "e", 5, 7, 8)
    found = Scan(local.corpus, MOST).of({"v": [*listed, known], "w": listed})
    assert sorted(read) == ["a.png", "b.webp", "c.jpg", "text.png"]
    assert found["v"][-1] == known and found["v"][:-1] == found["w"]
    assert [image.etag for image in found["w"]] == [image.etag for image in listed]


def test_what_no_variant_takes_is_not_planned_by(local: Workbench) -> None:
    local.add({"a.png": make_image(80, 64)})
    listed = list_corpus(local.corpus).images
    (image,) = Scan(local.corpus, 80 * 64 - 1).of({"v": listed})["v"]
    assert image == listed[0], "it is refused when it is opened, which takes no time"
    (image,) = Scan(local.corpus, 80 * 64).of({"v": listed})["v"]
    assert (image.width, image.height) == (80, 64)


class Closed(LocalStore):
    """Refuses one key; or is away."""

    def __init__(self, store: Store, error: Exception) -> None:
        assert isinstance(store, LocalStore)
        super().__init__(store.root)
        self._trouble = error

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if key == "a.png":
            raise self._trouble
        return super().get_range(key, start, length)


def test_a_header_that_cannot_be_read_leaves_the_size_unknown(local: Workbench) -> None:
    fill(local)
    listed = {"v": list_corpus(local.corpus).images}
    found = Scan(Closed(local.corpus, AccessDenied("closed")), MOST).of(listed)["v"]
    assert [(image.key, image.width) for image in found][:2] == [("a.png", None), ("b.webp", 96)]
    with pytest.raises(StoreUnavailable):
        Scan(Closed(local.corpus, StoreUnavailable("away")), MOST).of(listed)


def test_progress_is_told(
    local: Workbench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncbatch.plan.progress_log._LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    local.add({f"{n}.png": make_image(seed=n) for n in range(3)})
    planned(local)
    assert "reading the headers of 3 images, for sizes" in caplog.messages
    assert "read the headers of 2 of 3" in caplog.messages


@pytest.mark.usefixtures("without_ray")
def test_a_run_scans_unless_it_is_told_not_to(local: Workbench) -> None:
    local.add({"a.png": make_image(80, 64)})
    encode(local, local.spec())
    assert sizes(planned(local, scan=False)) == {"a.png": (80, 64)}


def test_a_dry_run_scans_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for n in range(4):
        data = encoded_as(make_image(512, 256, seed=n)[::8].repeat(8, 0), "WEBP", quality=10)
        (tmp_path / "in" / f"{n}.webp").write_bytes(data)
    words = ("encode", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "jpeg", "--quality", "50")

    def written(*flags: str) -> float:
        assert main([*words, "--dry-run", *flags]) == 0
        output = capsys.readouterr().out.splitlines()[-1].rpartition(", ")[2].split()
        return float(output[0]) * {"B": 1, "kB": 1000}[output[1]]

    assert written() > 4 * written("--no-scan")
