"""What is typed into a conversation is never lost, whatever becomes of the session, the browser's memory or the way."""

import pytest
from playwright.sync_api import Locator, Page, expect

from app.web import conversations
from tests.browser.test_conversations import say, two
from tests.browser.test_live_pages import HIDE, until
from tests.browser.visitors import PASSWORD, Visitors

pytestmark = pytest.mark.browser

HOLD = """new Promise(done => {
  const asked = indexedDB.open("feedlab", 1);
  asked.onsuccess = () => { window.held = asked.result; done(); };
})"""


KEEPS_NOTHING = """
for (const act of ["getItem", "setItem", "removeItem"])
  Storage.prototype[act] = () => { throw new DOMException("It is full.", "QuotaExceededError"); };
const refuse = function () { throw new DOMException("It is forbidden.", "SecurityError"); };
IDBFactory.prototype.open = refuse;
BroadcastChannel = refuse;
"""
FORBIDS_DRAFTS = """Object.defineProperty(window, "sessionStorage", {
  get() { throw new DOMException("It is forbidden.", "SecurityError"); },
});"""


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


def test_a_page_from_before_the_session_sends_in_it(site: str, visitor: Visitors) -> None:
    ann, _ = two(site, visitor, 1104, "light", scripts=True)
    tab = ann.page.context.new_page()
    tab.goto(site)
    sign_out(tab)
    sign_in(tab, site, ann.handle)
    say(ann.page, "still here")
    expect(sent(ann.page)).to_have_text(["still here"])
    ann.page.get_by_role("button", name="Silence").click()
    expect(ann.page.get_by_text("Silenced: ")).to_be_visible()
    ann.complaints.clear()  # the first answer's 403


def test_who_has_been_signed_out_is_told_so_and_sends_after_signing_in(site: str, visitor: Visitors) -> None:
    ann, _ = two(site, visitor, 1110, "light", scripts=True)
    page, tab = ann.page, ann.page.context.new_page()
    tab.goto(site)
    sign_out(tab)
    say(page, "not lost")
    waits = page.get_by_role("list", name="Waiting to be sent").get_by_role("article")
    link = waits.get_by_role("link", name="Sign in to send it")
    expect(waits).to_have_text("not lostNot sent: you are signed out. Sign in to send it")
    link.focus()
    with page.expect_response("**/messages"):
        page.evaluate("dispatchEvent(new Event('online'))")
    page.evaluate("navigator.locks.request('feedlab outbox', () => {})")  # until it is known what became of it
    expect(link).to_be_focused()  # whatever has been tried meanwhile
    link.press("Enter")
    page.get_by_label("Handle").fill(ann.handle)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(sent(page)).to_have_text(["not lost"])
    expect(waits).to_have_count(0)
    ann.complaints.clear()  # the answers' 401


@pytest.mark.parametrize(("status", "type"), [(413, "text/html"), (408, "application/problem+json")])
def test_what_is_not_looked_at_is_not_refused(site: str, visitor: Visitors, status: int, type: str) -> None:
    """A proxy's answer, and ours to a request that takes too long to arrive."""
    ann, _ = two(site, visitor, 1200 + status, "light", scripts=True)
    body = '{"detail": "Not like this."}'
    ann.page.route("**/messages", lambda route: route.fulfill(status=status, content_type=type, body=body))
    with ann.page.expect_response("**/messages"):
        say(ann.page, "patience")
    ann.page.evaluate("navigator.locks.request('feedlab outbox', () => {})")  # until it is known what became of it
    expect(ann.page.get_by_role("list", name="Waiting to be sent").get_by_role("article")).to_have_text(
        "patienceWaiting to be sent"
    )
    ann.page.unroute("**/messages")
    ann.page.evaluate("dispatchEvent(new Event('online'))")
    expect(sent(ann.page)).to_have_text(["patience"])
    ann.complaints.clear()  # of that answer


def test_what_is_refused_comes_back_into_the_field_beside_what_is_there(site: str, visitor: Visitors) -> None:
    ann, ben = two(site, visitor, 1106, "light", scripts=True)
    ben.page.goto(f"{site}/@{ann.handle}")
    ben.page.get_by_role("button", name="Block").click()
    expect(ben.page.get_by_role("button", name="Unblock")).to_be_visible()
    refused = ann.page.get_by_role("list", name="Waiting to be sent").get_by_role("article")
    for text in ("one", "two"):
        say(ann.page, text)
        expect(refused.last).to_contain_text(f"{text}Not sent. One of you blocks the other.")
    for left in (1, 0):
        refused.first.get_by_role("button", name="Remove").click()
        expect(refused).to_have_count(left)
    expect(field(ann.page)).to_have_value("one\ntwo")
    ann.complaints.clear()  # the answers' 403


def test_what_goes_out_from_another_page_marks_nothing_as_read(site: str, visitor: Visitors) -> None:
    ann, ben = two(site, visitor, 1103, "light", scripts=True)
    address, context = ann.page.url, ann.page.context
    context.route("**/messages", lambda route: route.abort())
    say(ann.page, "from the outbox")
    expect(ann.page.get_by_role("list", name="Waiting to be sent").get_by_role("article")).to_have_count(1)
    ann.page.goto(f"{site}/conversations")
    ben.page.goto(address)
    say(ben.page, "have you seen this?")
    expect(ann.page.get_by_role("link", name="have you seen this?")).to_be_visible()
    context.unroute("**/messages")
    ann.page.evaluate("dispatchEvent(new Event('online'))")
    expect(ben.page.get_by_role("article", name="Ann A.").locator(".text")).to_have_text(["from the outbox"])
    ann.page.evaluate("navigator.locks.request('feedlab outbox', () => {})")  # until its answer has come
    ben.page.reload()
    expect(ben.page.locator("#messages").get_by_role("article", name="You")).to_contain_text("Delivered")
    ann.complaints.clear()  # of what was aborted


def test_a_page_of_older_messages_stays_one_while_something_goes_out(
    site: str, visitor: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "MESSAGES_A_PAGE", 2)
    ann, ben = two(site, visitor, 1108, "light", scripts=True)
    page, address = ann.page, ann.page.url
    ben.page.goto(address)
    for text in ("one", "two", "three"):
        say(page, text)
        expect(page.locator("#messages .text").last).to_have_text(text)
    page.route("**/messages", lambda route: route.abort())
    say(page, "four")
    waits = page.get_by_role("list", name="Waiting to be sent").get_by_role("article")
    expect(waits).to_have_count(1)
    page.goto(f"{address}?before=2")
    expect(waits).to_have_count(1)
    page.unroute("**/messages")
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(waits).to_have_count(0)
    expect(ben.page.locator("#messages .text").last).to_have_text("four")
    expect(sent(page)).to_have_text(["one"])
    ann.complaints.clear()  # of what was aborted


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


def test_signing_out_leaves_no_message_where_drafts_are_forbidden(site: str, visitor: Visitors) -> None:
    ann, _ = two(site, visitor, 1109, "light", scripts=True)
    page = ann.page
    page.context.add_init_script(FORBIDS_DRAFTS)
    page.route("**/messages", lambda route: route.abort())
    page.reload()
    say(page, "for nobody else")
    expect(page.get_by_role("list", name="Waiting to be sent").get_by_role("article")).to_have_count(1)
    sign_out(page)
    until(page, "indexedDB.databases().then(all => all.length === 0)")
    ann.complaints.clear()  # of what was aborted


def test_pages_work_in_a_browser_that_keeps_nothing(site: str, visitor: Visitors) -> None:
    ann, ben = two(site, visitor, 1107, "light", scripts=True)
    page, address = ann.page, ann.page.url
    page.context.add_init_script(KEEPS_NOTHING)
    page.reload()
    field(page).fill("hello")
    expect(page.locator("#text-hint")).to_have_text("1995 left")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(sent(page)).to_have_text(["hello"])
    ben.page.goto(address)
    say(ben.page, "hello yourself")
    expect(page.get_by_role("article", name="Ben B.")).to_contain_text("hello yourself")
    ann.post("a status")
    menu = page.locator(".menu").first
    menu.locator("summary").press("Enter")
    expect(menu.get_by_role("button", name="Delete for good")).to_be_visible()
    page.keyboard.press("Escape")
    expect(menu.get_by_role("button", name="Delete for good")).to_be_hidden()
