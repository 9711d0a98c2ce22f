"""The phases side by side, and a delivery that is watched."""

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.models import User
from app.web.delivery import WATCHES_EACH, Watch
from app.web.measured_page import READS, WARMING, Compared
from app.web.session import SESSION
from phases.home.page import Page
from phases.p1_query import QUERY
from phases.p2_push import PUSH
from phases.p4_cache import CACHE
from phases.timelines import Timelines
from tests.site import PASSWORD, SLUGS, Browser, Site, events, opened, texts
from tests.world import IN_WORKER, KEEPING, flush
from workers.worker import drain_queues

pytestmark = pytest.mark.anyio


async def test_equal_columns_are_said_to_be_equal(demo: Site) -> None:
    ann, bob = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await ann.act("bob", "follow")
    for text in ("one", "two"):
        demo.clock.advance(2)
        await bob.post(text)
    html = await ann.open("/compare")
    assert "All phases return the same page" in html
    assert re.findall(r'<h2 id="phase-(\w+)"', html) == SLUGS
    assert html.count('<span class="words" dir="auto">two</span>') == len(SLUGS)
    assert "All 2 readers see the same page in all phases" in await ann.open("/compare?check=1")


async def test_every_phase_leads_to_its_chapter(demo: Site) -> None:
    ann = await demo.browser().sign_up("ann")
    assert re.findall(r'<a href="/walkthrough/(\w+)" title', await ann.open("/compare")) == SLUGS
    for slug in SLUGS:
        assert f'href="/walkthrough/{slug}">How this phase works' in await ann.open(f"/?phase={slug}")


async def test_a_difference_is_marked_loudly(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await demo.browser().sign_up("ann")
    for text in ("one", "two"):
        demo.clock.advance(2)
        await ann.post(text)
    right = demo.timelines.page

    async def wrong(reader: Any, *, phase: str, **options: Any) -> Page:
        page = await right(reader, phase=phase, **options)
        if phase == PUSH.slug:
            return replace(page, statuses=page.statuses[1:])
        if phase == CACHE.slug:
            return replace(page, statuses=page.statuses[::-1])
        return page

    monkeypatch.setattr(demo.timelines, "page", wrong)
    html = await ann.open("/compare")
    assert "The phases differ." in html
    assert re.findall(r'column differs" aria-labelledby="phase-(\w+)"', html) == [PUSH.slug, CACHE.slug]
    assert re.findall(r'<strong>Missing here: </strong><span class="words" dir="auto">(\w+)<', html) == ["two"]
    assert "1 of 1 readers see different pages" in await ann.open("/compare?check=1")


@pytest.mark.parametrize("address", ["/compare", "/?costs=all"])
async def test_everybody_is_visited_once_then_warmed_then_read_in_turns(
    demo: Site, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    ann = await demo.browser().sign_up("ann")
    await ann.post("hello")
    asked: list[str] = []
    right = demo.timelines.page

    async def page(reader: Any, *, phase: str, **options: Any) -> Page:
        asked.append(phase)
        return await right(reader, phase=phase, **options)

    monkeypatch.setattr(demo.timelines, "page", page)
    html = await ann.open(address)
    turns = [asked[at : at + len(SLUGS)] for at in range(0, len(asked), len(SLUGS))]
    assert all(sorted(turn) == sorted(SLUGS) for turn in turns)
    assert len(turns) == 1 + WARMING + READS
    assert [turn[0] for turn in turns[1 : 1 + len(SLUGS)]] == SLUGS, "whoever is first in a turn has no advantage of it"
    assert f"read {READS} times in turns" in html
    assert len(re.findall(r"First visit <b>[\d.,]+ ms|first visit [\d.,]+ ms", html)) == len(SLUGS)


@pytest.mark.parametrize("address", ["/compare", "/?costs=all"])
async def test_a_person_compares_only_so_often(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr("app.web.COMPARISONS", 1)
    async with opened() as site:
        ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
        for one, answers in ((ann, [200, 429, 429]), (bob, [200, 429, 429])):
            asked = [await one.client.get(address) for _ in answers]
            assert [answer.status_code for answer in asked] == answers
            assert int(asked[-1].headers["retry-after"]) > 0
        assert "Too many comparisons" in await ann.open(address)
        await ann.open("/")
        assert ann.status == 200


async def test_the_commands_are_those_of_a_warm_read_and_the_first_visit_stands_apart(demo: Site) -> None:
    ann = await demo.browser().sign_up("ann")
    await ann.post("hello")
    await ann.open("/compare")
    await flush(demo.stack.memcached)
    html = await ann.open("/compare")
    cost = dict(zip(SLUGS, re.findall(r"<b>(\d+)</b> MongoDB.*?<b>(\d+)</b> Memcached", html), strict=True))
    assert int(cost[QUERY.slug][0]) >= 1
    assert cost[CACHE.slug] == ("1", "1")
    column = html.partition(f'id="phase-{CACHE.slug}"')[2].partition("</header>")[0]
    assert re.findall(r"from (?:<strong>)?([\w+]+)", column)[0] == "list"
    assert re.findall(r"from (?:<strong>)?([\w+]+)", column)[1] != "list", "its list was gone"


async def test_where_servers_are_slow_there_are_fewer_turns(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await demo.browser().sign_up("ann")
    right = demo.timelines.page

    async def slow(reader: Any, **options: Any) -> Page:
        demo.clock.advance(1)
        return await right(reader, **options)

    monkeypatch.setattr(demo.timelines, "page", slow)
    assert "read once in turns" in await ann.open("/compare")


def test_a_median_is_a_read_that_was_made() -> None:
    def read(ms: float) -> Any:
        return SimpleNamespace(elapsed_ms=ms)

    one = Compared(read(90), tuple(map(read, (5, 1, 4, 50))))
    assert (one.median.elapsed_ms, one.least_ms, one.most_ms) == (4, 1, 50)


async def test_nobody_reads_along_whoever_runs_the_system(site: Site) -> None:
    await site.browser().sign_up("bob")
    ann = await site.browser().sign_up("ann")
    html = await ann.open("/compare?reader=bob&check=1")
    assert "for @ann" in html
    assert "readers see" not in html
    await User.find_one({"handle": "ann"}).update({"$set": {"admin": True}})
    html = await ann.open("/compare?reader=bob&check=1")
    assert "for @ann" in html
    assert "readers see" in html


async def test_in_demo_mode_anybodys_timeline_is_compared(demo: Site) -> None:
    await demo.browser().sign_up("bob")
    ann = await demo.browser().sign_up("ann")
    assert "for @bob" in await ann.open("/compare?reader=bob")
    await ann.open("/compare?reader=nobody")
    assert ann.status == 404
    assert 'id="reader-wrong"' in ann.html
    assert "<title>Error: Compare" in ann.html


async def test_a_delivery_is_watched_from_the_post_to_the_last_list(demo: Site) -> None:
    ann, _ = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await flush(demo.stack.memcached)
    await ann.open("/?phase=cache")
    await ann.open("/compare")
    html = await ann.submit("/compare/post", author="bob", text="watch me")
    assert "bob posted: “<bdi>watch me</bdi>”" in html
    assert html.count(">pending</span>") == len(IN_WORKER), "no worker has been here"
    await drain_queues(demo.timelines)
    answer = await ann.client.get(ann.answer.url.path + "/live")
    last = events(answer.text)[-1]
    assert "Delivered." in last
    assert ">pending</span>" not in last
    rows = dict(re.findall(r'reader=(\w+)">.*?</th>(.*?)</tr>', last, re.DOTALL))
    assert set(rows) == {"ann", "bob"}
    assert len(re.findall(r"[\d.,]+ ms", rows["ann"])) == len(demo.timelines.kept)
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)" width="([\d.]+)"', last)
    assert [look for look, _, _ in bars].count("insert") == len(SLUGS)
    looks = [look for look, _, _ in bars]
    assert looks.count("behind") == len(IN_WORKER), "of the others the poster has waited for all"
    assert looks.count("handed") == len(KEEPING) - len(IN_WORKER), "and for nobody else"
    waits = dict(re.findall(r'<code>(\w+)</code>.*?data-label="waited">([\d.,]+) ms', last, re.DOTALL))
    assert {waits.pop(slug) for slug in IN_WORKER} == {waits.pop(QUERY.slug)}, "for one insert, as the chapters say"
    assert list(waits) == [PUSH.slug]
    inserted_at = next(float(width) for look, _, width in bars if look == "insert")
    assert max(float(x) for look, x, _ in bars if look == "behind") <= inserted_at, "nothing in between is left white"
    assert max(float(x) + float(width) for _, x, width in bars) == pytest.approx(1000, abs=5), "one axis for all"
    assert ">away<" in rows["bob"], "nobody has read as bob since"
    assert texts(await ann.open("/"))[0] == "watch me"


async def test_a_post_that_is_watched_is_answered_before_its_jobs_are_queued(
    demo: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every post over HTTP: what the page says of the poster is true of others, too."""
    ann = await demo.browser().sign_up("ann")
    deferred: list[Coroutine[Any, Any, None]] = []

    async def later(work: Coroutine[Any, Any, None]) -> None:
        deferred.append(work)

    monkeypatch.setattr(demo.app.state.services.afterwards, "do", later)
    await ann.open("/compare")
    await ann.submit("/compare/post", author="ann", text="watch me")
    assert not await demo.stack.queue.known()
    assert ann.html.count(">pending</span>") == len(IN_WORKER), "it is shown what will be delivered"
    for work in deferred:
        await work
    assert await demo.stack.queue.known()


async def test_what_cannot_be_posted_is_said_beside_the_field(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.open("/compare")
    html = await ann.submit("/compare/post", text=" ", author="somebody")
    assert ann.status == 422
    assert 'id="text-wrong"' in html


async def test_outside_demo_mode_one_posts_as_oneself_and_watches_alone(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    await ann.open("/compare")
    await ann.submit("/compare/post", text="as\r\nmyself", author="bob")
    assert texts(await ann.open("/")) == ["as\nmyself"]
    await ann.open("/compare")
    await ann.submit("/compare/post", text="as myself", author="bob")
    assert "ann posted: “<bdi>as myself</bdi>”" in ann.html
    assert "Nothing is here" in await bob.open(ann.answer.url.path)


async def test_what_is_watched_is_its_authors_while_it_is_there(site: Site) -> None:
    ann, root = await site.browser().sign_up("ann"), await site.browser().sign_up("root")
    await User.find_one({"handle": "root"}).update({"$set": {"admin": True}})
    await ann.open("/compare")
    await ann.submit("/compare/post", text="between us")
    delivery = ann.answer.url.path
    streamed = f"{delivery}/live"
    assert [(await one.client.head(streamed)).status_code for one in (ann, root)] == [200, 404]
    assert "between us" not in await root.open(delivery)
    assert root.status == 404
    await ann.open("/")
    await ann.submit(delivery.replace("/compare/deliveries", "/statuses") + "/delete")
    assert "between us" not in await ann.open(delivery)
    assert ann.status == 404
    assert (await ann.client.head(streamed)).status_code == 404


async def test_whose_lists_hold_it_is_told_of_those_whose_presence_is_seen(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    for handle in ("bob", "cat", "dan"):
        one = await site.browser().sign_up(handle)
        await one.act("ann", "follow")
        if handle != "cat":
            await ann.act(handle, "follow")
        await one.open("/settings")
        await one.submit("/settings/presence", presence="nobody" if handle == "dan" else "mutuals")
    await ann.open("/compare")
    html = await ann.submit("/compare/post", text="watch me")
    assert re.findall(r"compare.reader=(\w+)\">@", html) == ["ann", "bob"], "not cat, a stranger, nor dan, who hides"
    await drain_queues(site.timelines)
    html = await (await elsewhere(site, ann)).open(ann.answer.url.path)
    assert re.findall(r"compare.reader=(\w+)\">@", html) == ["ann", "bob"]


async def elsewhere(site: Site, ann: Browser) -> Browser:
    """The same browser, whose requests another web process answers."""
    other = Site(site.stack, await Timelines.open(site.stack), site.clock, site.clients).browser()
    other.client.cookies = ann.client.cookies
    return other


async def test_any_web_process_shows_a_delivery(site: Site) -> None:
    ann, bob = await site.browser().sign_up("ann"), await site.browser().sign_up("bob")
    await bob.act("ann", "follow")
    await ann.act("bob", "follow")
    await ann.open("/compare")
    await ann.submit("/compare/post", text="watch me")
    delivery, there = ann.answer.url.path, await elsewhere(site, ann)
    html = await there.open(delivery)
    assert "ann posted: “<bdi>watch me</bdi>”" in html
    assert "Another web process took this post" in html
    assert f"Pending: <code>{CACHE.slug}</code>." in html
    await drain_queues(site.timelines)
    last = events((await there.client.get(f"{delivery}/live")).text)[-1]
    assert "Delivered." in last
    assert "Pending" not in last
    assert len(re.findall(r'data-label="[^"]*\bcache\b[^"]*">holds it<', last)) == 2, "ann's, and bob's, who is active"
    assert not re.search(r"\d ms", last), "nobody knows when"
    assert texts(await bob.open("/")) == ["watch me"]
    bob_there = await elsewhere(site, bob)
    await bob_there.open(delivery)
    assert bob_there.status == 404, "who may see a status does not watch its delivery"


async def test_in_demo_mode_any_web_process_shows_anybodys_delivery(demo: Site) -> None:
    ann, _ = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await ann.open("/compare")
    await ann.submit("/compare/post", author="bob", text="watch me")
    assert "bob posted: “<bdi>watch me</bdi>”" in await (await elsewhere(demo, ann)).open(ann.answer.url.path)


async def test_a_form_sent_twice_is_one_status_and_one_watch(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.open("/compare")
    form = ann.form("/compare/post").fields | {"text": "once"}
    answers = await asyncio.gather(*(ann.client.post("/compare/post", data=form) for _ in range(2)))
    assert len({answer.headers["location"] for answer in answers}) == 1
    (watch,) = site.app.state.watches.values()
    await ann.client.post("/compare/post", data=form)
    assert list(site.app.state.watches.values()) == [watch], "a second one would go on looking, and nobody would see it"
    other = await ann.client.post("/compare/post", data=form | {"text": "gone back, and another"})
    assert texts(await ann.open("/")) == ["gone back, and another", "once"]
    await ann.submit(other.headers["location"].replace("/compare/deliveries", "/statuses") + "/delete")
    ann.answer = await ann.client.post("/compare/post", data=form | {"text": "gone back, and another"})
    assert ann.status == 422
    assert 'id="text-wrong"' in ann.html
    assert texts(await ann.open("/")) == ["once"]


async def test_a_status_to_be_watched_outlives_its_session(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    await ann.open("/compare")
    await site.app.state.services.accounts.sign_out(ann.client.cookies[SESSION])
    await ann.submit("/compare/post", text="kept")
    assert ann.status == 401
    await ann.submit("/sign-in", handle="ann", password=PASSWORD)
    await ann.submit("/compare/post")
    assert "ann posted: “<bdi>kept</bdi>”" in ann.html


async def test_a_person_watches_only_so_many_deliveries(demo: Site) -> None:
    ann, bob = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await bob.open("/compare")
    await bob.submit("/compare/post", text="bob's", author="bob")
    begun: list[Watch] = []
    for n in range(WATCHES_EACH + 2):
        await ann.open("/compare")
        await ann.submit("/compare/post", text=f"number {n}", author="bob")
        begun.append(list(demo.app.state.watches.values())[-1])
    await asyncio.sleep(0)
    assert [watch.status.text for watch in demo.app.state.watches.values()] == [
        "bob's",
        "number 2",
        "number 3",
        "number 4",
    ]
    assert [watch.over for watch in begun] == [True, True, False, False, False]
