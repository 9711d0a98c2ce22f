"""The page for those who run the system."""

import asyncio
import os
import re

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from app.accounts import Accounts
from app.models import Account, User
from app.stack.mongodb import stand_in
from app.stack.queue import JobSeen, QueueDown
from app.watch import burning as burning_now
from app.watch import metrics
from app.watch.burning import Budgets, Burning
from app.web import dashboard, live
from phases.timelines import Timelines
from tests.dates import NOON, ManualClock
from tests.site import SLUGS, Site, events, forms, texts
from workers.worker import drain_queues

pytestmark = pytest.mark.anyio


async def test_operations_are_for_administrators(site: Site) -> None:
    ann = await site.browser().sign_up("ann")
    assert 'href="/operations"' not in await ann.open("/")
    await ann.open("/operations")
    assert ann.status == 403
    assert (await ann.client.get("/operations/live")).status_code == 403
    proof = ann.form("/sign-out").fields
    assert (await ann.client.post("/operations/retry", data=proof)).status_code == 403
    await User.find_one({"handle": "ann"}).update({"$set": {"admin": True}})
    html = await ann.open("/operations")
    assert ann.status == 200
    assert [form.action for form in forms(html)] == ["/sign-out"], "nothing is disturbed outside demo mode"
    for name in ("pause", "resume", "flush", "send-away"):
        assert (await ann.client.post(f"/operations/{name}", data=proof)).status_code == 404
    assert (await ann.client.post("/operations/retry", data=proof)).status_code == 303


async def test_why_an_author_is_pulled_is_shown_and_can_be_chosen(demo: Site) -> None:
    ann, bob = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await ann.open("/?phase=hybrid")
    html = await ann.open("/operations/authors?handle=@bob")
    assert "too few active followers" in html
    assert re.search(r'Active followers</th><td class="number">1</td>', html)
    assert "Nobody yet" in html
    given = ann.form("/sign-out").fields | {"handle": "bob"}
    answer = await ann.client.post("/operations/authors", data=given | {"choice": "pulled"})
    assert answer.status_code == 303
    html = await ann.open("/operations/authors?handle=bob")
    assert "<strong>Pulled.</strong> Somebody has chosen it here." in html
    demo.clock.advance(1)
    await bob.post("hello")
    assert texts(await ann.open("/?phase=hybrid")) == ["hello"]
    assert await demo.stack.db["statuses"].count_documents({"pulled": True}) == 1
    html = await ann.open("/operations/authors")
    assert re.search(r'handle=bob">@bob</a></td><td>yes</td><td>always pulled', html)
    for wrong in ({"choice": "sometimes"}, {"choice": "pulled", "handle": "nobody"}):
        assert (await ann.client.post("/operations/authors", data=given | wrong)).status_code == 422
    assert "Nobody has this handle" in await ann.open("/operations/authors?handle=nobody")
    await ann.client.post("/operations/authors", data=given | {"choice": "rule"})
    assert "too few active followers" in await ann.open("/operations/authors?handle=bob")


async def test_the_buttons_disturb_the_system_and_no_timeline(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def rest(seconds: float) -> None:
        demo.clock.advance(seconds)

    async def press(name: str) -> str:
        await ann.open("/operations")
        return await ann.submit(f"/operations/{name}")

    async def pending() -> int:
        return (await demo.timelines.state()).phases[-1].pending

    monkeypatch.setattr(dashboard, "rest", rest)
    ann, bob = await demo.browser().sign_up("ann"), await demo.browser().sign_up("bob")
    await ann.act("bob", "follow")
    await bob.post("hello")
    await ann.open("/?phase=cache")
    assert re.search(r"Active</dt><dd>2 <span", await ann.open("/operations"))
    assert "Resume workers" in await press("pause")
    demo.clock.advance(2)
    await bob.post("while paused")
    await drain_queues(demo.timelines)
    assert await pending() > 0, "a paused worker takes nothing"
    assert texts(await ann.open("/?phase=cache")) == ["while paused", "hello"]
    assert "Pause workers" in await press("resume")
    await drain_queues(demo.timelines)
    assert await pending() == 0
    assert "lists in Memcached are forgotten" in await press("flush")
    assert "Nine in ten people are away now: phases 4 to 6 skip them" in await press("send-away")
    assert "Nine in ten" not in await ann.open(str(ann.answer.url)), "it is said once"
    demo.clock.advance(10)
    for slug in SLUGS:
        assert texts(await ann.open(f"/?phase={slug}")) == ["while paused", "hello"], slug


async def test_dead_letters_show_their_error_and_are_queued_again(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await demo.browser().sign_up("ann")
    dead = [JobSeen("cache-1", "cache", "0" * 24, "failed", 0, demo.clock.now(), "KeyError: <lost>")]

    async def deliveries(*, failed: bool, limit: int) -> list[JobSeen]:
        assert failed
        return dead[:limit]

    async def retry() -> int:
        dead.clear()
        return 1

    monkeypatch.setattr(demo.stack.queue, "deliveries", deliveries)
    monkeypatch.setattr(demo.stack.queue, "retry_dead_letters", retry)
    assert "KeyError: &lt;lost&gt;" in await ann.open("/operations")
    assert "no job has failed" in await ann.submit("/operations/retry")


async def test_it_says_which_server_does_not_answer(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> dict[str, str | None]:
        return {"mongodb": "6", "redis": None, "memcached": None}

    ann = await demo.browser().sign_up("ann")
    monkeypatch.setattr(demo.stack, "check", away)
    html = await ann.open("/operations")
    assert html.count("no answer") == 2
    assert "Redis does not answer" in html
    assert "Memcached does not answer" in html


async def test_the_page_is_kept_up_to_date(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LONGEST_S", 0)
    ann = await demo.browser().sign_up("ann")
    (event,) = events((await ann.client.get("/operations/live")).text)
    event, page = (re.sub(r"\d[\d,. ]*", "", html) for html in (event, await ann.open("/operations")))
    assert event.strip() in page, "but for the figures"
    assert "Deliveries" in event


async def test_an_open_page_is_told_that_mongodb_does_not_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which alone knows whether its session goes on, and who operates outside demo mode."""

    def gone(*_: object) -> None:
        raise ServerSelectionTimeoutError("nobody answers")

    async def no_answer(*_: object) -> None:
        gone()

    async def heard(self: Accounts, token: str) -> Account | None:
        asked.put_nowait(token)
        return await authenticate(self, token)

    async def looks(count: int) -> None:
        for _ in range(count):
            await asyncio.wait_for(asked.get(), 30)

    ann, asked, authenticate = await site.browser().sign_up("ann"), asyncio.Queue[str](), Accounts.authenticate
    await User.find_one({"handle": "ann"}).update({"$set": {"admin": True}})
    monkeypatch.setattr(Accounts, "authenticate", heard)
    monkeypatch.setattr(live, "SURE_S", 0)
    monkeypatch.setattr(dashboard, "LOOK_EVERY_S", 0.01)
    streaming = asyncio.create_task(ann.client.get("/operations/live"))
    await looks(3)  # the request, a whole one, and the next
    monkeypatch.setattr(stand_in, "count_mongodb", gone)
    monkeypatch.setattr(stand_in.StandInDatabase, "command", no_answer)
    await looks(3)
    site.app.state.streams.stop()
    told = events((await asyncio.wait_for(streaming, 30)).text)
    assert "no answer" not in told[0]
    assert re.search(r"MongoDB</dt><dd><span[^>]*>no answer", told[-1])
    assert "MongoDB does not answer" in told[-1]


async def test_a_server_that_fails_the_first_look_leaves_on_the_page_what_is_there(
    demo: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_: Timelines) -> None:
        raise ServerSelectionTimeoutError("nobody answers any more")

    monkeypatch.setattr(live, "LONGEST_S", 0)
    monkeypatch.setattr(Timelines, "state", gone)
    ann = await demo.browser().sign_up("ann")
    assert events((await ann.client.get("/operations/live")).text) == []


def test_a_sparkline_runs_from_left_to_right_and_from_the_bottom_up() -> None:
    assert dashboard.polyline([(300, 0), (150, 5), (0, 10)], 10) == "0.0,27.0 80.0,14.0 160.0,1.0"
    assert dashboard.polyline([(0, 0)], 0) == "160.0,27.0"


async def test_it_shows_how_fast_the_budgets_burn(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this process, without Prometheus: by what was counted in the last hour and the last five minutes."""

    def burning() -> dict[str, Burning]:
        return {one.objective.name: one for one in demo.app.state.budgets.burning()}

    async def fail(*args: object, **options: object) -> None:
        raise QueueDown("away")

    monkeypatch.setattr(burning_now, "LEAST_PER_S", 0)
    ann = await demo.browser().sign_up("ann")
    budgets = Budgets(demo.clock.monotonic)
    demo.app.state.budgets = budgets
    assert burning()["availability"].long is None, "nobody has asked for anything"
    for _ in range(9):
        await ann.client.get("/people")
    with monkeypatch.context() as broken:
        broken.setattr(Timelines, "page", fail)
        assert (await ann.client.get("/")).status_code == 503
    for _ in range(10):
        await ann.client.get("/healthz")
    assert (burning()["availability"].requests, burning()["availability"].long) == (10, 0.1)
    assert burning()["availability"].burn == pytest.approx(100)
    assert burning()["availability"].severity == "page"
    assert burning()["latency-p99.9"].requests == 10
    html = await ann.open("/operations")
    assert re.search(r"99.9 % without an error of ours</th>.*?>10</td>\s*<td[^>]*>10.00 %", html, re.DOTALL)
    assert f"of web process {os.getpid()} alone" in html
    for _ in range(30):  # five minutes and more
        demo.clock.advance(15)
        budgets.note()
    await ann.client.get("/people")
    assert (burning()["availability"].short, burning()["availability"].severity) == (0.0, "")
    for _ in range(241):
        demo.clock.advance(15)
        budgets.note()
    assert burning()["availability"].requests == 0, "an hour later it is forgotten"


def test_one_error_among_few_requests_is_no_page_and_an_outage_is() -> None:
    """As the rules have it: fewer than 0.2 requests a second count as so many."""
    budgets = Budgets(ManualClock(NOON).monotonic)
    answered = metrics.REQUESTS.labels("/people", "GET", 200), metrics.REQUESTS.labels("/people", "GET", 503)
    answered[0].inc(9)
    answered[1].inc()
    [availability] = [one for one in budgets.burning() if one.objective.name == "availability"]
    assert (availability.requests, availability.long, availability.short) == (10, 1 / 720, 1 / 60)
    assert availability.severity != "page"
    answered[1].inc(10)
    [availability] = [one for one in budgets.burning() if one.objective.name == "availability"]
    assert (availability.requests, availability.long, availability.severity) == (20, 11 / 720, "page")
    answered[0].inc(980)
    [availability] = [one for one in budgets.burning() if one.objective.name == "availability"]
    assert availability.long == 11 / 1_000, "of those that there were"
