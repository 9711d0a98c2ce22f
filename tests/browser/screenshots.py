"""The pictures of the README, taken from the demo: `make screenshots`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, expect, sync_playwright

from phases import DEFAULT, PHASES
from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.visitors import demo, reload_until

IMAGES = Path(__file__).parents[2] / "docs" / "images"
LARGEST = 200_000  # bytes of one picture
DESK, PHONE = (1280, 800), (390, 844)


@contextmanager
def visiting(
    browser: Browser, address: str, person: int, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> Iterator[Page]:
    """Signed in as one of the demo's cast, with every phase's list built: after the grace of what has just started."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, base_url=address)
    page = context.new_page()
    page.goto("/")
    page.locator(".cast button").nth(person).click()
    for phase in PHASES:
        page.goto(f"/?phase={phase.slug}")
        reload_until(page.locator(".cost", has_text="from the list" if phase.keeps else "of phase 1"))
    page.goto(f"/?phase={DEFAULT.slug}")
    yield page
    context.close()


def take(page: Page, name: str) -> None:
    picture = page.screenshot(path=IMAGES / f"{name}.png", animations="disabled", caret="hide")
    assert len(picture) < LARGEST, f"{name}.png has {len(picture):,} bytes"
    sys.stdout.write(f"{name}.png: {len(picture):,} bytes\n")


def timeline(page: Page) -> None:
    page.goto("/?costs=all")
    take(page, "timeline")


def compare(page: Page) -> None:
    page.goto("/compare")
    take(page, "compare")


def delivery(page: Page) -> None:
    """The second one: before the first nobody had a connection to the queue."""
    for _ in range(2):
        page.goto("/compare")
        page.get_by_role("button", name="Post and watch").click()
        expect(page.get_by_text("Delivered.")).to_be_visible()
    take(page, "delivery")


def operations(page: Page) -> None:
    """Some statuses posted while the workers are paused, then delivered."""
    page.goto("/operations")
    page.get_by_role("button", name="Pause workers").click()
    for number in range(5):
        page.goto("/compare")
        page.get_by_label("Status").fill(f"Posted while the workers are paused, number {number}")
        page.get_by_role("button", name="Post and watch").click()
    page.goto("/operations")
    expect(page.get_by_role("region", name="Deliveries")).to_contain_text("at most 5")
    page.wait_for_timeout(6_000)  # for a line to be seen
    page.get_by_role("button", name="Resume workers").click()
    expect(page.get_by_role("row", name="cache").locator(".number").first).to_have_text("0")
    page.wait_for_timeout(4_000)
    page.goto("/operations")
    take(page, "operations")


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with demo("auto") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with visiting(browser, address, 1, DESK, "light") as page:
            timeline(page)
            compare(page)
            delivery(page)
        with visiting(browser, address, 1, DESK, "dark") as page:
            operations(page)
        with visiting(browser, address, 2, PHONE, "dark") as page:
            page.goto("/")
            take(page, "phone")
        browser.close()


if __name__ == "__main__":
    main()
