"""A headless Chromium, and what a page in it says and asks for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""Of the system's browser; without one, Playwright's own is taken."""

# Nothing that the browser does for itself, such as looking for updates, is to touch the network.
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

PATIENCE = 60_000
"""Milliseconds to wait for what a busy machine is slow to show, before a test fails."""


@dataclass
class Visit:
    """A page in a browser without a network.

    ``requests`` are all that it asked for, itself among them; ``problems`` are errors and warnings
    on the console, and exceptions that nobody caught.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the tests that need one are skipped where there is none."""
    reason = "Playwright is not installed: pip install '.[dev]'"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=found, args=list(OPTIONS), timeout=PATIENCE
            )
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: apt-get install chromium ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, address: str, **options: Any) -> Iterator[Visit]:
    """Open an address, offline; `options` are of Playwright's ``new_context``."""
    context = browser.new_context(offline=True, **options)
    found = Visit(context.new_page())
    found.page.set_default_timeout(PATIENCE)
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on("pageerror", lambda error: found.problems.append(str(error)))
    found.page.on(
        "console",
        lambda message: (
            found.problems.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    try:
        found.page.goto(address)
        yield found
    finally:
        context.close()
