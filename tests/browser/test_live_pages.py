"""What pages are told while they are open: each thing once, whatever became of their connection meanwhile."""

import json
import re
import time

import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

from tests.browser.visitors import PASSWORD, PATIENCE_S, Person, Visitors, accessible, reload_until

pytestmark = pytest.mark.browser

HIDE = """hidden => {
  Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def friends(site: str, visitor: Visitors, suffix: str, *, scripts: bool = True) -> tuple[Person, Person]:
    """Two who follow each other, both on their timelines."""
    ann, bob = visitor(f"ann_{suffix}", 1280, "light", scripts), visitor(f"bob_{suffix}", 375, "dark")
    ann.sign_up(site, "Ann A.")
    bob.sign_up(site, "Bob B.")
    for one, other in ((ann, bob), (bob, ann)):
        one.page.goto(f"{site}/@{other.handle}")
        one.page.get_by_role("button", name="Follow", exact=True).click()
        expect(one.page.get_by_role("button", name="Unfollow", exact=True)).to_be_visible()
        one.page.goto(site)
    return ann, bob


def bell(page: Page, unread: int) -> Locator:
    return page.get_by_role("link", name=f"Notifications, unread: {unread}" if unread else "Notifications", exact=True)


def until(page: Page, expression: str) -> None:
    """The pages' policy lets no script evaluate text, as Playwright's own waiting would."""
    deadline = time.monotonic() + PATIENCE_S
    while not page.evaluate(expression) and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert page.evaluate(expression), expression


def test_an_open_page_is_told(site: str, visitor: Visitors) -> None:
    ann, bob = friends(site, visitor, "told")
    ann.post("mine")
    tab = ann.page.context.new_page()  # another one, of another page
    tab.goto(f"{site}/notifications")
    told = tab.get_by_role("region", name="Notifications").get_by_role("listitem")
    expect(told).to_have_count(1)  # Bob follows
    tab.get_by_role("button", name="Mark all as read").click()
    for page in (tab, ann.page):
        expect(bell(page, 0)).to_be_visible()

    bob.page.reload()
    bob.page.get_by_role("button", name="Like this status").click()
    for page in (ann.page, tab):
        expect(bell(page, 1)).to_be_visible()
    expect(ann.page.get_by_role("article")).to_contain_text("1 like")
    expect(ann.page).to_have_title("(1) Timeline · Feedlab")
    expect(told).to_have_count(2)
    expect(told.first).to_contain_text("liked your status")
    accessible(tab)

    bob.post(f"to @{ann.handle}")
    news = ann.page.get_by_role("link", name="1 new status")
    expect(news).to_be_visible()
    expect(told.first).to_contain_text("mentioned you")
    expect(bell(ann.page, 2)).to_be_visible()
    expect(ann.page).to_have_title("(3) Timeline · Feedlab")
    news.click()
    expect(ann.page.get_by_role("article")).to_have_count(2)
    expect(ann.page).to_have_title("(2) Timeline · Feedlab")

    theirs = bob.page.get_by_role("article").first
    theirs.locator("summary").click()
    theirs.get_by_role("button", name="Delete for good").click()
    expect(ann.page.get_by_role("article")).to_have_count(1)
    expect(bell(ann.page, 1)).to_be_visible()
    expect(told.first).to_contain_text("liked your status")


def test_nothing_is_missing_and_nothing_twice_after_a_while_without_a_network(site: str, visitor: Visitors) -> None:
    ann, bob = friends(site, visitor, "offline")
    tab = ann.page.context.new_page()
    tab.goto(site)
    bob.post("heard")
    for page in (ann.page, tab):
        expect(page.get_by_role("link", name="1 new status")).to_be_visible()
    asked: list[Request] = []
    ann.page.on("request", lambda request: asked.append(request) if "/live" in request.url else None)
    ann.page.context.set_offline(True)
    until(ann.page, "stream === null")  # as when a laptop falls asleep
    bob.post("not heard")
    bob.post("not heard either")
    ann.page.context.set_offline(False)
    for page in (ann.page, tab):
        expect(page.get_by_role("link", name="3 new statuses")).to_be_visible()
    assert [request for request in asked if "after=" not in request.url] == []
    assert asked
    bob.post("heard again")
    news = ann.page.get_by_role("link", name="4 new statuses")
    expect(news).to_be_visible()
    news.click()
    shown = ann.page.get_by_role("article")
    expect(shown).to_contain_text(["heard again", "not heard either", "not heard", "heard"])
    expect(shown).to_have_count(4)


def test_the_browser_comes_back_by_itself_to_where_it_was(site: str, visitor: Visitors) -> None:
    """To the last event that it got (Last-Event-ID), and not to the address, which says where the page was before."""
    ann, bob = friends(site, visitor, "header")
    tab, asked = ann.page.context.new_page(), list[str]()
    tab.goto(site)
    for page in (tab, ann.page):
        until(page, "stream?.readyState === 1 && last")
    ann.page.evaluate("closeStream()")
    bob.post("got before")
    expect(tab.get_by_role("link", name="1 new status")).to_be_visible()
    got = tab.evaluate("last")
    bob.post("not got yet")
    expect(tab.get_by_role("link", name="2 new statuses")).to_be_visible()

    def ends_once(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) > 1:
            route.continue_()
        else:
            told = f'retry: 50\n\nid: {got}\nevent: unread\ndata: {{"unread":1,"messages_unread":0}}\n\n'
            route.fulfill(content_type="text/event-stream", body=told)

    ann.page.route("**/live?*", ends_once)
    ann.page.evaluate("openStream()")
    until(ann.page, f"last === {json.dumps(tab.evaluate('last'))}")
    assert ann.page.evaluate("news.size") == 1
    assert asked[0] == asked[1]


def test_a_page_tells_nobody_what_somebody_else_has_unread(site: str, visitor: Visitors) -> None:
    """Somebody else signs in beside it."""
    ann, bob = friends(site, visitor, "other")
    page, tab = ann.page, ann.page.context.new_page()
    until(page, "stream?.readyState === 1 && last")
    expect(bell(page, 1)).to_be_visible()
    bob.page.goto(site)
    expect(bell(bob.page, 1)).to_be_visible()
    bob.page.goto(f"{site}/notifications")
    bob.page.get_by_role("button", name="Mark all as read").click()
    expect(bell(bob.page, 0)).to_be_visible()
    tab.goto(site)
    tab.get_by_role("button", name="Sign out").click()
    tab.get_by_role("link", name="Sign in", exact=True).click()
    tab.get_by_label("Handle").fill(bob.handle)
    tab.get_by_label("Password").fill(PASSWORD)
    with page.expect_response(lambda answer: "/live?" in answer.url and answer.status != 200):
        tab.get_by_role("button", name="Sign in").click()
        expect(bell(tab, 0)).to_be_visible()
    expect(bell(page, 1)).to_be_visible()


def test_a_part_that_is_looked_at_goes_on_whatever_ended_its_stream(site: str, visitor: Visitors) -> None:
    """A process that stops, and an answer that says no, as a proxy's where no process answers."""
    ann, asked = visitor("ann_parts", 1280, "light"), list[str]()
    ann.sign_up(site, "Ann A.")

    def ends(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(content_type="text/event-stream", body="retry: 50\n\ndata: It stops.\n\n")
        elif len(asked) == 2:
            route.fulfill(status=503)
        else:
            route.continue_()

    ann.page.route("**/operations/live", ends)
    ann.page.goto(f"{site}/operations")
    expect(ann.page.locator(".board")).to_have_text("It stops.")
    expect(ann.page.get_by_role("heading", name="Servers")).to_be_visible()
    ann.complaints.clear()  # the 503


def test_of_the_tabs_that_nobody_sees_one_has_a_stream(site: str, visitor: Visitors) -> None:
    ann, bob = friends(site, visitor, "tabs")
    tabs = [ann.page, *(ann.page.context.new_page() for _ in range(2))]
    for page in tabs:
        page.goto(site)
        until(page, "stream?.readyState === 1 && last")
        page.evaluate(HIDE, True)
    for page in tabs[:2]:
        until(page, "stream === null")
    bob.post("while nobody looks")
    expect(tabs[2]).to_have_title("(2) Timeline · Feedlab")  # and Bob follows
    assert tabs[0].title() == "(1) Timeline · Feedlab"
    tabs[0].evaluate(HIDE, False)
    expect(tabs[0].get_by_role("link", name="1 new status")).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False])
def test_who_is_here_has_a_dot(site: str, visitor: Visitors, scripts: bool) -> None:
    ann, bob = friends(site, visitor, f"dots_{scripts}".lower(), scripts=scripts)
    ann.page.goto(f"{site}/@{ann.handle}/followers")
    reload_until(ann.page.locator(f"#of-{bob.handle} .here"))
    expect(ann.page.get_by_role("link", name=re.compile("Online now"))).to_have_attribute("href", f"/@{bob.handle}")
    ann.page.goto(f"{site}/@{bob.handle}")
    expect(ann.page.get_by_text("Online now")).to_be_visible()
    if not scripts:
        bob.page.goto(f"{site}/@{ann.handle}/following")
        expect(bob.page.locator(f"#of-{bob.handle}")).to_be_visible()
        expect(bob.page.locator(".here:visible")).to_have_count(0)  # oneself, and nobody else is told of
