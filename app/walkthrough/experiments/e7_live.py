"""Experiment: asking or being told. What open pages cost MongoDB, how late they are, and what lost hints lose."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from time import perf_counter
from typing import Any

from bson import Binary, ObjectId

from app.accounts import Accounts
from app.inbox.conversations import Conversations
from app.inbox.notifications import Notification, Notifications
from app.live.connection import Connection
from app.live.hub import Hub
from app.live.presence import Presences
from app.live.steps import Persons
from app.models import StatusRow
from app.social.people import People
from app.stack import Hint
from app.stack.bus import MemoryBus
from app.stack.cost import counted, uncounted
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab
from app.walkthrough.result import Bar, Chart, Check, Result, Sample, compared, written
from phases import PHASES

ASK_S = 2.0  # between two questions of a page that polls
SIZES = (10, 100)  # pages, besides as many as the knob says
AUTHORS, FOLLOWED = 20, 10  # of whom each page follows so many
PAUSE_S = 0.2  # between two posts
POSTS, FEW_POSTS = 10, 2  # on real servers, and on stand-ins
STAND_IN_TIMES = 10  # everything is so much quicker on stand-ins, where it means nothing
LOST_OF = 10  # statuses whose hints are half lost
DELIVERING = tuple(phase.slug for phase in PHASES if phase.carrier)
TOKEN = sha256(b"of everybody in the laboratory").digest()


class Pushed(Experiment):
    slug = "live"
    title = "Asking every two seconds, or being told"
    about = (
        f"Pages are open, each of somebody who follows {FOLLOWED} of {AUTHORS} authors, and these post. First every "
        f"page asks for its timeline every {ASK_S:g} s; then they are connections to a hub that hears of each status. "
        "How many commands does MongoDB get a second, and how long is it from the acknowledged post to the page? Then "
        "every second hint is lost, with and without the hub looking by itself."
    )
    knobs = (Knob("pages", "Open pages", 10, 1_000, 10, 500, 10),)

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        n = values["pages"]
        sizes = [*(size for size in SIZES if size < n and lab.real), n]
        place = await _place(lab, n)
        asked, told = {}, {}
        for size in sizes:
            lab.say(f"{size:,} pages ask every {ASK_S:g} s")
            asked[size] = await _asked(place, size)
            lab.say(f"{size:,} pages are told")
            told[size] = await _told(place, size)
        both = [(size, series, ways[size]) for size in sizes for series, ways in enumerate((asked, told))]
        ways = ("asking", "told")
        return Result(
            pain=pain(n, asked[n].delay_ms, asked[n].commands_per_s),
            sentence=sentence(n, asked[n].delay_ms, told[n].delay_ms, asked[n].commands_per_s, told[n].commands_per_s),
            charts=(
                Chart(
                    title="Commands to MongoDB, a second",
                    unit="",
                    series=ways,
                    bars=tuple(
                        Bar(label=f"{size:,} pages", value=way.commands_per_s, series=series)
                        for size, series, way in both
                    ),
                ),
                Chart(
                    title="From the acknowledged post to the page",
                    unit="ms",
                    series=ways,
                    bars=tuple(way.delay_ms.bar(f"{size:,} pages", series) for size, series, way in both),
                ),
            ),
            checks=tuple(await _lost(place)),
        )


@dataclass(frozen=True)
class Place:
    lab: Lab
    people: People
    authors: Sequence[ObjectId]
    readers: Sequence[ObjectId]

    def s(self, seconds: float) -> float:
        return seconds if self.lab.real else seconds / STAND_IN_TIMES

    async def posted(self, at: dict[ObjectId, float]) -> None:
        """Post one status after another, and note in `at` when each was acknowledged."""
        for number in range(POSTS if self.lab.real else FEW_POSTS):
            at[await self.post(number)] = perf_counter()
            await asyncio.sleep(self.s(PAUSE_S))

    async def post(self, number: int) -> ObjectId:
        """Store a status and hint at it, as `Statuses.post` does."""
        author = self.authors[number % AUTHORS]
        status = await self.lab.store(author, *DELIVERING)
        self.lab.stack.bus.tell(Hint("posted", author, status.id))
        return status.id

    def hub(self) -> Hub:
        stack = self.lab.stack
        parts = self.people, Accounts(stack), Notifications(stack), Presences(stack)
        return Hub(stack, self.lab.timelines, *parts, Plain(), Conversations(stack).unread)


class Plain:
    """A client's view in which each thing is only its id."""

    def status(self, row: StatusRow, authors: Persons) -> dict[str, Any]:
        return {"id": str(row.id)}

    def notification(self, one: Notification, people: Persons) -> dict[str, Any]:
        return {"seq": one.seq}

    def message(self, *_: Any) -> dict[str, Any]:
        return {}

    conversation = presence = message  # nobody has any


@dataclass(frozen=True)
class Watched:
    delay_ms: Sample
    commands_per_s: float


async def _place(lab: Lab, n: int) -> Place:
    authors, readers = [lab.person() for _ in range(AUTHORS)], [lab.person() for _ in range(n)]
    now = lab.clock.now()
    people = [
        {"_id": id, "handle": f"author_{number}", "name": "Author", "found_by": [], "created_at": now}
        for number, id in enumerate(authors)
    ]
    await lab.insert("users", people)
    token = {"_id": ObjectId(), "digest": Binary(TOKEN), "user_id": readers[0], "expires_at": now + timedelta(days=1)}
    await lab.insert("tokens", [token])
    for number, author in enumerate(authors):
        theirs = [one for at, one in enumerate(readers) if (number - at) % AUTHORS < FOLLOWED]
        await lab.follow(theirs, author, active=0)
    await lab.history(authors, 2)
    return Place(lab, People(lab.stack), authors, readers)


async def _asked(place: Place, size: int) -> Watched:
    """Watch readers who ask for the whole page again and again, and find on it what is new.

    All ask once more in the end.
    """
    at: dict[ObjectId, float] = {}
    delays: list[float] = []
    is_over = asyncio.Event()

    async def page(number: int) -> None:
        seen: set[ObjectId] = set()
        await asyncio.sleep(place.s(ASK_S) * number / size)  # not all of them at once
        while True:
            is_last = is_over.is_set()
            found = await place.lab.timelines.page(place.readers[number], limit=20)
            new = [row.id for row in found.statuses if row.id in at and row.id not in seen]
            delays.extend(1000 * (perf_counter() - at[id]) for id in new)
            seen.update(new)
            if is_last:
                return
            await asyncio.sleep(place.s(ASK_S))

    with counted() as cost:
        pages = [asyncio.create_task(page(number)) for number in range(size)]
    begun_s = perf_counter()
    await place.posted(at)
    is_over.set()
    await asyncio.gather(*pages)
    return Watched(Sample.of(delays), cost.mongodb / (perf_counter() - begun_s))


async def _told(place: Place, size: int) -> Watched:
    at: dict[ObjectId, float] = {}
    delays: list[float] = []
    hub = place.hub()
    connections = await asyncio.gather(*(hub.open(reader, TOKEN) for reader in place.readers[:size]))

    async def page(connection: Connection) -> None:
        while events := await connection.take():
            now_s = perf_counter()
            ids = [ObjectId(json.loads(event.data)["id"]) for event in events if event.name == "status"]
            delays.extend(1000 * (now_s - at.get(id, now_s)) for id in ids)

    pages = [asyncio.create_task(page(connection)) for connection in connections]
    begun_s = perf_counter()
    with counted() as cost:
        running = asyncio.create_task(hub.run())
        with uncounted():
            await place.posted(at)
        await hub.settled()  # whoever is told at all has been told
    await asyncio.sleep(place.s(PAUSE_S))
    commands_per_s = cost.mongodb / (perf_counter() - begun_s)
    await _ended([*pages, running])
    return Watched(Sample.of(delays), commands_per_s)


async def _ended(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


class HalfLost(MemoryBus):
    """A bus that loses every second hint."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0

    def tell(self, *hints: Hint) -> None:
        for hint in hints:
            self._told += 1
            if self._told % 2:
                super().tell(hint)


async def _lost(place: Place) -> list[Check]:
    """Lose every second hint. No process looks for news by itself here, until it is told to."""
    place.lab.say("Losing every second hint")
    stack, hub = place.lab.stack, place.hub()
    bus, stack.bus = stack.bus, HalfLost()
    try:
        stack.bus.listen(hub.listener)
        await hub.settled()
        connection = await hub.open(place.readers[0], TOKEN)
        connection.taken()
        for number in range(LOST_OF):
            await place.post(-number % FOLLOWED)
        counts = []
        for looks in (False, True):
            if looks:
                hub.listener.missed()
            await hub.settled()
            counts.append(sum(event.name == "status" for event in connection.taken()))
        hub.close(connection)
    finally:
        stack.bus = bus
    without, found = counts
    return [
        Check(
            what=f"Every second hint of {LOST_OF} statuses is lost, and nobody looks: how many does the page get?",
            found=str(without),
            as_told=0 < without < LOST_OF,
        ),
        Check(
            what="And once the hub has looked by itself?",
            found=f"{found} more: {without + found}",
            as_told=without + found == LOST_OF,
        ),
    ]


def pain(n: int, asked_ms: Sample, commands_per_s: float) -> str:
    return (
        f"{n:,} pages that ask every {ASK_S:g} s give MongoDB {written(commands_per_s)} commands a second, and a "
        f"status is on them {asked_ms} ms after it was acknowledged."
    )


def sentence(n: int, asked_ms: Sample, told_ms: Sample, asked_per_s: float, told_per_s: float) -> str:
    return (
        f"With {n:,} open pages MongoDB gets {written(asked_per_s)} commands a second when they ask and "
        f"{written(told_per_s)} when they are told. A status is on a page after {asked_ms} ms when it asks and after "
        f"{told_ms} ms when it is told: {compared(told_ms, asked_ms)}."
    )
