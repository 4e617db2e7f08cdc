"""The report as a browser shows it: headless Chromium, where there is one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ncbatch.cli import main
from ncbatch.report.evaluation import evaluate
from ncbatch.store import Store
from tests.report.conftest import FIGURES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(run: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert main(["report", run.uri, "--out", str(folder), "--dataset", "kodak", "--reference", "map"]) == 0
    return folder


def test_figures_and_tables_are_files(page: Path, run: Store) -> None:
    for name in FIGURES:
        assert (page / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (page / "figures" / f"{name}.svg").read_bytes()[:1000]
    variants = (page / "tables" / "variants.csv").read_text().splitlines()
    assert len(variants) == 1 + len(evaluate(run).means) and variants[0].startswith("variant,method,model")
    rates = (page / "tables" / "bd_rates.csv").read_text()
    assert rates.startswith("series,reference,") and "\nsga,map," in rates


def test_the_page_is_whole_without_a_network(page: Path) -> None:
    text = (page / "index.html").read_text()
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_the_page_in_a_browser(page: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            tab = browser.new_page()
            complaints: list[str] = []
            tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on(
                "request",
                lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url),
            )
            tab.goto((page / "index.html").as_uri())
            for name in FIGURES:
                assert tab.locator(f"#{name} + figure img").evaluate(
                    "i => i.complete && i.naturalWidth > 100"
                )
            section = tab.locator(".comparison").first
            shown = section.locator(".whole img")
            assert shown.count() == 2 and all(
                shown.nth(n).evaluate("i => i.decode().then(() => i.naturalWidth)") >= 64 for n in (0, 1)
            )
            before = shown.nth(1).evaluate("i => getComputedStyle(i).clipPath")
            section.locator("input").evaluate(
                "r => { r.value = 20; r.dispatchEvent(new Event('input', {bubbles: true})) }"
            )
            after = shown.nth(1).evaluate("i => getComputedStyle(i).clipPath")
            assert before == "inset(0px 50% 0px 0px)" and after == "inset(0px 80% 0px 0px)"
            left = shown.nth(1).evaluate("i => i.src")
            section.locator("select.left").select_option(index=1)
            assert shown.nth(1).evaluate("i => i.src") != left
            assert complaints == []
        finally:
            browser.close()
