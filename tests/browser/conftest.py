"""One application and one chromium for all browser tests."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from app.config import Config
from tests.browser.visitors import PATIENCE_S, Visitors, demo, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="module")  # tests of other modules open databases of their own, and Beanie knows one
def site() -> Iterator[str]:
    with serving(Config(demo=True, server_timeout_s=PATIENCE_S)) as address:
        yield address


@pytest.fixture(scope="session")
def manual_site() -> Iterator[str]:
    """Whoever returns is not rebuilt before they press Refresh."""
    with demo("memory", FEEDLAB_COMEBACK="manual") as address:  # as above: another process
        yield address


@pytest.fixture(scope="module")  # Playwright's event loop runs in this thread for as long, and others need their own
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    expect.set_options(timeout=1000 * PATIENCE_S)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitors]:
    visitors = Visitors(chromium)
    yield visitors
    visitors.leave()
