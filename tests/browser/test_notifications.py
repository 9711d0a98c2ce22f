"""Likes, mentions and notifications in a real browser, with and without JavaScript."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.visitors import Visitors, accessible, fits, reload_until

pytestmark = pytest.mark.browser


def seen(page: Page, name: str, *, scripts: bool) -> None:
    """Fits, is accessible (axe is a script), and where somebody wants to look at it, is a picture."""
    fits(page)
    if scripts:
        accessible(page)
    if folder := os.environ.get("PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled", caret="hide")


@pytest.mark.parametrize(("width", "scheme", "scripts"), [(1280, "light", True), (375, "dark", False)])
def test_like_mention_and_be_told(site: str, visitor: Visitors, width: int, scheme: str, scripts: bool) -> None:
    suffix = f"{width}_{scheme}"
    zoe = visitor(f"zoe_{suffix}", width, scheme, scripts)
    zoe.sign_up(site, "Zoe Z.")
    zoe.post("Something to like, by many")
    expect(zoe.page.get_by_role("link", name="Notifications", exact=True)).to_be_visible()
    fans = [visitor(f"fan{n}_{suffix}", width, scheme, scripts) for n in range(3)]
    for n, fan in enumerate(fans):
        fan.sign_up(site, f"Fan {n}")
        fan.page.goto(f"{site}/@{zoe.handle}")
        fan.page.get_by_role("button", name="Follow", exact=True).click()
        like = fan.page.get_by_role("button", name="Like this status")
        expect(like).to_have_attribute("aria-pressed", "false")
        like.click()
        expect(like).to_have_attribute("aria-pressed", "true")
        expect(fan.page.get_by_role("article")).to_contain_text(f"{n + 1} like")
    seen(fans[0].page, f"liked_{suffix}", scripts=scripts)
    zoe.page.goto(f"{site}/@{fans[1].handle}")
    zoe.page.get_by_role("button", name="Follow", exact=True).click()
    fans[1].post(f"Good morning @{zoe.handle}, and @nobody_{suffix}!")

    page = zoe.page
    page.goto(site)
    bell = page.get_by_role("link", name="Notifications, unread: 7")
    reload_until(bell)
    mention = page.get_by_role("article").first.get_by_role("link", name=f"@{zoe.handle}")
    expect(mention).to_have_attribute("href", f"/@{zoe.handle}")
    expect(page.get_by_role("link", name=f"@nobody_{suffix}")).to_have_count(0)
    seen(page, f"timeline_{suffix}", scripts=scripts)
    bell.click()
    told = page.get_by_role("region", name="Notifications").get_by_role("listitem")
    expect(told).to_have_count(3)
    expect(told.nth(0)).to_contain_text("Fan 1 mentioned you in a status")
    expect(told.nth(1)).to_contain_text("Fan 2 and 2 others liked your status")
    expect(told.nth(1)).to_contain_text("Something to like, by many")
    expect(told.nth(2)).to_contain_text("Fan 2 and 2 others follow you")
    told.nth(1).get_by_text("All 3").click()
    expect(told.nth(1).get_by_role("link", name="Fan 0")).to_be_visible()
    seen(page, f"unread_{suffix}", scripts=scripts)
    page.get_by_role("button", name="Mark all as read").click()
    expect(page.get_by_role("link", name="Notifications", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Mark all as read")).to_have_count(0)
    expect(told).to_have_count(3)
    seen(page, f"read_{suffix}", scripts=scripts)
    told.nth(0).get_by_role("link", name="a status").click()
    expect(page.get_by_role("article")).to_contain_text("Good morning")
    page.get_by_role("button", name="Like this status").click()
    expect(page.get_by_role("button", name="Like this status")).to_have_attribute("aria-pressed", "true")
    reload_until(fans[1].page.get_by_role("link", name="Notifications, unread: 2"))
