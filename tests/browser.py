"""Pages as a browser shows them: headless Chromium, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
_FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, under Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS)
        try:
            yield opened
        finally:
            opened.close()


def complaints_of(tab: Any, *own: str) -> list[str]:
    """What goes wrong in a tab from now on: errors, warnings, and requests for what is not the page's own.

    own: what the addresses of its own things begin with.
    """
    found: list[str] = []
    tab.on("console", lambda m: found.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: found.append(str(error)))
    tab.on("request", lambda r: None if r.url.startswith((*own, "data:")) else found.append(r.url))
    return found


def fits(tab: Any, width: int) -> bool:
    """Whether a page fits into a window of so many pixels, without anything that sticks out."""
    tab.set_viewport_size({"width": width, "height": 900})
    return bool(tab.evaluate(_FITS))
