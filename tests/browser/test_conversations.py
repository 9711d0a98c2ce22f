"""Talking in a real browser: with and without JavaScript, and without a network."""

import time
from collections.abc import Sequence
from io import BytesIO

import pytest
from PIL import Image
from playwright.sync_api import APIResponse, FilePayload, Page, Route, expect

from app.web import conversations
from tests.browser.test_live_pages import HIDE, until
from tests.browser.test_notifications import seen
from tests.browser.visitors import PATIENCE_S, Person, Visitors, accessible, reload_until

pytestmark = pytest.mark.browser
SCROLLED_UP = "scrollTo(0, 0), !document.querySelector('a[data-older]')"  # until there is nothing older


def answered(page: Page, answers: Sequence[object]) -> None:
    """Until there is an answer, which a route of the page appends."""
    deadline = time.monotonic() + PATIENCE_S
    while not answers and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert answers


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def two(site: str, visitor: Visitors, width: int, scheme: str, scripts: bool) -> tuple[Person, Person]:
    suffix = f"{width}_{scheme}"
    ann, ben = (visitor(f"{name}_{suffix}", width, scheme, scripts) for name in ("ann", "ben"))
    ann.sign_up(site, "Ann A.")
    ben.sign_up(site, "Ben B.")
    ann.page.goto(f"{site}/@{ben.handle}")
    ann.page.get_by_role("button", name="Message").click()
    ann.page.wait_for_url("**/conversations/*")  # and until its scripts run: a form is sent without them, too
    return ann, ben


@pytest.mark.parametrize(("width", "scheme", "scripts"), [(1280, "light", True), (320, "dark", False)])
def test_two_people_talk(site: str, visitor: Visitors, width: int, scheme: str, scripts: bool) -> None:
    ann, ben = two(site, visitor, width, scheme, scripts)
    say(ann.page, "Hello Ben, look at https://feedlab.test/a-long-address/that-does-not-end/for-a-while/yet/and/more")
    hello = ann.page.locator("#messages").get_by_role("article", name="You")
    expect(hello).to_contain_text("Delivered" if scripts else "Sent")  # Ben's page is open, and live with scripts
    envelope = ben.page.get_by_role("link", name="Messages, unread: 1")
    reload_until(envelope)
    envelope.click()
    seen(ben.page, f"conversations_{width}_{scheme}", scripts=scripts)
    ben.page.get_by_role("link", name="Ann A.").click()
    expect(ben.page.get_by_role("article", name="Ann A.")).to_contain_text("Hello Ben")
    expect(ben.page.get_by_role("link", name="Messages", exact=True)).to_be_visible()
    say(ben.page, "Hello Ann")
    expect(ben.page.locator("#messages").get_by_role("article", name="You")).to_have_count(1)
    ann.page.reload()
    expect(hello).to_contain_text("Read")
    fold = ann.page.get_by_text("Send a picture")  # on a phone
    if fold.is_visible():
        fold.click()
    made = BytesIO()
    Image.new("RGB", (300, 200), (20, 120, 90)).save(made, "png")
    picture: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": made.getvalue()}
    ann.page.get_by_label("Picture", exact=True).set_input_files([picture])
    ann.page.get_by_role("button", name="Send picture").click()
    shown = ann.page.get_by_role("img", name="Picture from you")
    expect(shown).to_be_visible()
    expect(shown).to_have_js_property("naturalWidth", 300) if scripts else None
    seen(ann.page, f"conversation_{width}_{scheme}", scripts=scripts)


def test_a_page_where_nothing_is_said_stays_as_it_is_while_it_looks_for_news(site: str, visitor: Visitors) -> None:
    """What moves between press and release of a button loses the click."""
    ann, _ = two(site, visitor, 900, "light", scripts=True)
    page, nothing = ann.page, ann.page.get_by_role("heading", name="Nothing said yet")
    expect(nothing).to_be_visible()
    with page.expect_event("requestfinished", lambda asked: asked.resource_type == "fetch" and asked.url == page.url):
        page.reload()
    page.evaluate("fetch(location.href).then(answer => answer.text())")  # the page had the news before that
    expect(nothing).to_be_visible()


def test_an_open_page_is_told_what_is_said_and_who_has_read_it(site: str, visitor: Visitors) -> None:
    ann, ben = two(site, visitor, 1024, "light", scripts=True)
    address, ann_says = ann.page.url, ann.page.locator("#messages").get_by_role("article", name="You")
    ben.page.goto(f"{site}/people")
    answers: list[tuple[Route, APIResponse]] = []
    ann.page.route("**/messages", lambda route: answers.append((route, route.fetch())))
    say(ann.page, "one")
    expect(ann_says).to_contain_text("Delivered")  # the stream is faster than the answer
    expect(ann.page.get_by_role("article", name="You").locator(".text")).to_have_text(["one"])
    expect(ben.page.get_by_role("link", name="Messages, unread: 1")).to_be_visible()
    answered(ann.page, answers)
    for route, answer in answers:
        route.fulfill(response=answer)
    ann.page.unroute("**/messages")
    ann.page.evaluate("navigator.locks.request('feedlab outbox', () => {})")  # until the answer is there
    answers.clear()
    ann.page.route(address, lambda route: route.continue_() if answers else answers.append((route, route.fetch())))
    ann.page.evaluate("dispatchEvent(new Event('focus'))")
    answered(ann.page, answers)
    ben.page.goto(address)
    expect(ann_says).to_contain_text("Read")
    with ann.page.expect_request(address):  # once it has this one, which was made before Ben read it
        for route, answer in answers:
            route.fulfill(response=answer)
    ann.page.unroute(address)
    assert "Read" in (ann_says.text_content() or "")
    say(ann.page, "two")
    expect(ben.page.get_by_role("article", name="Ann A.").locator(".text")).to_have_text(["one", "two"])
    expect(ann_says.last).to_contain_text("Read")
    say(ben.page, "three")
    expect(ann.page.get_by_role("article", name="Ben B.").locator(".text")).to_have_text(["three"])
    expect(ben.page.locator("#messages").get_by_role("article", name="You")).to_contain_text("Read")
    ben.page.goto(f"{site}/conversations")
    expect(ben.page.get_by_role("link", name="three")).to_be_visible()
    say(ann.page, "four")
    expect(ben.page.get_by_role("link", name="four")).to_contain_text("1 unread")
    accessible(ben.page)
    ben.page.goto(address)
    ann_says.first.locator("summary").click()
    ann_says.first.get_by_role("button", name="Delete for both").click()
    expect(ben.page.get_by_text("This message was deleted.")).to_be_visible()


def test_older_messages_come_as_one_scrolls_and_are_told_of_like_the_others(
    site: str, visitor: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MESSAGES_A_PAGE", 4)
    ann, ben = two(site, visitor, 1026, "light", scripts=True)
    address, texts = ann.page.url, [f"number {n}" for n in range(9)]
    for text in texts:
        say(ann.page, text)
        expect(ann.page.locator("#messages .text").last).to_have_text(text)
    ben.page.goto(address)
    until(ben.page, SCROLLED_UP)
    expect(ben.page.locator("#messages .text")).to_have_text(texts)
    days = ben.page.locator("#messages > .day").evaluate_all("all => all.map(one => one.dataset.day)")
    assert len(days) == len(set(days))
    expect(ben.page.locator("#messages > li").first).to_have_class("day")
    expect(ann.page.locator("#messages .ticks.read")).to_have_text(["✓✓Read"] * 9)
    ann.page.locator("#m1").locator("summary").click()
    ann.page.get_by_role("button", name="Delete for both").click()
    expect(ben.page.locator("#m1")).to_contain_text("This message was deleted.")
    expect(ben.page.locator("#messages .text")).to_have_text(texts[1:])
    accessible(ben.page)


def test_a_page_that_has_missed_more_than_a_page_has_shows_all_of_it(
    site: str, visitor: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MESSAGES_A_PAGE", 4)
    ann, ben = two(site, visitor, 1027, "light", scripts=True)
    texts = [f"number {n}" for n in range(9)]
    ben.page.goto(ann.page.url)
    for text in texts:
        say(ann.page, text)
        expect(ann.page.locator("#messages .text").last).to_have_text(text)
        if text == texts[0]:
            expect(ben.page.locator("#messages .text")).to_have_text([text])
            ben.page.evaluate(HIDE, True)
    ben.page.evaluate(HIDE, False)
    expect(ben.page.locator("#messages .text").last).to_have_text(texts[-1])
    until(ben.page, SCROLLED_UP)
    expect(ben.page.locator("#messages .text")).to_have_text(texts)


def test_what_is_sent_without_a_network_goes_out_once_and_in_order(site: str, visitor: Visitors) -> None:
    ann, ben = two(site, visitor, 375, "light", scripts=True)
    context, page = ann.page.context, ann.page
    address = page.url
    other = context.new_page()
    other.goto(address)
    context.set_offline(True)
    for text in ("first", "second"):
        say(page, text)
    say(other, "third")
    waits = page.get_by_role("list", name="Waiting to be sent").get_by_role("article")
    expect(waits).to_have_count(3)
    page.get_by_label("Message", exact=True).fill("not sent yet")
    context.route("**/messages", lambda route: route.abort())
    context.set_offline(False)
    for tab in (page, other):
        tab.reload()
        expect(tab.get_by_role("list", name="Waiting to be sent").get_by_role("article")).to_have_count(3)
    expect(page.get_by_label("Message", exact=True)).to_have_value("not sent yet")
    context.unroute("**/messages")
    for tab in (page, other):
        tab.evaluate("dispatchEvent(new Event('online'))")
    expect(waits).to_have_count(0)
    texts = page.get_by_role("article", name="You").locator(".text")
    expect(texts).to_have_text(["first", "second", "third"])
    expect(other.get_by_role("article", name="You").locator(".text")).to_have_text(["first", "second", "third"])
    ben.page.goto(address)
    expect(ben.page.get_by_role("article", name="Ann A.").locator(".text")).to_have_text(["first", "second", "third"])
    ann.complaints.clear()  # of a network that was away
