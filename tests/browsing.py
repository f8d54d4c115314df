"""Chromium on the real page: how it is started, how a page is opened, watched and pictured."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ARTIFACTS = Path(os.environ.get("CHATS_TEST_ARTIFACTS", "test-artifacts"))
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
MEDIUM = {"width": 1024, "height": 768}
PATIENCE_MS = 120_000


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run the browser; what a test expects of a page may take `PATIENCE_MS`."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield running
        running.close()


@contextlib.contextmanager
def visit(browser: Browser, url: str, problems: list[str] | None = None) -> Iterator[Page]:
    """Open a page; at the end it must have logged no error and asked no other host for anything.

    Gradio logs the streams that leaving a page cuts off: a test that leaves one hands in
    `problems` and clears it.
    """
    problems = [] if problems is None else problems
    context = browser.new_context(viewport=WIDE, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: said.type == "error" and problems.append(said.text))
    page.on("request", lambda asked: _is_outside(asked.url, url) and problems.append(asked.url))
    page.goto(url)
    yield page
    seen = list(problems)
    context.close()
    assert seen == []


def keep(page: Page, name: str) -> None:
    """Leave a picture of the whole page for people to look at, and see that nothing overflows."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]


def _is_outside(asked: str, url: str) -> bool:
    return not asked.startswith((url, "data:", "blob:"))
