"""What is typed into a conversation is never lost, whatever becomes of the session, the browser's memory or the way."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.test_conversations import say, two
from tests.browser.test_live_pages import HIDE
from tests.browser.visitors import PASSWORD, Visitors

pytestmark = pytest.mark.browser

HOLD = """new Promise(done => {
  const asked = indexedDB.open("feedlab", 1);
  asked.onsuccess = () => { window.held = asked.result; done(); };
})"""


def sent(page: Page) -> Locator:
    return page.locator("#messages").get_by_role("article", name="You").locator(".text")


def field(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def sign_out(tab: Page) -> None:
    tab.get_by_role("button", name="Sign out").click()
    expect(tab.get_by_role("heading", name="One friend timeline")).to_be_visible()


def sign_in(tab: Page, site: str, handle: str) -> None:
    tab.goto(f"{site}/sign-in")
    tab.get_by_label("Handle").fill(handle)
    tab.get_by_label("Password").fill(PASSWORD)
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.get_by_role("link", name=f"@{handle}")).to_be_visible()


def test_who_signs_out_and_in_again_beside_an_open_conversation_sends_as_before(site: str, visitor: Visitors) -> None:
    ann, _ = two(site, visitor, 1100, "light", scripts=True)
    address, tab = ann.page.url, ann.page.context.new_page()
    say(ann.page, "before")
    expect(sent(ann.page)).to_have_text(["before"])
    tab.goto(site)
    sign_out(tab)
    sign_in(tab, site, ann.handle)
    tab.goto(address)
    tab.evaluate("window.stays = true")
    say(tab, "after")
    expect(sent(tab)).to_have_text(["before", "after"])
    assert tab.evaluate("window.stays"), "it went by the outbox"


def test_a_page_is_reloaded_where_somebody_else_has_signed_in_beside_it(site: str, visitor: Visitors) -> None:
    ann, ben = two(site, visitor, 1102, "light", scripts=True)
    context = ann.page.context
    talk, listed, told, tab = ann.page, *(context.new_page() for _ in range(3))
    listed.goto(f"{site}/conversations")
    told.goto(f"{site}/notifications")
    say(talk, "from ann")
    expect(sent(talk)).to_have_text(["from ann"])
    field(talk).fill("not ben's")
    tab.goto(site)
    sign_out(tab)
    sign_in(tab, site, ben.handle)
    told.evaluate(HIDE, True)
    with told.expect_response(f"{site}/notifications"):
        told.evaluate("document.dispatchEvent(new CustomEvent('live:notification', {detail: {}}))")
    told.evaluate("fetch(location.href).then(answer => answer.text())")  # it would be loaded anew before that
    told.evaluate(HIDE, False)
    for page in (told, talk, listed):  # the streams of the others have ended with the session, and come back
        expect(page.get_by_role("link", name=f"@{ben.handle}")).to_be_visible()
    expect(talk.get_by_role("article", name="Ann A.").locator(".text")).to_have_text(["from ann"])
    expect(field(talk)).to_have_value("")
    sign_out(tab)
    sign_in(tab, site, ann.handle)
    talk.reload()
    expect(field(talk)).to_have_value("not ben's")


def test_where_the_outbox_does_not_open_a_message_is_sent_as_a_form(site: str, visitor: Visitors) -> None:
    ann, _ = two(site, visitor, 1101, "light", scripts=True)
    address, tab = ann.page.url, ann.page.context.new_page()
    ann.page.evaluate(HOLD)  # and does not let go of it, as a page of an older version
    tab.goto(site)
    sign_out(tab)
    sign_in(tab, site, ann.handle)
    tab.goto(address)
    say(tab, "by form")
    expect(sent(tab)).to_have_text(["by form"])
    expect(field(tab)).to_have_value("")
    tab.reload()
    expect(field(tab)).to_have_value("")
