"""Reports as a reader's browser shows them: headless Chromium, on a desk and on a phone."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # the environment of vLLM, whose tests read the same conftest.py, has no Playwright
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What a container without a user of its own needs, and no calls to the browser's maker.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
PHONE, DESK = 390, 1280

LEAVES_THE_PAGE = """width => [...document.querySelectorAll("body *")]
    .filter(element => !element.closest(".scroll") && element.getBoundingClientRect().right > width + 0.5)
    .map(element => element.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    found = os.environ.get("LLMEMB_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(f"no {' or '.join(BROWSERS)}: apt-get install chromium, or name a browser in LLMEMB_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def troubles() -> list[str]:
    """What went wrong while a page was shown."""
    return []


def show(browser: "Browser", report: Path, *, width: int, dark: bool, troubles: list[str]) -> "Page":
    """Opens the report with all of its details, and notes errors and everything that it fetches."""
    scheme: Any = "dark" if dark else "light"
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
    page.on("console", lambda message: troubles.append(f"console: {message.text}"))
    page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: request.url.startswith("data:") or troubles.append(f"fetched: {request.url}"))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    return page


def check_fits(
    browser: "Browser", report: Path, *, width: int, dark: bool, troubles: list[str], num_pictures: int
) -> None:
    """Nothing leaves the page, goes wrong, is fetched or run; the pictures are there, and in the file itself."""
    page = show(browser, report, width=width, dark=dark, troubles=troubles)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(LEAVES_THE_PAGE, width) == []
    assert troubles == [f"fetched: {report.as_uri()}"]
    assert page.evaluate("document.scripts.length") == 0
    pictures = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.currentSrc.slice(0, 19)])")
    assert len(pictures) == num_pictures
    assert all(size > 0 and source == "data:image/svg+xml;" for size, source in pictures)
    page.close()
