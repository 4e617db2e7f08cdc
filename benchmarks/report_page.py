"""Seconds and bytes that the report on a large run takes, and how long a browser takes to open it.

    python -m benchmarks.report_page                      # 100,000 images
    python -m benchmarks.report_page --images 1000000 --keep FOLDER

The run is a synthetic one without images. The page is loaded by headless Chromium, where there is one.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.synthetic_run import make_synthetic_run
from ncbatch.cli.main import main as ncbatch
from ncbatch.store import open_store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--compacted", action="store_true", help="merge the commits first")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="where the run and its report stay")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        output = folder / "run"
        if not (output / "run.json").exists():
            store = open_store(str(output), create=True)
            make_synthetic_run(
                store, (folder / "images").as_uri() + "/", args.images, compacted=args.compacted
            )
        begin = time.perf_counter()
        code = ncbatch(["report", str(output), "--price-per-hour", "2.5", "--no-images"])
        print(f"report: {time.perf_counter() - begin:.1f} s, exit code {code}")
        page = output / "report" / "index.html"
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")
        print(f"load: {_load(page)}")


def _load(page: Path) -> str:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return "playwright is not installed"
    if CHROMIUM is None:
        return "no Chromium on this machine: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        begin = time.perf_counter()
        tab.goto(page.as_uri())
        seconds = time.perf_counter() - begin
        browser.close()
    return f"{seconds:.2f} s"


if __name__ == "__main__":
    main()
