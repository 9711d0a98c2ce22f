"""The pages on the stand-ins, asked as a browser without JavaScript asks: links, forms and cookies."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html import unescape
from itertools import combinations, count, product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from bson import ObjectId
from pymongo.errors import ServerSelectionTimeoutError
from starlette.requests import Request
from starlette.routing import Route

from app.accounts import Accounts
from app.live.presence import GRACE_S
from app.models import Account, User
from app.stack.cost import counted
from app.stack.mongodb import stand_in
from app.web import dashboard, done, home_timeline, live, notifications, pages, people, session
from app.web.cast import cast, warm
from app.web.render import ago
from phases import DEFAULT, PHASES
from phases.p1_query import QUERY
from phases.p2_push import PUSH
from phases.p4_cache import CACHE
from tests.site import PASSWORD, SLUGS, Browser, Form, Site, forms, opened, texts
from tests.world import flush
from workers.worker import drain_queues

pytestmark = pytest.mark.anyio


# Strangers


async def test_the_first_page_tells_a_stranger_what_this_is_in_less_than_50_kb(site: Site) -> None:
    browser = site.browser()
    html = await browser.open("/")
    style = await browser.client.get(re.findall(r'href="(/static/style\.css[^"]*)"', html)[0])
    assert len(browser.answer.content) + len(style.content) < 50_000
    assert all(phase.slug in html and phase.title in html for phase in PHASES)
    assert 'href="/sign-up"' in html
    assert 'href="/sign-in"' in html
    assert "demo" not in html.lower()


@pytest.mark.parametrize("address", ["/people", "/@ann", "/@ann/followers", "/@ann/following", "/phases"])
async def test_a_page_for_members_sends_a_stranger_to_sign_in_and_back(site: Site, address: str) -> None:
    await site.browser().sign_up("ann")
    stranger = site.browser()
    answer = await stranger.client.get(address)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=" + quote(address, safe="")
    await stranger.open(address)
    await stranger.submit("/sign-in", handle="ann", password=PASSWORD)
    assert (stranger.status, stranger.answer.url.path) == (200, address)


@pytest.mark.parametrize(("q", "next"), [("見" * 50, True), ('"' * 1000, False)])
async def test_however_long_an_address_a_stranger_signs_in_first(site: Site, q: str, next: bool) -> None:
    answer = await site.browser().client.get("/people", params={"q": q})
    assert answer.headers["location"].startswith("/sign-in?next=%2Fpeople" if next else "/sign-in")


async def test_an_unknown_address_is_a_page_too(site: Site) -> None:
    browser = await site.browser().sign_up("ann")
    for address in ("/nothing", "/@nobody", "/@ann/nothing", "/statuses/" + "0" * 24, "/statuses/x", "/?before=x"):
        html = await browser.open(address)
        assert browser.status == 404, address
        assert "Nothing is here" in html


async def test_an_address_that_only_takes_forms_says_so(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    for address in ("/sign-out", "/timeline/refresh", "/walkthrough/push/runs"):
        html = await ann.open(address)
        assert (ann.status, ann.answer.headers["allow"]) == (405, "POST"), address
        assert "A form is sent to this address" in html
        assert "method" not in html.partition("<main")[2].lower()


async def test_the_address_of_a_form_leads_to_its_page(site: Site) -> None:
    """It is in the address bar behind a form that was refused, and a phone opens it once more."""
    ann, _ = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    await ann.open("/@bob")
    await ann.submit("/@bob/conversation")
    names = {"handle": "bob", "id": ann.answer.url.path.rpartition("/")[2]}
    for form, place in pages.FORMS.items():
        await ann.open(form.format(**names))
        there = "/" if place == "/sign-in" else place.format(**names)  # who is signed in goes on from there
        assert (ann.status, ann.answer.url.path) == (200, there), form
    answer = await ann.client.put("/settings/password")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD", "POST"})
    stranger = site.browser()
    await stranger.open("/settings/password")
    assert str(stranger.answer.url).endswith("/sign-in?next=%2Fsettings")


async def test_static_files_are_kept_for_ever_under_their_version(site: Site) -> None:
    browser = site.browser()
    (address,) = re.findall(r'href="(/static/style\.css[^"]*)"', await browser.open("/"))
    versioned, plain = await browser.client.get(address), await browser.client.get("/static/style.css")
    assert "immutable" in versioned.headers["cache-control"]
    assert plain.headers["cache-control"] == "no-cache"
    assert (await browser.client.get("/static/../pages.py")).status_code == 404


# Signing up, in and out


async def test_what_is_wrong_with_a_sign_up_stands_beside_what_was_typed(site: Site) -> None:
    browser = site.browser()
    await browser.open("/sign-up")
    html = await browser.submit("/sign-up", handle="Not a handle", name="Ann", password=PASSWORD)
    assert browser.status == 422
    assert 'id="handle-wrong"' in html
    assert 'value="Not a handle"' in html
    assert 'value="Ann"' in html
    assert PASSWORD not in html
    html = await browser.submit("/sign-up", handle="ann", name="Ann", password="short")
    assert browser.status == 422
    assert 'id="password-wrong"' in html
    html = await browser.submit("/sign-up", handle="Not a handle", name="x" * 101, password="short")
    assert re.findall(r'id="(\w+)-wrong"', html) == ["handle", "name", "password"], "all at once"
    assert re.findall(r'<input[^>]* id="(\w+)"[^>]* autofocus', html) == ["handle"]
    assert re.findall(r'<input[^>]* id="(\w+)"[^>]* minlength="8"', html) == ["password"]
    await browser.submit("/sign-up", handle="@ann ", name="Ann", password=PASSWORD)
    assert (browser.status, browser.answer.url.path) == (200, "/")
    assert "@ann<" in browser.html
    other = site.browser()
    await other.open("/sign-up")
    html = await other.submit("/sign-up", handle="ANN", password=PASSWORD)
    assert other.status == 409
    assert "taken" in html


async def test_signing_in_and_out(site: Site) -> None:
    await site.browser().sign_up("ann")
    browser = site.browser()
    await browser.open("/sign-in")
    html = await browser.submit("/sign-in", handle="ann", password="wrong horse")
    assert browser.status == 401
    assert 'value="ann"' in html
    assert "wrong horse" not in html
    assert "@ann" in await browser.submit("/sign-in", handle="@Ann ", password=PASSWORD)
    token = browser.client.cookies[session.SESSION]
    await browser.open("/")
    assert 'href="/sign-in"' in await browser.submit("/sign-out")
    assert session.SESSION not in browser.client.cookies
    browser.client.cookies.set(session.SESSION, token)
    assert "@ann" not in await browser.open("/")


async def test_too_many_failed_sign_ins_are_told_when_to_come_back() -> None:
    async with opened(failed_sign_ins_per_minute=1) as site:
        browser = site.browser()
        await browser.open("/sign-in")
        await browser.submit("/sign-in", handle="ann", password="wrong horse")
        html = await browser.submit("/sign-in", handle="ann", password="wrong horse")
        assert browser.status == 429
        assert f" Try again in {int(browser.answer.headers['retry-after'])} s." in html


async def test_a_browser_that_has_signed_in_before_is_not_locked_out_by_another() -> None:
    async with opened(failed_sign_ins_per_minute=1, failed_sign_ins_per_handle=2) as site:
        ann, stranger = await site.browser().sign_up("ann"), site.browser()
        await ann.open("/")
        await ann.submit("/sign-out")
        for browser, password, status in (
            (ann, PASSWORD, 200),
            (stranger, "wrong horse", 401),
            (stranger, PASSWORD, 429),
            (ann, PASSWORD, 200),
        ):
            await browser.open("/sign-in")
            await browser.submit("/sign-in", handle="ann", password=password)
            assert browser.status == status
            if status == 200:
                await browser.open("/")
                await browser.submit("/sign-out")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Site, scheme: str) -> None:
    browser = site.browser(f"{scheme}://feedlab.test")
    await browser.open("/sign-up")
    form = browser.form("/sign-up")
    answer = await browser.client.post("/sign-up", data=form.fields | {"handle": "ann", "password": PASSWORD})
    (cookie,) = [c for c in answer.headers.get_list("set-cookie") if c.startswith(session.SESSION)]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert ("Secure" in cookie) == (scheme == "https")


async def test_cookies_of_others_are_not_looked_into(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """To unquote them takes a time that grows with the square of their length."""
    ann = await site.browser().sign_up("ann")
    own = "; ".join(f"{name}={value}" for name, value in ann.client.cookies.items())

    def unquoted(text: str) -> str:
        raise AssertionError(text)

    monkeypatch.setattr("http.cookies._unquote", unquoted)
    stranger = site.browser()
    answer = await stranger.client.get("/settings", headers={"Cookie": f'a="\\"\\""; {own}; b'})
    assert answer.status_code == 200


AWAY = [
    "https://evil.test/",
    "//evil.test/",
    "/\\evil.test/",
    "\\\\evil.test",
    "/\t/evil.test",
    "\n//evil.test",
    "javascript:alert(1)",
    "evil.test",
    "",
    "/" + "a" * 1000,
]


async def test_signing_in_leads_to_no_other_site(site: Site) -> None:
    await site.browser().sign_up("ann")
    for next_, given in product(AWAY, ("address", "field")):
        browser = site.browser()
        await browser.open("/sign-in" + (f"?next={quote(next_, safe='')}" if given == "address" else ""))
        typed = {"handle": "ann", "password": PASSWORD} | ({"next": next_} if given == "field" else {})
        fields = browser.form("/sign-in").fields | typed
        answer = await browser.client.post("/sign-in", data=fields)
        assert (answer.status_code, answer.headers["location"]) == (303, "/"), (next_, given)


OURS_SENT = {"origin": "http://feedlab.test", "sec-fetch-site": "same-origin"}  # as browsers say


@pytest.mark.parametrize("page", ["/sign-in", "/sign-up"])
async def test_who_signs_in_by_a_form_from_before_another_cookie_has_a_new_one(site: Site, page: str) -> None:
    """Tabs that were opened at once, each of which made a cookie; or somebody else has signed in in another one."""
    await site.browser().sign_up("ann")
    browser = site.browser()
    await browser.open(f"{page}?next=/people")
    handle = "ann" if page == "/sign-in" else "cat"
    sent = browser.form(page).fields | {"handle": handle, "name": "Cat C.", "password": PASSWORD}
    for known_now in ("a stranger", "bob"):
        browser.client.cookies.clear()
        if known_now == "bob":
            await browser.sign_up("bob")
        else:
            await browser.open(page)
        browser.answer = await browser.client.post(page, data=sent, headers=OURS_SENT)
        assert browser.status == 403
        assert "This form was out of date" in browser.html
        assert PASSWORD not in browser.html
        again = browser.form(page).fields
        assert {name: again[name] for name in ("handle", "next")} == {"handle": handle, "next": "/people"}
        assert again.get("name", "Cat C.") == "Cat C."
    await browser.submit(page, password=PASSWORD)
    assert (browser.status, browser.answer.url.path) == (200, "/people")
    assert f'href="/@{handle}"' in browser.html


@pytest.mark.parametrize("page", ["/sign-in", "/sign-up", "/sign-in-as"])
async def test_who_presses_twice_to_sign_in_is_signed_in(demo: Site, page: str) -> None:
    """The second time the browser has the session already, and the form's proof is of before."""
    if page != "/sign-up":
        await demo.browser().sign_up("ann")
    browser = demo.browser()
    await browser.open(f"{page.removesuffix('-as')}?next=/people")
    sent = browser.form(page).fields | {"handle": "ann" if page == "/sign-in-as" else "@Ann", "password": PASSWORD}
    for _ in range(2):
        answer = await browser.client.post(page, data=sent, headers=OURS_SENT)
        assert (answer.status_code, answer.headers["location"]) == (303, "/people")
    browser.answer = await browser.client.post(page, data=sent | {"next": "/", "text": "kept"}, headers=OURS_SENT)
    assert browser.form("/statuses").fields["text"] == "kept", "what was to be sent when they had signed in"
    assert texts(await browser.open("/")) == []


async def test_another_site_gets_no_form_by_one_that_is_out_of_date(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    silent, other = dict[str, str](), {**OURS_SENT, "sec-fetch-site": "cross-site"}
    for headers in (silent, other, {"origin": "null"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"}):
        forged = {"handle": "ann", "text": "forged", "password": PASSWORD}
        for browser in (ann, site.browser()):
            answer = await browser.client.post("/sign-in", data=forged, headers=headers)
            assert answer.status_code == 403, headers
            assert 'action="/sign-in"' not in answer.text
            assert "forged" not in answer.text


# Forms from elsewhere


def _posts() -> list[str]:
    paths = [route.path for route in pages.routes if isinstance(route, Route) and "POST" in (route.methods or ())]
    return [path.format(handle="bob", id="0" * 24, seq="1") for path in paths]


async def test_a_form_without_the_proof_of_this_session_is_refused(demo: Site) -> None:
    ann, bob = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await bob.open("/")
    theirs = bob.form("/statuses").fields[session.PROOF]
    for path, wrong in product(_posts(), (None, "", theirs, "\u00e9")):
        typed = {"text": "forged", "handle": "bob", "password": PASSWORD}
        answer = await ann.client.post(path, data=typed if wrong is None else typed | {session.PROOF: wrong})
        assert answer.status_code == 403, (path, wrong)
        assert "set-cookie" not in answer.headers, (path, wrong)
    assert "forged" not in await ann.open("/")
    assert "Unfollow" not in await ann.open("/@bob")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"origin": "http://feedlab.test.evil.test"},
    ],
)
async def test_a_form_that_another_site_sent_is_refused_whatever_it_carries(
    site: Site, headers: dict[str, str]
) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.open("/")
    fields = ann.form("/statuses").fields | {"text": "forged"}
    assert (await ann.client.post("/statuses", data=fields, headers=headers)).status_code == 403
    assert texts(await ann.open("/")) == []
    same = {"origin": "http://feedlab.test", "sec-fetch-site": "same-origin"}
    assert (await ann.client.post("/statuses", data=fields, headers=same)).status_code == 303


@pytest.mark.parametrize(
    ("base", "host", "origin"),
    [
        ("https://feedlab.test", "feedlab.test:443", "https://feedlab.test"),
        ("http://feedlab.test", "feedlab.test", "http://feedlab.test:80"),
        ("http://feedlab.test:81", "feedlab.test:81", "http://feedlab.test:81"),
    ],
)
async def test_a_port_that_the_scheme_implies_may_be_left_out(site: Site, base: str, host: str, origin: str) -> None:
    ann = await site.browser(base).sign_up("ann")
    await ann.open("/")
    fields = ann.form("/statuses").fields | {"text": "mine"}
    for sender, status in ((origin, 303), (origin + "0", 403), (origin.replace("://", "://x."), 403)):
        answer = await ann.client.post("/statuses", data=fields, headers={"host": host, "origin": sender})
        assert answer.status_code == status, sender


async def test_behind_a_proxy_that_changes_the_host_forms_come_from_our_names() -> None:
    async with opened(allowed_hosts=("feed.example",)) as site:
        ann = await site.browser().sign_up("ann")
        await ann.open("/")
        fields = ann.form("/statuses").fields | {"text": "mine"}
        for origin, status in (("https://feed.example", 303), ("https://evil.example", 403)):
            assert (await ann.client.post("/statuses", data=fields, headers={"origin": origin})).status_code == status


OURS = (
    "127.0.0.1:8000",
    "[::1]:8000",
    "[::1]",
    "192.0.2.1",
    "localhost:8000",
    "a.localhost",
    "feedlab",
    "feedlab.test",
)
STRANGE = ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "evil.example.", "feed.example.evil", "a@b.c")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"demo": True}, ()),
        ({"allowed_hosts": ("feed.example",)}, ("feed.example", "Feed.Example:443")),
        ({"allowed_hosts": ("feed.example",), "demo": True}, ("feed.example",)),
    ],
)
async def test_a_name_of_somebody_else_is_not_answered_for(settings: dict[str, Any], names: tuple[str, ...]) -> None:
    async with opened(**settings) as site:
        client = site.browser().client
        for path in ("/", "/api/v1/openapi.json", "/healthz"):
            for host in (*OURS, *names):
                assert (await client.get(path, headers={"host": host})).status_code == 200, host
            for host in STRANGE:
                assert (await client.get(path, headers={"host": host})).status_code == 421, host


async def test_two_instances_on_one_host_keep_two_sessions(site: Site) -> None:
    ann, bob = await site.browser("http://localhost:8001").sign_up("ann"), site.browser("http://localhost:8002")
    bob.client.cookies = ann.client.cookies  # a browser has one jar for all ports
    await bob.sign_up("bob")
    assert "@ann" in await ann.open("/")
    assert "@bob" in await bob.open("/")
    await bob.submit("/sign-out")
    assert "@ann" in await ann.open("/")


# The timeline


async def test_what_somebody_posts_is_on_their_followers_page_in_every_phase(demo: Site) -> None:
    ann, bob = await demo.browser().sign_up("ann", "Ann A."), await demo.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await bob.post("first\nof two lines")
    demo.clock.advance(2)
    await bob.post("second")
    for slug in SLUGS:
        assert texts(await ann.open(f"/?phase={slug}")) == ["second", "first\nof two lines"], slug
    assert ann.html.count('<a class="handle" href="/@bob" tabindex="-1">@bob</a>') == 2
    assert re.search(r'<time data-ago datetime="\d{4}-\d\d-\d\dT[\d:]+Z" title="[^"]+ UTC">now</time>', ann.html)


async def test_the_phase_is_remembered_and_the_systems_own_is_marked(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    marked = r'\?phase=(\w+)" aria-current="true"'
    assert re.findall(marked, await ann.open("/")) == [DEFAULT.slug]
    assert re.findall(r"</b>(\w+)<i></i><span class=\"away\"> \(the system", ann.html) == [DEFAULT.slug]
    await ann.open("/?phase=push")
    assert re.findall(marked, await ann.open("/")) == ["push"]
    await ann.open(f"/?phase={DEFAULT.slug}")
    assert home_timeline.PHASE_COOKIE not in ann.client.cookies
    ann.client.cookies.set(home_timeline.PHASE_COOKIE, "nonsense")
    assert re.findall(marked, await ann.open("/")) == [DEFAULT.slug]
    await ann.open("/?phase=nonsense")
    assert ann.status == 422


async def test_the_cost_line_counts_commands_and_says_when_figures_mean_nothing(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    html = await ann.open("/?phase=query")
    figures = dict(re.findall(r"<dt>(\w+)</dt><dd>([\d.]+)", html))
    assert int(figures["MongoDB"]) >= 1
    assert (figures["Memcached"], figures["Redis"]) == ("0", "0")
    assert float(figures["Time"]) >= 0
    assert "Stand-ins: figures are meaningless" in html
    assert int(dict(re.findall(r"<dt>(\w+)</dt><dd>([\d.]+)", await ann.open("/?phase=cache")))["Memcached"]) >= 1


@pytest.mark.parametrize("bad", ["x" * 501, "   ", "\r\n"])
async def test_what_cannot_be_posted_stays_in_its_field(site: Site, bad: str) -> None:
    ann = await site.browser().sign_up("ann")
    html = await ann.post(bad, "circle")
    assert ann.status == 422
    told = "Write something, at most 500 characters." if bad.isspace() else "At most 500 characters."
    assert f'<p class="wrong" id="text-wrong">{told}</p>' in html
    assert ann.form("/statuses").fields["text"] == bad.replace("\r\n", "\n")
    assert '<option value="circle" selected>' in html
    await ann.open("/")
    await ann.submit("/statuses", text="kept", audience="everybody")
    assert ann.status == 422
    assert ann.form("/statuses").fields["text"] == "kept"


async def test_line_breaks_count_once(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.post("\r\n".join("x" * 250))  # 250 characters and 249 breaks
    assert ann.status == 200
    assert texts(ann.html) == ["\n".join("x" * 250)]


async def test_a_double_click_posts_once_and_going_back_posts_again(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.open("/")
    fields = ann.form("/statuses").fields
    for text in ("once", "once", "twice"):
        assert (await ann.client.post("/statuses", data=fields | {"text": text})).status_code == 303
    assert sorted(texts(await ann.open("/"))) == ["once", "twice"]


async def test_nothing_typed_becomes_markup(site: Site) -> None:
    evil = "<script>alert(1)</script>\"'&"
    ann = await site.browser().sign_up("ann", evil)
    await ann.post(evil)
    for address in (
        "/",
        "/@ann",
        "/people",
        f"/people?q={quote(evil)}",
        "/@ann/followers",
        f"/sign-in?next={quote(evil)}",
    ):
        html = await ann.open(address)
        assert "<script>" not in html, address
    assert texts(await ann.open("/")) == ["&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;"]
    html = await ann.post(evil * 30)
    assert ann.status == 422
    assert "<script>" not in html


async def test_likes_are_shown_where_there_are_any(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    await ann.act("bob", "follow")
    (id,) = re.findall(r'href="/statuses/(\w{24})"', await bob.post("hello"))
    assert 'class="likes"' not in bob.html
    here = site.app.state.services
    for handle, words in (("ann", ">1 like<"), ("bob", ">2 likes<")):
        await here.statuses.like((await here.people.by_handle(handle)).id, ObjectId(id))
        for address in ("/", "/@bob", f"/statuses/{id}"):
            assert words in await ann.open(address), address


async def test_a_status_is_liked_by_a_button(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    await ann.act("bob", "follow")
    (id,) = re.findall(r'href="/statuses/(\w{24})"', await bob.post("hello"))
    for address in ("/", "/@bob", f"/statuses/{id}"):
        html = await ann.open(address)
        assert html.count('aria-pressed="false"') == 1
        html = await ann.submit(f"/statuses/{id}/like")
        assert ann.answer.url.path == address
        assert ann.answer.url.fragment == f"s{id}"
        assert (html.count('aria-pressed="true"'), ">1 like<" in html) == (1, True)
        html = await ann.submit(f"/statuses/{id}/unlike")
        assert (html.count('aria-pressed="false"'), 'class="likes"' in html) == (1, False)
    await ann.act("bob", "unfollow")
    await ann.client.get("/")
    (form,) = [form for form in forms(ann.html) if form.action == "/@bob/follow"]
    answer = await ann.client.post(f"/statuses/{id}/like", data=form.fields)
    assert answer.status_code == 404, "what cannot be seen"


async def test_a_deleted_status_leads_to_the_timeline_from_its_own_page(site: Site) -> None:
    bob = await site.browser().sign_up("bob")
    (id,) = re.findall(r'href="/statuses/(\w{24})"', await bob.post("hello"))
    await bob.open(f"/statuses/{id}")
    await bob.submit(f"/statuses/{id}/delete")
    assert (bob.status, bob.answer.url.path) == (200, "/")


async def test_mentions_are_links_where_the_mentioned_may_see_them(site: Site) -> None:
    people = {name: await site.browser().sign_up(name) for name in ("ann", "ben", "bob", "cat")}
    for name in ("ann", "ben"):
        await people[name].act("bob", "follow")
    await people["bob"].act("ann", "add-to-circle")
    await people["bob"].act("ann", "follow")
    names = "@Ann, @ben, @cat, @bob, @nobody & me@ann"
    for audience, linked in (("followers", ("ann", "ben")), ("mutuals", ("ann",)), ("circle", ("ann",))):
        html = await people["bob"].post(names, audience)
        (id, *_) = re.findall(r'href="/statuses/(\w{24})"', html)
        for address in ("/", "/@bob", f"/statuses/{id}"):
            shown = texts(await people["ann"].open(address))[0]
            expected = names.replace("&", "&amp;")
            for handle, written in (("ann", "@Ann"), ("ben", "@ben")):
                if handle in linked:
                    expected = expected.replace(written, f'<a href="/@{handle}">{written}</a>', 1)
            assert shown == expected, (audience, address)
    await people["bob"].act("ben", "block")
    assert "/@ben" not in texts(await people["bob"].open("/"))[2]


async def told(site: Site, browser: Browser, address: str = "/notifications") -> list[str]:
    """After a worker's turn: each line of the page, in words."""
    await drain_queues(site.timelines)
    html = await browser.open(address)
    assert browser.status == 200
    lines = re.findall(r'<li class="told.*?<p>(.*?)<span class="when">', html, re.DOTALL)
    return [" ".join(re.sub("<[^>]*>", "", line).split()) for line in lines]


def badge(html: str) -> str | None:
    found = re.search(r'class="bell" href="/notifications".*?(?:<b>(.*?)</b>)?</a>', html, re.DOTALL)
    assert found
    return found[1]


async def test_notifications_are_told_in_groups(site: Site) -> None:
    zoe = await site.browser().sign_up("zoe")
    fans = [await site.browser().sign_up(f"fan{n}", f"Fan {n}") for n in range(4)]
    assert "Nothing yet" in await zoe.open("/notifications")
    assert badge(zoe.html) is None
    (id,) = re.findall(r'href="/statuses/(\w{24})"', await zoe.post("liked by many"))
    for fan in fans:
        await fan.act("zoe", "follow")
        await fan.open("/")
        await fan.submit(f"/statuses/{id}/like")
    assert await told(site, zoe) == ["New: Fan 3 and 3 others liked your status", "New: Fan 3 and 3 others follow you"]
    assert badge(zoe.html) == "8"
    for address in ("/", "/people", "/walkthrough", "/@zoe", f"/statuses/{id}", "/@nobody", "/compare"):
        assert badge(await zoe.open(address)) == "8", address
    await zoe.open("/notifications")
    html = await zoe.submit("/notifications/read")
    assert (badge(html), "Mark all as read" in html) == (None, False)
    await fans[0].act("zoe", "unfollow")
    await fans[1].act("zoe", "add-to-circle")
    await zoe.act("fan1", "follow")
    await fans[1].post("hello @zoe")
    assert await told(site, zoe) == [
        "New: Fan 1 mentioned you in a status",
        "New: Fan 1 added you to their circle",
        "Fan 3 and 3 others liked your status",
        "Fan 3 and 2 others follow you",
    ]
    assert "hello @zoe" in zoe.html


async def test_a_badge_counts_to_nine(site: Site) -> None:
    zoe = await site.browser().sign_up("zoe")
    for n in range(10):
        await (await site.browser().sign_up(f"fan{n}")).act("zoe", "follow")
        await drain_queues(site.timelines)
        assert badge(await zoe.open("/")) == (str(n + 1) if n < 9 else "9+")


async def test_notifications_go_on_on_further_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "NOTIFICATIONS_A_PAGE", 2)
    zoe = await site.browser().sign_up("zoe")
    for n in range(3):
        await (await site.browser().sign_up(f"fan{n}", f"Fan {n}")).act("zoe", "follow")
    assert await told(site, zoe) == ["New: Fan 2 and Fan 1 follow you"]
    (older,) = re.findall(r'href="(/notifications\?before=\d+)"', zoe.html)
    assert await told(site, zoe, older) == ["New: Fan 0 follows you"]
    assert "Mark all as read" not in zoe.html, "it would leave the newer ones"
    assert "That is the end" in await zoe.open("/notifications?before=1")
    for wrong in ("x", "", "-1", "9" * 30):
        await zoe.open(f"/notifications?before={wrong}")
        assert zoe.status == 404, wrong


async def test_notifications_go_on_where_nothing_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inbox.notifications.LOOKED_AT", 2)
    zoe, ann, stranger = [await site.browser().sign_up(name) for name in ("zoe", "ann", "stranger")]
    await ann.act("zoe", "follow")
    for n in range(2):
        await stranger.post(f"{n} @zoe")
    assert await told(site, zoe) == []
    assert "Nothing yet" not in zoe.html
    (older,) = re.findall(r'href="(/notifications\?before=\d+)"', zoe.html)
    assert await told(site, zoe, older) == ["New: ann follows you"]


async def test_a_badge_costs_one_look_up(site: Site) -> None:
    """Each of the two, beside the one for the token, in whose command they travel; and no page's costs show it."""
    zoe = await site.browser().sign_up("zoe")
    await zoe.open("/muted")
    cookie = "; ".join(f"{name}={value}" for name, value in zoe.client.cookies.items())
    headers = [(b"host", b"feedlab.test"), (b"cookie", cookie.encode())]
    with counted() as cost:
        opened = await session.open_session(Request({"type": "http", "app": site.app, "headers": headers}))
    assert opened.account
    assert (opened.unread, opened.talking, cost.mongodb) == (0, 0, 3)
    with counted() as shown:
        await site.timelines.page(opened.account.id, limit=20)
    for _ in range(2):
        html = await zoe.open("/")
    assert f"<dt>MongoDB</dt><dd>{shown.mongodb}</dd>" in html


async def test_audience_and_delete_are_shown_where_they_apply(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await bob.act("ann", "add-to-circle")
    await bob.post("for few", "circle")
    assert "Delete for good" in bob.html
    html = await ann.open("/")
    assert texts(html) == ["for few"]
    assert "</span>circle</span>" in html
    assert "Delete" not in html
    (id,) = re.findall(r'href="/statuses/(\w{24})"', html)
    assert texts(await ann.open(f"/statuses/{id}")) == ["for few"]
    fields = {session.PROOF: bob.form("/statuses").fields[session.PROOF]}
    answer = await ann.client.post(
        f"/statuses/{id}/delete", data={session.PROOF: ann.form("/sign-out").fields["proof"]}
    )
    assert answer.status_code == 404
    answer = await bob.client.post(f"/statuses/{id}/delete", data=fields | {"next": "/@bob"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/@bob")
    assert texts(await ann.open("/")) == []


async def test_every_page_has_a_title_of_its_own(site: Site) -> None:
    ann = await site.browser().sign_up("ann", "Ann A.")
    own, far = "/@ann", f"before={'f' * 24}"
    addresses = ["/", "/people", "/people?q=a", "/people?q=b", "/notifications", "/conversations", "/muted"]
    addresses += [own, f"{own}/followers", f"{own}/following"]
    addresses += [f"{one}?{far}" for one in ("/", own, f"{own}/followers", f"{own}/following", "/muted")]
    addresses += ["/people?after=a", "/people?q=a&after=a", "/notifications?before=1"]
    titles = [re.findall("<title>(.*) · Feedlab</title>", await ann.open(one))[0] for one in addresses]
    assert len(set(titles)) == len(addresses), titles
    assert titles[:4] == ["Timeline", "People", "“a”, People", "“b”, People"]
    assert "Followed by Ann A. (@ann), continued" in titles


@pytest.mark.parametrize("slug", [QUERY.slug, DEFAULT.slug])
async def test_older_pages_lead_to_the_first_status_and_back(demo: Site, slug: str) -> None:
    ann = await demo.browser().sign_up("ann")
    author = await User.find_one({"handle": "ann"})
    assert author
    for n in range(45):
        demo.clock.advance(2)
        await demo.app.state.services.statuses.post(author.id, f"status {n}")
    await ann.open(f"/?phase={slug}")
    seen = texts(ann.html)
    while older := re.findall(r'href="([^"]+)" rel="next"', ann.html):
        html = await ann.open(older[0].replace("&amp;", "&"))
        assert '<a class="button quiet" href="/" rel="first">' in html
        assert 'name="text"' not in html, "the composer is on the newest page"
        seen += texts(html)
    assert seen == [f"status {n}" for n in reversed(range(45))]
    assert f'?phase=query&amp;before={re.findall("before=(.{24})", str(ann.answer.url))[0]}"' in ann.html


async def test_an_empty_timeline_says_what_to_do(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    assert "no list was kept for you; it has been filled." in ann.html
    assert "You follow nobody yet" in await ann.open("/")
    assert 'href="/people"' in ann.html
    for address, buttons in {"/people": 2, "/": 1}.items():  # suggested, and among everybody
        await ann.open(address)
        follow = [form.action for form in forms(ann.html) if "/follow" in form.action]
        assert follow == ["/@bob/follow"] * buttons, address
    await ann.submit("/@bob/follow")
    assert "Nothing here yet" in ann.html
    assert "/follow" not in await ann.open("/people")
    assert bob.status == 200


async def test_a_cold_timeline_is_complete_and_refreshed_by_its_button() -> None:
    async with opened(comeback="manual") as site:
        await site.timelines.change(read=CACHE.slug, delivering=[CACHE.slug])
        site.clock.advance(10)
        ann = await site.browser().sign_up("ann")
        await ann.post("hello")
        await flush(site.stack.memcached)
        html = await ann.open("/")
        assert texts(html) == ["hello"]
        assert "Your timeline is cold" in html
        html = await ann.submit("/timeline/refresh")
        assert texts(html) == ["hello"]
        assert "Your timeline is cold" not in html


# What was typed, and what is said


@pytest.mark.parametrize("slug", [QUERY.slug, DEFAULT.slug])
async def test_what_was_done_is_said_once(demo: Site, slug: str) -> None:
    ann, _ = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob", "Bob B.")
    await ann.open(f"/?phase={slug}")
    said = re.compile(r'<p class="said" role="status">(.*?)</p>')
    assert said.findall(await ann.post("hello")) == ["Posted."]
    assert said.findall(await ann.open("/")) == []
    (id,) = re.findall(r'href="/statuses/(\w{24})"', ann.html)
    assert said.findall(await ann.submit(f"/statuses/{id}/delete")) == ["Deleted."]
    for act in people.ACTS:
        proof = ann.form("/sign-out").fields
        html = await _sent(ann, f"/@bob/{act}", proof)
        assert "@bob" in said.findall(html)[0], act
    ann.client.cookies.set(done.COOKIE, "follow.<b>")
    assert said.findall(await ann.open("/")) == []


async def _sent(browser: Browser, action: str, fields: dict[str, str]) -> str:
    browser.answer = await browser.client.post(action, data=fields, follow_redirects=True)
    return browser.html


@pytest.mark.parametrize("one_click", [False, True])
async def test_whoever_was_signed_out_while_typing_loses_nothing(demo: Site, one_click: bool) -> None:
    ann = await demo.browser().sign_up("ann")
    await ann.open("/")
    form = ann.form("/statuses").fields | {"text": "long <thought>\r\nin two lines", "audience": "circle"}
    await Accounts(demo.stack).sign_out(ann.client.cookies[session.SESSION])
    html = await _sent(ann, "/statuses", form)
    assert ann.status == 401
    assert 'role="alert"' in html
    if one_click:
        await ann.submit("/sign-in-as", handle="ann")
    else:
        await ann.submit("/sign-in", handle="ann", password="wrong horse")
        await ann.submit("/sign-in", handle="ann", password=PASSWORD)
    assert ann.form("/statuses").fields["text"] == "long <thought>\nin two lines"
    assert '<option value="circle" selected>' in ann.html
    assert texts(ann.html) == [], "it is posted by whoever presses the button"
    await ann.submit("/statuses")
    assert texts(ann.html) == ["long &lt;thought&gt;\nin two lines"]


async def test_whoever_was_signed_out_is_back_where_the_button_was(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    (id,) = re.findall(r'href="/statuses/(\w{24})"', await bob.post("hello"))
    await ann.act("bob", "follow")
    await Accounts(site.stack).sign_out(ann.client.cookies[session.SESSION])
    await ann.submit(f"/statuses/{id}/like")
    html = await ann.submit("/sign-in", handle="ann", password=PASSWORD)
    assert (ann.answer.url.path, ann.answer.url.fragment) == ("/@bob", f"s{id}")
    assert "1 like<" not in html, "it is done by whoever presses the button"
    for next_ in AWAY:
        answer = await site.browser().client.post(f"/statuses/{id}/like", data={"next": next_})
        assert answer.headers["location"] == "/sign-in" + ("?next=%2F" if next_ else ""), next_


async def test_whoever_signed_in_once_more_while_typing_sends_it_once_more(demo: Site) -> None:
    ann = await demo.browser().sign_up("ann")
    await ann.open("/")
    form = ann.form("/statuses").fields | {"text": "long <thought>\r\nin two lines", "audience": "circle"}
    await ann.submit("/sign-out")
    await ann.submit("/sign-in-as", handle="ann")
    ann.answer = await ann.client.post("/statuses", data=form)
    assert (ann.status, "thought" in ann.html) == (403, False), "nobody says that it came from here"
    ann.answer = await ann.client.post("/statuses", data=form, headers=OURS_SENT)
    assert (ann.status, "you are @ann now" in ann.html) == (403, True)
    sent = ann.form("/statuses").fields
    assert sent[session.PROOF] != form[session.PROOF]
    assert sent == form | {session.PROOF: sent[session.PROOF], "text": "long <thought>\nin two lines"}
    assert texts(await ann.submit("/statuses")) == ["long &lt;thought&gt;\nin two lines"]


async def test_another_site_puts_no_words_into_anybodys_mouth(demo: Site) -> None:
    stranger = demo.browser()
    answer = await stranger.client.post("/statuses", data={"text": "forged"}, headers={"origin": "https://evil.test"})
    assert answer.status_code == 403
    assert "forged" not in answer.text


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("no link", []),
        ("see https://a.test/b?c=1&d=2.", ["https://a.test/b?c=1&amp;d=2"]),
        ("(http://a.test/), HTTPS://B.test!", ["http://a.test/", "HTTPS://B.test"]),
        ("javascript:alert(1) ftp://a.test https:// //a.test", []),
        ('https://a.test/"><script>', ["https://a.test/"]),
        ("https://א.test/ב", ["https://א.test/ב"]),
    ],
)
async def test_addresses_in_a_status_are_links(site: Site, text: str, links: list[str]) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.post(text)
    (shown,) = texts(ann.html)
    assert re.findall(r'<a href="([^"]*)" rel="nofollow ugc noopener noreferrer">\1</a>', shown) == links
    assert unescape(re.sub("</?a[^>]*>", "", shown)) == text


async def test_what_people_write_has_the_direction_of_its_own_letters(site: Site) -> None:
    ann = await site.browser().sign_up("ann", "שלום")
    (id,) = re.findall(r'href="/statuses/(\w{24})"', await ann.post("مرحبا"))
    fans = [await site.browser().sign_up(f"fan{n}", "שלום") for n in range(3)]
    for n, fan in enumerate(fans):
        await fan.act("ann", "follow")
        await fan.open(f"/statuses/{id}")
        await fan.submit(f"/statuses/{id}/like")
        if n:
            await fan.act("ann", "add-to-circle")
    assert {line.removeprefix("New: שלום and ") for line in await told(site, ann)} == {
        "שלום added you to their circles",
        "2 others liked your status",
        "2 others follow you",
    }
    for address in ("/", "/@ann", "/people", "/compare", "/notifications"):
        html = await ann.open(address)
        written = re.findall(r"<[^<>]*>(?=\s*(?:שלום|مرحبا))", html)
        outside = [tag for tag in written if 'dir="auto"' not in tag and tag != "<title>" and "away" not in tag]
        assert written, address
        assert outside == [], address


# People


async def test_whom_one_lists_one_can_follow_and_is_back_where_one_was(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    for handle in ("bob", "cat", "dan"):
        await (await site.browser().sign_up(handle)).act("ann", "follow")
    await ann.act("dan", "block")
    for address, listed in {
        "/people": {"bob", "cat"},
        "/@ann/followers": {"bob", "cat"},
        "/people?q=c": {"cat"},
    }.items():
        await ann.open(address)
        rows = re.findall(r'id="of-(\w+)">(.*?)</li>', ann.html, re.DOTALL)
        assert {handle for handle, row in rows if "/follow" in row} == listed, address
    await ann.open("/people?q=c")
    form = ann.form("/@cat/follow")
    answer = await ann.client.post(form.action, data=form.fields)
    assert answer.headers["location"] == "/people?q=c#of-cat"
    html = await ann.open("/@cat/followers")
    assert "you" in html
    assert 'action="/@cat/unfollow"' in await ann.open("/@ann/following")


async def test_a_person_is_muted_where_they_are_read(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await bob.post("too much")
    assert texts(await ann.open("/")) == ["too much"]
    assert texts(await ann.submit("/@bob/mute")) == []
    assert ann.answer.url.path == "/"
    assert "/mute" not in await bob.open("/"), "of oneself"


async def test_people_are_found_by_the_beginning_of_their_handle_or_name(site: Site) -> None:
    for handle, name in {"ann": "", "anna": "Zoë Ångström", "bob": "Zoe O'Neil", "a_n": ""}.items():
        await site.browser().sign_up(handle, name)
    eve = await site.browser().sign_up("eve")
    await eve.act("ann", "follow")
    for typed, found in {
        "": ["a_n", "ann", "anna", "bob", "eve"],
        "an": ["ann", "anna"],
        "@ANN": ["ann", "anna"],
        "a.n": [],
        ".*": [],
        "zo": ["anna", "bob"],
        "ZOË": ["anna"],
        "o'": ["bob"],
        "zo ån": ["anna"],
        "eil": [],
        "zzz": [],
    }.items():
        html = await eve.open(f"/people?q={quote(typed)}")
        assert re.findall(r'<a class="person" href="/@(\w+)"', html) == found, typed
    assert "Nobody found" in eve.html


async def test_people_are_listed_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "PEOPLE_A_PAGE", 2)
    ann = await site.browser().sign_up("ann")
    for handle in ("b1", "b2", "b3"):
        await (await site.browser().sign_up(handle)).act("ann", "follow")
    await ann.act("b1", "follow")  # somebody who follows nobody is shown suggestions too
    for address in ("/people", "/people?q=b", "/@ann/followers"):
        found = re.findall(r'class="person" href="/@(\w+)"', await ann.open(address))
        while older := re.findall(r'href="([^"]+)" rel="next"', ann.html):
            found += re.findall(r'class="person" href="/@(\w+)"', await ann.open(older[0].replace("&amp;", "&")))
        assert sorted(found) == (["ann", "b1", "b2", "b3"] if address == "/people" else ["b1", "b2", "b3"])


async def test_a_persons_page_follows_blocks_and_keeps_a_circle(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob", "Bob B.")
    await bob.post("hello")
    html = await ann.open("/@BOB")
    assert "Bob B." in html
    assert texts(html) == []
    html = await ann.submit("/@bob/follow")
    assert texts(html) == ["hello"]
    assert "<b>1</b> follower<" in html
    assert "follows you" in await bob.open("/@ann")
    assert "In your circle" in await ann.act("bob", "add-to-circle")
    assert "In your circle" not in await ann.act("bob", "remove-from-circle")
    html = await ann.act("bob", "block")
    assert "You blocked @bob" in html
    assert texts(html) == []
    assert [form.action for form in forms(html) if "/@bob/" in form.action] == ["/@bob/unblock"]
    html = await bob.act("ann", "follow")
    assert bob.status == 403
    assert 'role="alert"' in html
    assert "Follow" in await ann.act("bob", "unblock")
    assert "Unfollow" in await ann.act("bob", "follow")
    assert "Unfollow" not in await ann.act("bob", "unfollow")


async def test_a_name_is_changed_in_the_settings(demo: Site) -> None:
    ann, bob = await demo.browser().sign_up("ann", "Ann A."), await demo.browser().sign_up("bob")
    await bob.act("ann", "follow")
    await ann.post("hello")
    pages = ("/", "/@ann", "/people", "/compare")
    for page in pages:
        assert "Ann A." in await bob.open(page), page
    stranger = demo.browser()
    assert "Ann A." in await stranger.open("/")
    await ann.open("/settings")
    assert "Ann B." in await ann.submit("/settings/name", name="Ann B.")
    for page in pages:
        html = await bob.open(page)
        assert "Ann B." in html, page
        assert "Ann A." not in html, page
    assert "Ann B." in await stranger.open("/")
    html = await ann.submit("/settings/name", name="x" * 101)
    assert ann.status == 422
    assert '<p class="wrong" id="name-wrong">At most 100 characters.</p>' in html
    assert ann.form("/settings/name").fields["name"] == "x" * 101


async def test_a_name_that_is_changed_too_often_stays_in_its_field() -> None:
    async with opened(renames_per_hour=1) as site:
        ann = await site.browser().sign_up("ann", "Ann A.")
        for name, status in (("Ann B.", 200), ("Ann C.", 429)):
            await ann.open("/settings")
            html = await ann.submit("/settings/name", name=name)
            assert ann.status == status
        assert "Too many changes of your name in one hour. Try again in 60 min." in html
        assert ann.form("/settings/name").fields["name"] == "Ann C."
        await ann.open("/settings")
        assert ann.form("/settings/name").fields["name"] == "Ann B."


async def test_a_password_is_changed_in_the_settings(site: Site) -> None:
    ann, elsewhere = await site.browser().sign_up("ann"), site.browser()
    await elsewhere.open("/sign-in")
    await elsewhere.submit("/sign-in", handle="ann", password=PASSWORD)
    assert 'href="/settings"' in await ann.open("/@ann")
    await ann.open("/settings")
    for old, new, wrong in (("wrong horse", "another horse", "old"), (PASSWORD, "7 chars", "new")):
        assert f'id="{wrong}-wrong"' in await ann.submit("/settings/password", old=old, new=new)
        assert ann.status in (401, 422)
    assert "other sessions are signed out" in await ann.submit("/settings/password", old=PASSWORD, new="another horse")
    assert "Sign out" in await ann.open("/")
    assert "Sign out" not in await elsewhere.open("/")


async def test_an_account_is_deleted_in_the_settings(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob", "Bob B.")
    await ann.act("bob", "follow")
    await bob.post("hello")
    assert texts(await ann.open("/")) == ["hello"]
    await bob.open("/settings")
    export = await bob.client.get("/settings/export")
    assert ("attachment" in export.headers["content-disposition"], export.json()["statuses"][0]["text"]) == (
        True,
        "hello",
    )
    assert 'id="sure-wrong"' in await bob.submit("/settings/delete", password=PASSWORD)
    assert 'id="password-wrong"' in await bob.submit("/settings/delete", password="wrong horse", sure="yes")
    assert texts(await ann.open("/")) == ["hello"]
    assert "Your account is deleted." in await bob.submit("/settings/delete", password=PASSWORD, sure="yes")
    assert "Sign out" not in await bob.open("/")
    assert texts(await ann.open("/")) == []
    for page in ("/people", "/@ann/following", "/notifications"):
        assert "Bob B." not in await ann.open(page), page
    await ann.open("/@bob")
    assert ann.status == 404


async def test_the_settings_say_what_a_copy_of_everything_has(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    (told,) = re.findall(r'<p class="hint">(Your statuses, [^<]*)</p>', await ann.open("/settings"))
    parts = (await ann.client.get("/settings/export")).json()
    assert {part for part in parts if part not in told} == {"account", "following", "followers"}


async def test_who_deletes_an_account_twice_at_once_has_deleted_it(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.open("/settings")
    form = ann.form("/settings/delete").fields | {"password": PASSWORD, "sure": "yes"}
    answers = await asyncio.gather(*(ann.client.post("/settings/delete", data=form) for _ in range(2)))
    assert sorted((answer.status_code, answer.headers["location"]) for answer in answers) == [
        (303, "/"),
        (303, "/sign-in"),
    ]


async def test_mutual_followers_see_who_is_online(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    user = await User.called("bob")
    assert user
    await site.app.state.services.presences.connected(user.id, "a stream")
    assert "Online now" not in await ann.act("bob", "follow")
    await bob.act("ann", "follow")
    assert "Online now" in await ann.open("/@bob")
    assert "Not here yet" in await bob.open("/@ann")
    assert "Online now" not in await bob.open("/@bob")
    await bob.open("/settings")
    assert 'value="nobody" selected' in await bob.submit("/settings/presence", presence="nobody")
    assert "Online now" not in await ann.open("/@bob")
    form = bob.form("/settings/presence")
    for wrong in ("", "Nobody"):
        answer = await bob.client.post("/settings/presence", data=form.fields | {"presence": wrong})
        assert answer.status_code == 422
        assert 'value="nobody" selected' in answer.text
    assert 'value="mutuals" selected' in await bob.submit("/settings/presence", presence="mutuals")
    await site.app.state.services.presences.gone(user.id, "a stream")
    site.clock.advance(GRACE_S + 1)
    assert "Last here" in await ann.open("/@bob")


async def test_whom_one_mutes_is_on_a_list_with_a_button_each(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob", "Bob B.")
    await ann.act("bob", "follow")
    await bob.post("hello")
    assert "there is a button" in await ann.open("/muted")
    html = await ann.act("bob", "mute")
    assert "Muted:" in html
    assert texts(html) == ["hello"]
    assert texts(await ann.open("/")) == []
    assert "Bob B." in await ann.open("/muted")
    await ann.submit("/@bob/unmute")
    assert "Bob B." not in ann.html
    assert texts(await ann.open("/")) == ["hello"]
    assert [form.action for form in forms(await ann.act("bob", "block")) if "mute" in form.action] == []


async def test_ones_own_page_has_no_buttons_about_oneself(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.open("/@ann")
    assert [form.action for form in forms(ann.html)] == ["/sign-out"]
    proof = ann.form("/sign-out").fields
    answer = await ann.client.post("/@ann/follow", data=proof)
    assert answer.status_code == 422
    assert (await ann.client.post("/@ann/nonsense", data=proof)).status_code == 404


# What pages cost, and what is new


async def test_the_cost_of_the_other_phases_is_measured_only_when_asked_for(demo: Site) -> None:
    ann = await demo.browser().sign_up("ann")
    html = await ann.open("/")
    assert 'class="bars"' not in html
    (address,) = re.findall(r'href="([^"]+)"[^>]*data-swap', html)
    html = await ann.open(address)
    assert re.findall(r'<span class="name">\d (\w+)</span>', html) == SLUGS
    assert len(re.findall(r'<span class="ms">[\d.,]+ ms</span>', html)) == len(SLUGS)


async def test_a_second_window_ends_the_stream_of_the_first_and_signing_out_ends_all() -> None:
    streams, ann = live.Streams(), ObjectId()
    first, other = streams.begin(ann, "session", "newer"), streams.begin(ann, "session", "operations")
    second = streams.begin(ann, "session", "newer")
    assert first
    assert other
    assert second
    assert (first.is_set(), second.is_set(), other.is_set()) == (True, False, False)
    streams.ended(first)
    streams.end("session")
    assert (second.is_set(), other.is_set()) == (True, True)


async def test_there_are_only_so_many_streams(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_STREAMS", 0)
    monkeypatch.setattr(live, "LONGEST_S", 0)
    ann = await demo.browser().sign_up("ann")
    assert (await ann.client.get("/operations/live")).status_code == 204


async def test_the_stream_of_a_page_asks_for_nothing_but_whose_session_it_is(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    site.app.state.services = replace(site.app.state.services, accounts=Accounts(site.stack))
    for commands in (2, 1):  # of a token that nobody here remembers; and of one that is
        with counted() as cost:
            assert (await ann.client.head("/live")).status_code == 200
        assert cost.mongodb == commands
        assert (await site.browser().client.head("/live")).status_code == 204


async def test_the_stream_of_a_page_is_for_whom_the_page_is(site: Site) -> None:
    """Another tab of the same browser may have signed somebody else in since the page was made."""
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    streams = []
    for browser in (ann, bob):
        found = re.search(r'data-stream="([^"]+)" data-me="(\w+)"', browser.html)
        assert found
        streams.append(f"{found[1]}?me={found[2]}")
    for browser, statuses in ((ann, [200, 204]), (bob, [204, 200])):
        assert [(await browser.client.head(stream)).status_code for stream in streams] == statuses
    assert (await ann.client.get(streams[1])).status_code == 204


async def test_one_person_takes_no_more_than_their_share_of_the_streams() -> None:
    streams, ann = live.Streams(), ObjectId()
    begun = [streams.begin(ann, f"session {n}", "newer") for n in range(live.MOST_STREAMS + 1)]
    assert [event.is_set() for event in begun if event] == [True] * (len(begun) - live.STREAMS_EACH) + (
        [False] * live.STREAMS_EACH
    )
    assert streams.begin(ObjectId(), "session", "newer")


async def test_one_person_opens_only_so_many_streams_in_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their sessions, and however soon each ends. What refuses them ends none, and is for nobody else."""
    monkeypatch.setattr(live, "LONGEST_S", 0)
    async with opened(streams_per_minute=3, demo=True) as site:
        ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
        again = site.browser()
        await again.open("/")
        await again.submit("/sign-in-as", handle="ann")
        for browser in (ann, again, ann):
            assert (await browser.client.get("/operations/live")).status_code == 200
            assert (await browser.client.head("/operations/live")).status_code == 200, "which opens none"
        answer = await again.client.get("/operations/live")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert (await bob.client.get("/operations/live")).status_code == 200


async def test_signing_out_elsewhere_ends_the_streams_here(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SURE_S", 0)
    monkeypatch.setattr(dashboard, "LOOK_EVERY_S", 0.01)
    ann, asked = await demo.browser().sign_up("ann"), asyncio.Queue[str]()
    authenticate = Accounts.authenticate

    async def heard(self: Accounts, token: str) -> Account | None:
        asked.put_nowait(token)
        return await authenticate(self, token)

    monkeypatch.setattr(Accounts, "authenticate", heard)
    streaming = asyncio.create_task(ann.client.get("/operations/live"))
    for _ in range(5):  # the request, and some looks of the stream
        await asyncio.wait_for(asked.get(), 30)
    assert not streaming.done()
    await Accounts(demo.stack).sign_out(ann.client.cookies[session.SESSION])
    answer = await asyncio.wait_for(streaming, 30)
    assert answer.text.endswith(live.DONE)
    assert not demo.app.state.streams._open


async def test_signing_out_here_ends_the_streams_at_once(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before its next look, at the session or at anything."""
    monkeypatch.setattr(dashboard, "LOOK_EVERY_S", 600)
    ann, looked = await demo.browser().sign_up("ann"), asyncio.Event()
    look = dashboard._shown

    async def heard(request: Request) -> dict[str, Any]:
        looked.set()
        return await look(request)

    monkeypatch.setattr(dashboard, "_shown", heard)
    await ann.open("/")
    streaming = asyncio.create_task(ann.client.get("/operations/live"))
    await asyncio.wait_for(looked.wait(), 30)
    await ann.submit("/sign-out")
    assert (await asyncio.wait_for(streaming, 30)).text.endswith(live.DONE)


async def test_only_a_stream_with_nothing_more_to_come_tells_the_page_so(
    demo: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten minutes, and when the process stops, the browser is to open another by itself."""

    async def heard(request: Request) -> dict[str, Any]:
        looks.put_nowait(request)
        return await look(request)

    async def begun() -> asyncio.Task[Any]:
        task = asyncio.create_task(ann.client.get("/operations/live"))
        await asyncio.wait_for(looks.get(), 30)
        return task

    ann, looks, look = await demo.browser().sign_up("ann"), asyncio.Queue[Request](), dashboard._shown
    monkeypatch.setattr(dashboard, "_shown", heard)
    monkeypatch.setattr(dashboard, "LOOK_EVERY_S", 600)
    with monkeypatch.context() as ten_minutes_later:
        ten_minutes_later.setattr(live, "LONGEST_S", 0)
        late = await begun()
        assert live.DONE not in (await asyncio.wait_for(late, 30)).text
    first, newer = await begun(), await begun()
    assert (await asyncio.wait_for(first, 30)).text.endswith(live.DONE), "or each would end the other for ever"
    demo.app.state.streams.stop()
    assert live.DONE not in (await asyncio.wait_for(newer, 30)).text


async def test_the_head_of_a_stream_is_answered_and_ends_no_stream(demo: Site) -> None:
    ann = await demo.browser().sign_up("ann")
    answer = await asyncio.wait_for(ann.client.head("/operations/live"), 30)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert not demo.app.state.streams._open


async def test_who_goes_before_their_stream_begins_leaves_nothing(demo: Site) -> None:
    ann, path = await demo.browser().sign_up("ann"), "/operations/live"
    cookie = "; ".join(f"{name}={value}" for name, value in ann.client.cookies.items())
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"host", b"127.0.0.1"), (b"cookie", cookie.encode())], "client": ("127.0.0.1", 1)}
    begun = 0

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def gone(_: object) -> None:
        nonlocal begun
        begun = len(demo.app.state.streams._open)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await demo.app(scope, receive, gone)
    assert (begun, demo.app.state.streams._open) == (1, {})


# Phases


async def test_administrators_switch_phases_and_others_see_them(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    html = await ann.open("/phases")
    assert all(slug in html for slug in SLUGS)
    assert 'action="/phases"' not in html
    proof = ann.form("/sign-out").fields
    change = proof | {"read": PUSH.slug, "delivering": [PUSH.slug, CACHE.slug]}
    assert (await ann.client.post("/phases", data=change)).status_code == 403
    await User.find_one({"handle": "ann"}).update({"$set": {"admin": True}})
    assert (await ann.client.post("/phases", data=change)).status_code == 303
    state = await site.timelines.state()
    assert (state.read, state.delivering) == (PUSH.slug, (PUSH.slug, CACHE.slug))
    answer = await ann.client.post("/phases", data=change | {"read": "nonsense"})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert (await site.timelines.state()).read == "push"


# Demo mode


async def test_in_demo_mode_one_click_signs_in_and_the_page_says_so(demo: Site) -> None:
    for handle in ("ann", "bob", "cat"):
        browser = await demo.browser().sign_up(handle)
        if handle != "ann":
            await browser.act("ann", "follow")
    stranger = demo.browser()
    html = await stranger.open("/")
    assert "anybody may sign in as anybody" in html
    assert re.findall(r'name="handle" value="(\w+)"', html)[0] == "ann", "whoever has most followers is first"
    html = await stranger.submit("/sign-in-as", handle="cat")
    assert 'href="/@cat"' in html
    assert "anybody may sign in as anybody" in html
    assert 'action="/phases"' in await stranger.open("/phases")


async def test_a_newcomer_to_the_demo_is_shown_the_walkthrough_the_cast_and_what_to_try(demo: Site) -> None:
    await demo.browser().sign_up("ann")
    stranger = demo.browser()
    html = await stranger.open("/")
    shown = [html.index(words) for words in ("Read the walkthrough", "Sign in as…", "Three things to try")]
    assert shown == sorted(shown)
    assert "Sign up</a> <a" not in html.partition("<main")[2]
    for tried in re.findall(r'<li><p><a href="([^"]+)">', html.partition("Three things to try")[2]):
        newcomer = demo.browser()
        await newcomer.open("/")
        await newcomer.open(tried)
        assert "Three things to try" not in newcomer.html, "a link leads on"
        await newcomer.submit("/sign-in-as", handle="ann")
        assert (newcomer.status, newcomer.answer.url.path) == (200, tried.replace("/sign-in", "/"))


async def test_the_lists_of_the_cast_are_warm(demo: Site) -> None:
    ann, bob = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await bob.post("hello")
    await flush(demo.stack.memcached)
    await demo.stack.db["active_readers"].delete_many({})
    rested: list[float] = []

    async def rest(seconds: float) -> None:
        rested.append(seconds)

    await warm(demo.stack, demo.app.state, rest)
    assert rested[0] > demo.stack.config.grace_s, "before that nothing is kept"
    for player in await cast(demo.stack, demo.app.state):
        for phase in PHASES:
            page = await demo.timelines.page(player.id, phase=phase.slug)
            assert page.source == ("list" if phase.keeps else "query"), (player.handle, phase.slug)


async def test_without_demo_mode_nobody_signs_in_by_one_click(site: Site) -> None:
    await site.browser().sign_up("ann")
    stranger = site.browser()
    await stranger.open("/sign-in")
    proof = stranger.form("/sign-in").fields
    answer = await stranger.client.post("/sign-in-as", data=proof | {"handle": "ann"})
    assert answer.status_code == 404
    assert session.SESSION not in stranger.client.cookies


# Servers that are away


@pytest.fixture
def away(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Awaitable[None]]:
    async def gone(*_: object, **__: object) -> Any:
        raise ServerSelectionTimeoutError("nobody answers")

    async def take(name: str) -> None:
        owner, _, method = name.partition(".")
        monkeypatch.setattr(
            {"timelines": site.timelines, "statuses": site.app.state.services.statuses}[owner], method, gone
        )

    return take


async def test_a_server_that_is_away_is_a_page_that_says_when_to_come_back(
    site: Site, away: Callable[[str], Awaitable[None]]
) -> None:
    ann = await site.browser().sign_up("ann")
    await away("timelines.page")
    html = await ann.open("/?phase=push")
    assert ann.status == 503
    assert int(ann.answer.headers["retry-after"]) > 0
    assert '<a class="button" href="/?phase=push">Try again</a>' in html
    assert "Nothing is lost" in html
    assert "nobody answers" not in html


async def test_a_password_manager_fills_the_form_that_is_sent_once_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> Any:
        raise ServerSelectionTimeoutError("nobody answers")

    for path, filled in (
        ("/sign-in", {"handle": "username", "password": "current-password"}),
        ("/sign-up", {"handle": "username", "name": "name", "password": "new-password"}),
    ):
        monkeypatch.setattr(Accounts, path[1:].replace("-", "_"), gone)
        browser = site.browser()
        await browser.open(path)
        html = await browser.submit(path, handle="ann", password=PASSWORD)
        assert browser.status == 503
        assert dict(re.findall(r'name="(\w+)"[^>]* autocomplete="([^"]+)"', html)) == filled, path


async def test_a_status_that_could_not_be_stored_is_kept_and_posted_once(
    site: Site, away: Callable[[str], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await site.browser().sign_up("ann")
    with monkeypatch.context():
        await away("statuses.post")
        html = await ann.post("not <lost>")
        assert ann.status == 503
        assert int(ann.answer.headers["retry-after"]) > 0
        assert "not &lt;lost&gt;</textarea>" in html
        assert "may have been done" in html
        again = ann.form("/statuses").fields
    monkeypatch.undo()
    for _ in range(2):
        assert (await ann.client.post("/statuses", data=again)).status_code == 303
    assert texts(await ann.open("/")) == ["not &lt;lost&gt;"]


TEXT_FIELD = re.compile(r'<(?:textarea|input type="text")[^>]* name="(\w+)"')
NOT_SENT = {"reader", "username"}  # in a form that is an address; for password managers, hidden


@dataclass
class Failing:
    """MongoDB goes away behind `left` further commands; None: it stays."""

    left: int | None = None

    def command(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise ServerSelectionTimeoutError("nobody answers")


@pytest.mark.thorough
async def test_whatever_was_typed_is_kept_whenever_mongodb_goes_away(
    demo: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every form with a field for text, at every command of its request; a status or message is stored once when it is
    sent again.
    """
    failing = Failing()
    monkeypatch.setattr(stand_in, "count_mongodb", failing.command)
    await demo.browser().sign_up("bob")
    ann, actions, names = await demo.browser().sign_up("ann"), set[str](), set[str]()
    await ann.act("bob", "conversation")
    talk = ann.answer.url.path
    for address in ("/sign-up", "/sign-in", "/settings", talk, *PAGES):
        browser = demo.browser() if address.startswith("/sign") else ann
        html = await browser.open(address)
        for form, written in zip(forms(html), html.split("<form")[1:], strict=True):
            fields = set(TEXT_FIELD.findall(written)) - NOT_SENT
            if form.method == "post" and fields and form.action not in actions:
                actions.add(form.action)
                names |= fields
                await _kept(browser, form, fields, failing)
    in_templates = [page.read_text() for page in (Path(__file__).parents[1] / "templates").glob("*.html")]
    assert names == {name for page in in_templates for name in TEXT_FIELD.findall(page)} - NOT_SENT
    for page, action in (("/", "/statuses"), (talk, f"{talk}/messages")):
        stored = [text for text in texts(await ann.open(page)) if text.startswith(action)]
        assert len(stored) == len(set(stored)) > 1


async def _kept(browser: Browser, form: Form, names: set[str], failing: Failing) -> None:
    cookies = browser.client.cookies
    for commands in count():
        browser.client.cookies = cookies  # of a stranger, who has signed up or in
        said = f"{form.action} {commands} <&"
        sent = form.fields | {name: said if name == "text" else f"{name}{commands}" for name in names}
        secret = {name: PASSWORD for name in form.fields if name == "password"}
        failing.left = commands
        browser.answer = await browser.client.post(form.action, data=sent | secret)
        failing.left = None
        if browser.status != 503:
            return
        once_more = browser.form(form.action)
        assert once_more.method == "post"
        assert once_more.fields == sent, f"{form.action} after {commands} commands"
        assert (await browser.client.post(form.action, data=once_more.fields | secret)).status_code < 500


async def test_too_many_changes_are_refused_with_the_text_kept() -> None:
    async with opened(writes_per_minute=1) as site:
        ann = await site.browser().sign_up("ann")
        await ann.post("one")
        html = await ann.post("two")
        assert "two</textarea>" in html
        for answer in (ann.answer, await ann.client.post("/timeline/refresh", data=ann.form("/sign-out").fields)):
            assert answer.status_code == 429
            assert f" Try again in {int(answer.headers['retry-after'])} s." in answer.text


# All of them

PAGES = (
    "/",
    "/?costs=all",
    "/people",
    "/compare",
    "/compare?check=1",
    "/operations",
    "/phases",
    "/@ann",
    "/@bob",
    "/@bob/followers",
    "/@ann/following",
    "/nothing",
)


async def test_no_page_needs_more_than_our_own_files(demo: Site) -> None:
    """The policy forbids inline style and script, so a page must not have any; nor may anything personal be kept."""
    ann, bob = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await ann.post("hello")
    for address in PAGES:
        html = await ann.open(address)
        foreign = r"<script(?! src=./static/(?:live|received)\.js)|<style|\sstyle=|\son\w+=|https?://(?!feedlab)"
        assert not re.search(foreign, html), address
        assert ann.answer.headers["cache-control"] == "no-store"
        assert "default-src 'self'" in ann.answer.headers["content-security-policy"]
        assert html.count("<h1") == 1, address
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids)), address
    assert bob.status == 200


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "now"),
        (59, "now"),
        (60, "1 min"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (86_400, "1 d"),
        (7 * 86_400, "13 Nov"),
    ],
)
def test_times_are_relative_up_to_a_week(seconds: int, words: str) -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    assert ago(now - timedelta(seconds=seconds), now) == words
    assert ago(datetime(2025, 2, 3, tzinfo=UTC), now) == "3 Feb 2025"


def test_a_class_has_its_look_from_one_stylesheet() -> None:
    """A page has the common one and perhaps its own: two that name the same thing draw it twice."""
    static = Path(__file__).parents[1] / "templates" / "static"
    looks = [set(re.findall(r"^(\.[\w-]+) \{", sheet.read_text(), re.MULTILINE)) for sheet in static.glob("*.css")]
    assert len(looks) > 2
    assert [one & other for one, other in combinations(looks, 2) if one & other] == []
