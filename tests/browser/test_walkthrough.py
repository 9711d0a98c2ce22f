"""The walkthrough in a real browser: every chapter to read, every experiment to run, with JavaScript and without."""

import re

import pytest
from playwright.sync_api import expect

from app.walkthrough.book import Chapter, chapters
from app.walkthrough.experiments import EXPERIMENTS
from tests.browser.visitors import LOOKS, TWO_VISITORS, Visitors, accessible, fits

pytestmark = pytest.mark.browser
RUN_MS = 60_000  # the limit of a run
MEASURED = [one for one in chapters() if one.experiment]


def named(one: object) -> str | None:
    return one.slug if isinstance(one, Chapter) else None


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_whole_story_can_be_read(site: str, visitor: Visitors, width: int, scheme: str) -> None:
    page = visitor(f"pupil_{width}_{scheme}", width, scheme).page
    page.goto(f"{site}/walkthrough")
    accessible(page)
    page.get_by_role("main").get_by_role("link", name=chapters()[0].title).click()
    for number, one in enumerate(chapters()):
        expect(page.get_by_role("heading", level=1)).to_have_text(one.title)
        page.locator("main details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        fits(page)
        if scheme == "dark":  # axe takes half of the time; every page that is not a chapter is shown to it in both
            accessible(page)
        if number + 1 < len(chapters()):
            page.get_by_role("navigation", name="Before and next").get_by_role("link").last.click()


@pytest.mark.parametrize(("one", "look"), list(zip(MEASURED[1::3], TWO_VISITORS, strict=False)), ids=named)
def test_the_experiment_of_a_chapter(site: str, visitor: Visitors, one: Chapter, look: tuple[int, str, bool]) -> None:
    """With JavaScript the chapter stays where it is; without it the run has a page of its own. What the others find is
    tested without a browser.
    """
    width, scheme, scripts = look
    page = visitor(f"explorer_{one.slug}", width, scheme, scripts).page
    page.goto(f"{site}/walkthrough/{one.slug}")
    outcome = page.locator(".outcome")
    expect(outcome).to_contain_text("Recorded on")
    page.get_by_role("button", name="Run it here").click()
    expect(outcome).to_contain_text("Measured here just now", timeout=RUN_MS)
    expect(outcome.get_by_role("img").first).to_be_visible()
    expect(outcome).not_to_contain_text("Not as this chapter says")
    assert page.url.endswith(f"/walkthrough/{one.slug}") == scripts
    fits(page)
    if scripts:  # axe is one
        accessible(page)


def test_a_slider_moves_with_the_keyboard_and_says_where_it_stands(site: str, visitor: Visitors) -> None:
    page = visitor("mover", 1280, "light").page
    page.goto(f"{site}/walkthrough/cache")
    knob = next(knob for knob in EXPERIMENTS["cache"].knobs if knob.name == "share")
    slider, shown = page.get_by_role("slider", name=knob.label), page.locator(f"output[for={knob.name}]")
    expect(shown).to_have_text(f"{knob.small} %")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(shown).to_have_text(f"{knob.small + knob.step} %")
    page.keyboard.press("End")
    expect(shown).to_have_text(f"{knob.top(real=False)} %")


@pytest.mark.parametrize("over_https", [True, False])
def test_code_can_be_copied(site: str, visitor: Visitors, over_https: bool) -> None:
    """Offline too; and where a page came over plain HTTP, browsers give it no clipboard."""
    page = visitor("copyist", 375, "light").page
    if over_https:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    else:
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.goto(f"{site}/walkthrough/push")
    page.context.set_offline(True)
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    page.context.set_offline(False)
    page.goto(f"{site}/sign-in")
    page.evaluate("document.querySelector('main').append(document.createElement('textarea'))")
    page.locator("main > textarea").focus()
    page.keyboard.press("Control+V")
    pasted = page.locator("main > textarea").input_value()
    assert pasted.startswith('"""Deliver the id when somebody posts')
    assert pasted.rstrip().endswith(".to_list(n)")


def test_code_has_no_button_without_javascript(site: str, visitor: Visitors) -> None:
    page = visitor("reader", 375, "light", False).page
    page.goto(f"{site}/walkthrough/push")
    expect(page.locator(".prose pre").first).to_be_visible()
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)


def test_a_listing_leads_to_its_line_in_the_whole_file(site: str, visitor: Visitors) -> None:
    page = visitor("digger", 375, "dark").page
    page.goto(f"{site}/walkthrough/push#the-array-that-grows")
    expect(page.get_by_role("heading", name="The array that grows")).to_be_in_viewport()
    page.get_by_role("link", name="phases/p2_push.py").last.click()
    expect(page.locator(".line:target")).to_contain_text("async def deliver")
    expect(page.locator(".line:target")).to_be_in_viewport()
    fits(page)
    accessible(page)


def test_a_refusal_is_shown_in_the_chapter(site: str, visitor: Visitors) -> None:
    person = visitor("hasty", 375, "dark")
    page = person.page
    page.goto(f"{site}/walkthrough/beginning")
    page.locator("#statuses").evaluate("knob => { knob.max = 999999; knob.value = 999999; }")
    page.get_by_role("button", name="Run it here").click()
    expect(page.get_by_role("alert")).to_contain_text("from 2,000 to 20,000")
    expect(page).to_have_url(re.compile("/walkthrough/beginning$"))
    assert any("422" in complaint for complaint in person.complaints)
    person.complaints.clear()  # the browser's console notes each refused request


def test_a_chapter_prints_all_of_its_text_and_nothing_to_press(site: str, visitor: Visitors) -> None:
    page = visitor("printer", 1280, "dark").page
    page.goto(f"{site}/walkthrough/push")
    folded = page.locator("main details > :not(summary)").first
    expect(folded).to_be_hidden()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(folded).to_be_visible()
    for pressed in (page.get_by_role("banner"), page.get_by_role("navigation"), page.get_by_role("button")):
        expect(pressed.locator("visible=true")).to_have_count(0)
    ink = page.locator("main h1").evaluate("heading => getComputedStyle(heading).color")
    assert ink == "rgb(20, 32, 29)", "on paper, whatever the screen's colours"


def test_the_walkthrough_is_one_link_away(site: str, visitor: Visitors) -> None:
    page = visitor("newcomer", 375, "light").page
    page.goto(site)
    page.get_by_role("banner").get_by_role("link", name="Walkthrough").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The walkthrough")
    fits(page)
