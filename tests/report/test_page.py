"""The report as a browser shows it: headless Chromium, where there is one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from ncbatch.cli.main import main
from ncbatch.decoding.run_reader import RunReader
from ncbatch.report.comparisons import _opening
from ncbatch.report.evaluation import evaluate
from ncbatch.report.links import Links
from ncbatch.store import Store, open_store
from tests.browser import browser, complaints_of, fits, needs_chromium
from tests.report.conftest import FIGURES, REQUESTS, make_run
from tests.workbench import CHECKPOINT


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


def test_the_slider_opens_on_what_refinement_did() -> None:
    amortized = {"method": "amortized", "rd_loss": 1.0}
    refined = {"method": "sga", "rd_loss": 0.9}
    classical = {"method": "jpeg", "rd_loss": None}
    assert _opening([refined, classical, amortized], has_original=True) == (3, 1)
    assert _opening([refined, classical], has_original=True) == (0, 1)
    assert _opening([classical], has_original=False) == (0, 0)


def test_links_are_relative_and_quoted(tmp_path: Path) -> None:
    run, page = open_store(str(tmp_path / "a run"), create=True), open_store(str(tmp_path / "p"), create=True)
    links = Links(page, run)
    assert links.href("bitstreams/50%.ncb") == "../a%20run/bitstreams/50%25.ncb"
    run.put("caf\\xe9.png", b"")
    (name,) = (os.fsencode(path.name) for path in (tmp_path / "a run").iterdir())
    assert links.href("caf\\xe9.png") == f"../a%20run/{quote(name)}" == "../a%20run/caf%E9.png"
    assert Links(open_store(f"{run.uri}report", create=True), run).href("x") == "../x"
    assert Links(page, open_store("s3://bucket/run")).href("x") is None
    assert Links(open_store("s3://bucket/run/report"), open_store("s3://bucket/run")).href("x") == "../x"


def test_thumbnails_lie_in_the_page(page: Path) -> None:
    text = (page / "index.html").read_text()
    assert "All images, the lowest PSNR first" in text
    # Of each image whole and in part, original and decoded.
    assert text.count('src="data:image/jpeg;base64,') == 4 * 3


def test_originals_that_are_gone_leave_the_decoded_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = make_run(tmp_path, REQUESTS[:1])
    shutil.rmtree(tmp_path / "corpus")
    assert main(["report", output.uri]) == 0
    text = (tmp_path / "out" / "report" / "index.html").read_text()
    assert (
        text.count('src="data:image/jpeg;base64,') == 3
        and "no originals are shown" in capsys.readouterr().err
    )
    assert "Images at matched rates" not in text  # the one that is left would be beside itself
    assert "23,040 pixels" in text and "0 megapixels" not in text


def test_a_bitstream_that_is_gone_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = make_run(tmp_path, REQUESTS[:1])
    next((tmp_path / "out" / "bitstreams").rglob("1.png.ncb")).unlink()
    assert main(["report", output.uri]) == 0
    text = (tmp_path / "out" / "report" / "index.html").read_text()
    assert (
        text.count('src="data:image/jpeg;base64,') == 4 * 2
        and "1.png (sga-0.005) is not shown" in capsys.readouterr().err
    )


def _sorts(tab: Any) -> None:
    """A click on a heading sorts by numbers, the next one the other way round."""
    heading = tab.locator("#images_table th", has_text="PSNR")
    place = heading.evaluate("h => h.cellIndex")
    found = []
    for _ in range(2):
        heading.locator("button").click()
        rows = (
            f"[...document.querySelectorAll('#images_table tbody tr')].map(r => +r.cells[{place}].dataset.v)"
        )
        found.append(tab.evaluate(rows))
    assert found[0] == sorted(found[0], reverse=True) and found[1] == found[0][::-1]


@needs_chromium
def test_the_page_fits_every_width_in_light_and_dark(page: Path) -> None:
    grounds = {}
    with browser() as chromium:
        for scheme in ("light", "dark"):
            tab = chromium.new_page(color_scheme=scheme)
            tab.goto((page / "index.html").as_uri())
            for width in (400, 1280, 1400):
                assert fits(tab, width), (scheme, width)
            shown = tab.locator("#rd_psnr img").evaluate("i => i.currentSrc")
            grounds[scheme] = (tab.evaluate("getComputedStyle(document.body).backgroundColor"), shown)
            tab.close()
    assert all(light != dark for light, dark in zip(*grounds.values(), strict=True))


_DRAWN = """image => image.decode().then(() => {
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const canvas = Object.assign(document.createElement("canvas"), {width, height});
    canvas.getContext("2d").drawImage(image, 0, 0);
    return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
})"""


@needs_chromium
def test_the_page_decodes_bitstreams_itself(run: Store, tmp_path: Path) -> None:
    asked = ["report", run.uri, "--out", str(tmp_path), "--decode-in-browser", "--images", "1.png"]
    assert main([*asked, "--thumbnails", "0"]) == 0
    digest = CHECKPOINT.digest[:16]
    assert {path.name for path in (tmp_path / "images").iterdir() if path.suffix == ".js"} == {
        "ncb-decoder.js", f"{digest}.js",
    }  # fmt: skip
    with browser() as chromium:
        tab = chromium.new_page()
        complaints = complaints_of(tab, "file:", "blob:")
        tab.goto((tmp_path / "index.html").as_uri())
        section = tab.locator(".comparison")
        sides = json.loads(section.locator("script").text_content())
        coded = [place for place, side in enumerate(sides) if "file" in side]
        variants = [sides[place]["label"].partition(":")[0] for place in coded]
        assert len(coded) >= 2 and all(name.startswith(("sga-", "map-")) for name in variants)
        assert any(side["label"].startswith("jpeg") and "file" not in side for side in sides)
        assert not (tmp_path / "images" / f"0-{coded[0]}.png").exists()
        reader = RunReader(run)
        for place, variant in zip(coded, variants, strict=True):
            section.locator("select.left").select_option(index=place)
            image = section.locator(".whole img").nth(1)
            tab.wait_for_function("i => i.src.startsWith('blob:') && i.complete", arg=image.element_handle())
            width, height, data = image.evaluate(_DRAWN)
            shown = np.array(data, dtype=int).reshape(height, width, 4)[..., :3]
            difference = np.abs(shown - reader.image("1.png", variant))
            assert difference.max() <= 1 and (difference > 0).mean() < 0.001, variant
            assert section.locator(".zoom img").nth(1).evaluate("i => i.src").startswith("blob:")
        section.locator(".decoding").wait_for(state="hidden")
        assert complaints == [] and section.locator(".missing").is_hidden()
        shutil.rmtree(tmp_path / "images")
        tab.reload()
        section.locator(".missing").wait_for()


def test_no_images_are_decoded_in_a_page_without_them(run: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", run.uri, "--no-images", "--decode-in-browser"]) == 1
    assert "leave it out, or --decode-in-browser" in capsys.readouterr().err


@needs_chromium
def test_the_page_in_a_browser(page: Path) -> None:
    with browser() as chromium:
        tab = chromium.new_page()
        complaints = complaints_of(tab, "file:")
        tab.goto((page / "index.html").as_uri())
        for name in FIGURES:
            assert tab.locator(f"#{name} img").evaluate("i => i.complete && i.naturalWidth > 100")
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
        _sorts(tab)
        assert complaints == []
