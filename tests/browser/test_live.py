"""What goes on while one looks: new statuses, deliveries, operations; and the same by reloading without JavaScript."""

import re

import pytest
from playwright.sync_api import Route, expect

from phases import PHASES
from tests.browser.visitors import PASSWORD, TWO_VISITORS, Visitors, accessible, fits, reload_until, reload_until_said

pytestmark = pytest.mark.browser


def test_a_new_status_is_announced_and_nothing_jumps(site: str, visitor: Visitors) -> None:
    bob, ann = visitor("bob_live", 1280, "light"), visitor("ann_live", 375, "dark")
    bob.sign_up(site, "Bob B.")
    ann.sign_up(site, "Ann A.")
    ann.page.goto(f"{site}/@{bob.handle}")
    ann.page.get_by_role("button", name="Follow", exact=True).click()
    ann.post("mine")
    first = ann.page.get_by_role("article").first
    before = first.bounding_box()
    bob.post("from bob")
    news = ann.page.get_by_role("link", name="1 new status")
    expect(news).to_be_visible()
    assert first.bounding_box() == before
    expect(ann.page).to_have_title("(1) Timeline · Feedlab")
    accessible(ann.page)
    ann.composer().fill("a draft")
    ann.page.evaluate("document.title = document.title; window.stays = true")
    news.click()
    expect(ann.page.get_by_role("article").first).to_contain_text("from bob")
    expect(ann.page.get_by_role("article")).to_have_count(2)
    expect(news).to_be_hidden()
    expect(ann.page).to_have_title("Timeline · Feedlab")
    expect(ann.page.locator("#latest")).to_be_focused()
    expect(ann.page.get_by_label("What are you doing?")).to_have_value("a draft")
    assert ann.page.evaluate("window.stays"), "nothing was loaded anew"
    bob.post("once more")
    expect(news).to_be_visible()  # the new part is kept up to date like the first


def test_a_draft_outlives_its_page_and_is_posted_once(site: str, visitor: Visitors) -> None:
    ann = visitor("ann_drafts", 375, "light")
    ann.sign_up(site, "Ann A.")
    page, text = ann.page, ann.page.get_by_label("What are you doing?")
    ann.composer().fill("a long thought")
    page.get_by_label("For", exact=True).select_option("my circle")
    page.get_by_role("navigation", name="Phase that makes this timeline").get_by_role("link", name="push").click()
    expect(page.locator(".segments [aria-current]")).to_contain_text("push")
    expect(text).to_have_value("a long thought")
    expect(page.get_by_label("For", exact=True)).to_have_value("circle")
    page.goto(f"{site}/people")
    page.goto(site)
    expect(text).to_have_value("a long thought")
    once = page.locator("[name=once]").input_value()
    page.context.clear_cookies()
    page.get_by_role("button", name="Post").click()
    expect(page.get_by_role("alert")).to_contain_text("signed out")
    page.get_by_label("Handle").fill(ann.handle)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(text).to_have_value("a long thought")
    page.goto(site)
    expect(page.locator("[name=once]")).not_to_have_value(once)
    page.get_by_role("button", name="Post").click()
    expect(page.get_by_role("article")).to_have_count(1)
    expect(page.get_by_text("Posted.")).to_be_visible()
    expect(text).to_have_value("")
    page.reload()
    expect(text).to_have_value("")
    ann.complaints.clear()  # the answer's 401


def test_what_one_tab_posts_is_no_end_of_anothers_draft(site: str, visitor: Visitors) -> None:
    ann = visitor("ann_two_drafts", 1280, "light")
    ann.sign_up(site, "Ann A.")
    page, tab = ann.page, ann.page.context.new_page()
    text = page.get_by_label("What are you doing?")
    page.goto(site)
    text.fill("a long thought")
    tab.goto(site)
    tab.get_by_label("What are you doing?").fill("a short one")
    tab.evaluate("""async () => {
      const form = document.querySelector("form[data-draft]");
      await fetch(form.action, {method: "POST", body: new URLSearchParams(new FormData(form)), redirect: "manual"});
    }""")  # and is closed before its next page is there
    page.reload()
    expect(page.get_by_text("Posted.")).to_be_visible()
    expect(text).to_have_value("a long thought")
    page.reload()
    expect(text).to_have_value("a long thought")
    page.get_by_role("button", name="Post").click()
    expect(page.get_by_role("article")).to_have_count(2)
    expect(text).to_have_value("")


@pytest.mark.parametrize("scripts", [True, False])
def test_who_comes_back_to_older_statuses_is_where_they_were(
    manual_site: str, visitor: Visitors, scripts: bool
) -> None:
    page = visitor(f"reads_on_{scripts}".lower(), 375, "dark", scripts).page
    page.goto(manual_site)
    page.locator(".cast button").nth(1).click()
    articles = page.get_by_role("article")
    expect(articles).to_have_count(20)
    newest = articles.last.get_attribute("id")
    page.get_by_role("link", name="Older").click()
    expect(page).to_have_url(re.compile("before="))
    expect(articles).to_have_count(20)
    assert str(articles.first.get_attribute("id")) < str(newest)
    read = articles.nth(15)
    id = read.get_attribute("id")
    read.locator(".when").click()
    expect(page).to_have_url(re.compile("/statuses/"))
    page.go_back()
    expect(page).to_have_url(re.compile("before="))
    expect(page.locator(f"#{id} .text")).to_be_in_viewport()
    page.goto(f"{page.url}#{articles.nth(10).get_attribute('id')}")
    bar = page.locator(".phases").bounding_box()
    jumped_to = articles.nth(10).bounding_box()
    assert bar
    assert jumped_to
    assert bar["y"] + bar["height"] <= jumped_to["y"] < 812 / 2


def test_escape_closes_what_is_open(manual_site: str, visitor: Visitors) -> None:
    page = visitor("closes", 1280, "light").page
    page.goto(manual_site)
    page.locator(".cast button").nth(1).click()
    menu = page.locator(".menu").first
    mute = menu.get_by_role("button", name="Mute")
    menu.locator("summary").press("Enter")
    expect(mute).to_be_visible()
    page.keyboard.press("Tab")
    expect(mute).to_be_focused()
    accessible(page)
    page.keyboard.press("Escape")
    expect(mute).to_be_hidden()
    expect(menu.locator("summary")).to_be_focused()


def test_what_is_muted_or_deleted_goes_from_the_timeline_where_it_is(manual_site: str, visitor: Visitors) -> None:
    page = visitor("mutes", 1280, "light").page
    page.goto(manual_site)
    page.locator(".cast button").nth(1).click()
    page.get_by_label("What are you doing?").fill("mine")
    page.get_by_role("button", name="Post", exact=True).click()
    page.evaluate("window.stays = true")
    statuses = page.locator("#list").get_by_role("article")
    menu = page.locator("#list .menu")
    menu.first.locator("summary").press("Enter")
    menu.first.get_by_role("button", name="Delete for good").press("Enter")
    expect(page.get_by_text("Deleted.")).to_be_in_viewport()
    expect(page.get_by_text("mine", exact=True)).to_have_count(0)
    expect(statuses.first.get_by_role("link").first).to_be_focused()
    beside = page.locator(".readout h2")
    beside.click()
    expect(page.get_by_text("Deleted.")).to_have_count(0)
    author = str(statuses.first.locator(".who").get_attribute("href"))
    theirs = page.locator(f'#list .who[href="{author}"]')
    expect(theirs).not_to_have_count(0)
    menu.first.locator("summary").press("Enter")
    menu.first.get_by_role("button", name="Mute").press("Enter")
    said = page.get_by_text("You mute @")
    expect(said).to_be_in_viewport()
    expect(theirs).to_have_count(0)
    accessible(page)
    expect(statuses.first.get_by_role("link").first).to_be_focused()
    beside.click()
    expect(said).to_be_in_viewport()  # as long as it can be undone
    assert page.evaluate("window.stays"), "it is another page"
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("You do not mute @")).to_be_in_viewport()
    expect(theirs).not_to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_text("You do not mute @")).to_be_hidden()


@pytest.mark.parametrize("scripts", [True, False])
def test_following_in_a_list_leaves_one_where_one_was(manual_site: str, visitor: Visitors, scripts: bool) -> None:
    page = visitor(f"follows_{scripts}".lower(), 375, "light", scripts).page
    page.goto(manual_site)
    page.locator(".cast button").nth(2).click()
    page.get_by_role("navigation", name="Main").get_by_role("link", name="People").click()
    follow = page.locator("#list").get_by_role("button", name=re.compile("^Follow")).nth(30)
    row = page.locator(f"#{follow.evaluate('button => button.closest(`li`).id')}")
    follow.click()
    expect(row.get_by_role("button")).to_have_text(re.compile("^Unfollow"))
    expect(row).to_be_in_viewport()
    expect(page.get_by_text("You follow @")).to_be_in_viewport()
    page.keyboard.press("Tab")
    expect(row.get_by_role("link")).to_be_focused()


@pytest.mark.parametrize("scripts", [True, False])
def test_the_cost_of_the_other_phases_is_one_click_away(site: str, visitor: Visitors, scripts: bool) -> None:
    ann = visitor(f"ann_costs_{scripts}".lower(), 1280, "light", scripts)
    ann.sign_up(site, "Ann A.")
    ann.page.get_by_label("What are you doing?").fill("unsent")
    ann.page.get_by_role("link", name="What would the others cost?").click()
    expect(ann.page.locator(".bars li")).to_have_count(len(PHASES))
    text = ann.page.get_by_label("What are you doing?")
    expect(text).to_have_value("unsent" if scripts else "")


def test_characters_are_counted_while_typing(site: str, visitor: Visitors) -> None:
    ann = visitor("counter", 375, "light")
    ann.sign_up(site, "Ann A.")
    text = ann.composer()
    hint = ann.page.locator("#text-hint")
    expect(hint).to_contain_text("up to 500")
    text.fill(" hello ")
    expect(hint).to_have_text("495 left")
    text.fill("\U0001f600" * 501)
    expect(hint).to_have_text("1 too many")
    accessible(ann.page)
    ann.page.get_by_role("button", name="Post").click()
    expect(ann.page.locator("#text-wrong")).to_be_visible()
    expect(text).to_have_value("\U0001f600" * 501)
    expect(hint).to_have_text("1 too many")
    ann.complaints.clear()  # the answer's 422


@pytest.mark.parametrize(("width", "scheme", "scripts"), TWO_VISITORS)
def test_compare_and_watch_a_delivery(site: str, visitor: Visitors, width: int, scheme: str, scripts: bool) -> None:
    ann = visitor(f"ann_compare_{width}_{scheme}", width, scheme, scripts)
    ann.sign_up(site, "Ann A.")
    page = ann.page
    page.goto(f"{site}/?phase=cache")
    reload_until(page.locator(".cost", has_text="from the list"))  # another test may have switched phases a moment ago
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Compare").click()
    expect(page.get_by_text("All phases return the same page")).to_be_visible()
    expect(page.locator(".column")).to_have_count(len(PHASES))
    fits(page)
    for header in page.locator(".column header").all():
        box = header.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width, "nothing to scroll sideways"
    shown = page.locator(".column ol:visible")
    expect(shown).to_have_count(len(PHASES) if width > 1000 else 1)
    page.get_by_label("Post as").select_option(ann.handle)
    page.get_by_label("Status").fill("watch this")
    page.get_by_role("button", name="Post and watch").click()
    expect(page.get_by_role("heading", name="A delivery")).to_be_visible()
    delivered = page.get_by_text("Delivered.")
    if scripts:
        expect(delivered).to_be_visible()
    else:
        page.get_by_role("link", name="Look again").click()
        reload_until(delivered)
    own = page.get_by_role("row", name=re.compile(f"@{ann.handle}"))
    expect(own).to_contain_text(re.compile(r"\d ms\s+[\d.,]+ ms"))
    fits(page)
    if scripts:
        accessible(page)
    page.get_by_role("link", name="Back to compare").click()
    expect(page.get_by_text("All phases return the same page")).to_be_visible()
    expect(page.locator(".column").last).to_contain_text("watch this")
    page.get_by_role("link", name="Check 20 readers").click()
    expect(page.get_by_text(re.compile(r"All \d+ readers see the same page"))).to_be_visible()


@pytest.mark.parametrize(("width", "scheme", "scripts"), [(375, "light", False), (1280, "dark", True)])
def test_operations_disturb_it_and_timelines_stay_right(
    site: str, visitor: Visitors, width: int, scheme: str, scripts: bool
) -> None:
    ann = visitor(f"ann_operates_{width}", width, scheme, scripts)
    ann.sign_up(site, "Ann A.")
    ann.post("before")
    page = ann.page

    def operations() -> None:
        page.get_by_role("navigation", name="Main").get_by_role("link", name="Operations").click()

    operations()
    page.get_by_role("button", name="Pause workers").click()
    expect(page.get_by_role("button", name="Resume workers")).to_be_visible()
    ann.post("while paused")
    operations()
    reload_until(page.get_by_role("row", name=re.compile("^cache [1-9]")))  # what is pending is sampled
    fits(page)
    page.get_by_role("link", name="Check timelines").click()
    expect(page.get_by_text(re.compile(r"All \d+ readers see the same page"))).to_be_visible()
    operations()
    page.get_by_role("button", name="Resume workers").click()
    expect(page.get_by_role("button", name="Pause workers")).to_be_visible()
    if scripts:  # live, without a reload
        expect(page.get_by_role("row", name=re.compile("^cache 0"))).to_be_visible()
    page.get_by_role("button", name="Forget all lists").click()
    expect(page.get_by_text("The lists in Memcached are forgotten")).to_be_visible()
    page.get_by_role("button", name="Send 90 % away").click()
    expect(page.get_by_text("Nine in ten people are away")).to_be_visible()
    for phase in PHASES:
        page.goto(f"{site}/?phase={phase.slug}")
        expect(page.get_by_role("article")).to_contain_text(["while paused", "before"])


def test_figures_change_under_whoever_reads_them(site: str, visitor: Visitors) -> None:
    ann = visitor("ann_reads_on", 600, "light")  # where the table is wider than its place
    ann.sign_up(site, "Ann A.")
    page = ann.page
    objectives = page.get_by_role("region", name="Objectives", exact=True)
    requests = objectives.locator("[data-label=requests]").first

    def comes_to_a_reader(route: Route) -> None:
        objectives.focus()
        objectives.evaluate("one => { one.scrollLeft = 40; }")
        route.continue_()

    page.route("**/operations/live", comes_to_a_reader)
    page.goto(f"{site}/operations")
    expect(objectives).to_be_focused()
    for _ in range(2):
        before = requests.inner_text()
        page.evaluate("fetch('/people')")
        expect(requests).not_to_have_text(before)
        expect(objectives).to_be_focused()
        assert objectives.evaluate("one => one.scrollLeft") == 40


@pytest.mark.parametrize("scripts", [True, False])
def test_whoever_returns_is_shown_everything_and_warmed_up_by_refresh(
    manual_site: str, visitor: Visitors, scripts: bool
) -> None:
    ann = visitor(f"ann_cold_{scripts}".lower(), 375, "dark", scripts)
    ann.sign_up(manual_site, "Ann A.")
    ann.post("here already")
    page = ann.page
    page.goto(f"{manual_site}/operations")
    page.get_by_role("button", name="Forget all lists").click()
    page.goto(f"{manual_site}/?phase=cache")
    cold = page.get_by_text("Your timeline is cold.")
    reload_until(cold)  # until the grace after the first start is over, phase 1 answers
    expect(page.get_by_role("article")).to_contain_text(["here already"])
    fits(page)
    page.get_by_role("button", name="Refresh").click()
    expect(cold).to_be_hidden()
    expect(page.get_by_role("article")).to_contain_text(["here already"])
    reload_until_said(page.locator(".source"), "list")  # a read that takes too long asks phase 1
