"""The pages in a real browser: with and without JavaScript, on a phone and on a desk, in the light and in the dark."""

import pytest
from playwright.sync_api import Browser, Request, expect

from phases import PHASES
from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.visitors import LOOKS, PASSWORD, TWO_VISITORS, Visitors, accessible, fits

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "scheme", "scripts"), TWO_VISITORS)
def test_sign_up_follow_post_and_see_it_in_every_phase(
    site: str, visitor: Visitors, width: int, scheme: str, scripts: bool
) -> None:
    suffix = f"{width}_{scheme}_{scripts}".lower()
    bob = visitor(f"bob_{suffix}", width, scheme, scripts)
    ann = visitor(f"ann_{suffix}", width, scheme, scripts)
    bob.sign_up(site, "Bob B.")
    bob.post("before anybody follows\nin two lines")
    ann.sign_up(site, "Ann A.")
    page = ann.page
    expect(page.get_by_role("heading", name="You follow nobody yet")).to_be_visible()
    space = "it => it.getBoundingClientRect().top - it.previousElementSibling.getBoundingClientRect().bottom"
    assert page.locator(".suggested").evaluate(space) == 16
    page.get_by_role("link", name="Find people").click()
    page.get_by_label("Handle or name begins with").fill(f"@{bob.handle}")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("region", name="Found").get_by_role("link", name="Bob B.").click()
    page.get_by_role("button", name="Follow", exact=True).click()
    expect(page.get_by_role("button", name="Unfollow")).to_be_visible()
    expect(page.get_by_role("article")).to_contain_text("before anybody follows")
    fits(page)
    bob.post("after ann follows")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Timeline").click()
    toggle = page.get_by_role("navigation", name="Phase that makes this timeline")
    for phase in PHASES:
        toggle.get_by_role("link", name=phase.slug).click()
        expect(toggle.locator("[aria-current]")).to_contain_text(phase.slug)
        expect(page.get_by_role("article")).to_have_count(2)
        expect(page.get_by_role("article").first).to_contain_text("after ann follows")
        expect(page.get_by_role("article").last).to_contain_text("before anybody follows")
        expect(page.locator(".readout")).to_contain_text("MongoDB")
        fits(page)
    ann.post("mine", "my circle")
    expect(page.get_by_role("article").first).to_contain_text("circle")
    page.get_by_text("Delete").first.click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.get_by_role("article")).to_have_count(2)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="One friend timeline")).to_be_visible()
    fits(page)


CONTRAST = """
root => {
  const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest(".away, .skip")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgba(style.color)), light(behind(element))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const enough = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < enough) poor.push(`${texts.currentNode.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""
UNNAMED = """
root => [...root.querySelectorAll("input:not([type=hidden], [hidden]), select, textarea")]
  .filter(control => !control.labels.length).map(control => control.outerHTML)
"""
SMALL = """
root => [...root.querySelectorAll("a, button, summary, select, label:has(input), input:not([type=hidden])")]
  .filter(target => target.checkVisibility() && !target.matches("label input, .skip, .status header a, p a"))
  .map(target => [target.getBoundingClientRect(), target])
  .filter(([box]) => box.width < 24 || box.height < 24 && box.height > 0)
  .map(([box, target]) => `${target.textContent.trim()}: ${box.width} x ${box.height}`)
"""
MISPLACED = """
root => {
  const look = one => getComputedStyle(one);
  const seen = [...root.querySelectorAll("body *")].filter(one => one.checkVisibility()
    && !one.closest(".away, .skip, .top nav, .bell, svg, pre") && look(one).clipPath === "none");
  const name = one => `${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 40)}`;
  const out = seen.filter(one => !one.closest(".scroll") && one.closest(".card")
    && one.getBoundingClientRect().right > one.closest(".card").getBoundingClientRect().right + 1);
  const cut = seen.filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth
    && look(one).overflowX === "hidden" && look(one).textOverflow !== "ellipsis");
  const texts = seen.filter(one => look(one).textOverflow !== "ellipsis")
    .flatMap(one => [...one.childNodes].filter(node => node.nodeType === 3 && node.data.trim()))
    .map(node => {
      const range = document.createRange();
      range.selectNodeContents(node);
      return [node.parentElement, [...range.getClientRects()]];
    });
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > Math.min(a.height, b.height) / 2;
  const printed = texts.filter(([, boxes], at) => texts.slice(at + 1)
    .some(([, others]) => boxes.some(box => others.some(other => over(box, other))))).map(([one]) => one);
  return [...out.map(one => `outside ${name(one)}`), ...cut.map(one => `cut ${name(one)}`),
    ...printed.map(one => `overprinted ${name(one)}`)];
}
"""


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_page_can_be_read_and_pressed(site: str, visitor: Visitors, width: int, scheme: str) -> None:
    """WCAG 2.2 AA: contrast of text (1.4.3), size of targets (2.5.8), and a label for every field."""
    ann = visitor(f"reader_{width}_{scheme}", width, scheme)
    addresses = ["/", "/sign-in", "/sign-up", "/walkthrough"]
    for signed_in in (False, True):
        if signed_in:
            ann.sign_up(site, "Ann A.")
            ann.post("to a few\nonly", "my circle")
            own = f"/@{ann.handle}"
            addresses = [
                "/",
                "/?phase=push&costs=all",
                "/people",
                "/phases",
                "/compare?check=1",
                "/operations",
                own,
                "/settings",
                "/conversations",
                "/notifications",
            ]
            addresses += [f"{own}/followers", "/nothing"]
        for address in addresses:
            ann.page.goto(site + address)
            body = ann.page.locator("body")
            for script in (CONTRAST, UNNAMED, SMALL):
                assert body.evaluate(script) == [], address
            assert ann.page.locator("html").evaluate(MISPLACED) == [], address
            if address == "/operations":
                objectives = ann.page.get_by_role("region", name="Objectives").last
                assert objectives.evaluate("table => table.scrollWidth <= table.clientWidth"), "all of it is in sight"
            fits(ann.page)
            accessible(ann.page)
    ann.complaints[:] = [one for one in ann.complaints if "404" not in one]  # /nothing


def test_large_letters_leave_every_page_whole(site: str, chromium: Browser) -> None:
    """Whoever has told the browser to write twice as large (WCAG 1.4.4)."""
    arguments = [*FLAGS, "--blink-settings=defaultFontSize=32"]
    with chromium.browser_type.launch(executable_path=CHROMIUM, args=arguments) as large:
        visitors = Visitors(large)
        ann = visitors("large", 1280, "light")
        ann.sign_up(site, "Ann A.")
        ann.post("hello")
        for width in (1280, 375):
            ann.page.set_viewport_size({"width": width, "height": 800})
            for address in ("/", "/compare", "/operations", "/walkthrough/cache"):
                ann.page.goto(site + address)
                fits(ann.page)
                if width == 1280:
                    assert ann.page.locator("html").evaluate(MISPLACED) == [], address
        visitors.leave()


def test_the_keyboard_is_enough(site: str, visitor: Visitors) -> None:
    ann = visitor("typist", 1280, "light")
    ann.page.goto(f"{site}/sign-up")
    expect(ann.page.get_by_label("Handle")).to_be_focused()
    ann.page.keyboard.type(ann.handle)
    ann.page.keyboard.press("Tab")
    ann.page.keyboard.press("Tab")
    ann.page.keyboard.type(PASSWORD)
    ann.page.keyboard.press("Enter")
    expect(ann.page.get_by_role("link", name=f"@{ann.handle}")).to_be_visible()
    ann.page.wait_for_load_state()  # Chromium moves the focus to the fragment once more when it has parsed a page
    ann.page.keyboard.press("Tab")
    skip = ann.page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    ann.page.keyboard.press("Enter")
    expect(ann.page.get_by_role("main")).to_be_focused()
    ann.page.keyboard.press("Tab")
    expect(ann.page.get_by_role("link", name=PHASES[0].slug)).to_be_focused()
    ann.page.keyboard.press("Enter")
    expect(ann.page.locator(".segments [aria-current]")).to_contain_text(PHASES[0].slug)


@pytest.mark.parametrize("scripts", [True, False])
def test_on_a_phone_the_timeline_is_on_the_first_screen(site: str, visitor: Visitors, scripts: bool) -> None:
    ann = visitor(f"phoner_{scripts}".lower(), 375, "dark", scripts)
    ann.sign_up(site, "Ann A.")
    ann.post("hello")
    page = ann.page
    page.goto(site)
    box = page.get_by_role("article").bounding_box()
    assert box
    assert box["y"] < 812 / 2
    costs = page.locator(".readout")
    expect(costs).to_be_hidden()
    page.locator(".cost .fold summary").click()
    expect(costs).to_be_visible()
    for name in ("Walkthrough", "Timeline"):
        tab = page.get_by_role("navigation", name="Main").get_by_role("link", name=name)
        tab.click()
        expect(tab).to_have_attribute("aria-current", "page")
        expect(tab).to_be_in_viewport(ratio=0.9)


def test_a_copy_of_everything_is_saved_and_no_other_answer(site: str, visitor: Visitors) -> None:
    ann = visitor("copied", 1280, "light")
    ann.sign_up(site, "Ann A.")
    ann.page.goto(f"{site}/settings")
    download = ann.page.get_by_role("link", name="Download")
    with ann.page.expect_download() as saved:
        download.click()
    assert saved.value.suggested_filename == f"feedlab-{ann.handle}.json"
    ann.page.context.clear_cookies()  # as where the session has ended
    download.click()
    expect(ann.page.get_by_role("heading", name="Sign in", exact=True)).to_be_visible()


def test_a_form_that_is_pressed_twice_is_sent_once(site: str, visitor: Visitors) -> None:
    """And may be sent again by whoever comes back to it, or has stopped the loading of the answer."""
    ann = visitor("impatient", 1280, "light")
    ann.sign_up(site, "Ann A.")
    page, sent = ann.page, list[Request]()
    page.clock.install()
    page.goto(f"{site}/settings")
    page.get_by_label("Current password").fill(PASSWORD)
    page.get_by_label("New password").fill("another horse")
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    page.route("**/settings/password", lambda route: route.abort("aborted"))
    for _ in range(2):
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        with page.expect_request("**/settings/password"):
            page.keyboard.press("Enter")
        page.keyboard.press("Enter")
    page.unroute("**/settings/password")
    page.clock.fast_forward(10_000)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("other sessions are signed out")
    assert len(sent) == 3, "twice, and once more"


@pytest.mark.parametrize("scripts", [True, False])
def test_what_was_wrong_is_in_sight(site: str, visitor: Visitors, scripts: bool) -> None:
    ann = visitor(f"wrong_{scripts}".lower(), 375, "light", scripts)
    ann.sign_up(site, "Ann A.")
    page = ann.page
    page.goto(f"{site}/settings")
    change = page.get_by_role("form", name="Password")
    change.get_by_label("Current password").fill("not that one")
    change.get_by_label("New password").fill("short but long enough")
    change.get_by_role("button", name="Change").click()
    expect(page.locator("#old-wrong")).to_be_in_viewport(ratio=1)
    expect(page.get_by_label("Current password")).to_be_focused()
    page.goto(f"{site}/compare")
    page.get_by_label("Status", exact=True).fill("x" * 501)
    page.get_by_role("button", name="Post and watch").click()
    expect(page.locator("#text-wrong")).to_be_in_viewport(ratio=1)
    expect(page.get_by_label("Status", exact=True)).to_be_focused()
    ann.complaints.clear()  # of the two answers


def test_one_click_signs_in_as_somebody_of_the_demo(site: str, visitor: Visitors) -> None:
    visitor("somebody", 375, "light").sign_up(site, "Some Body")
    guest = visitor("guest", 375, "dark", scripts=False)
    guest.page.goto(site)
    expect(guest.page.get_by_text("anybody may sign in as anybody").first).to_be_visible()
    guest.page.locator(".cast button").first.click()
    expect(guest.page.get_by_text("Write a status")).to_be_visible()
