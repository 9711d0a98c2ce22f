"""The load of a fault run: authors who post; readers who read in every phase, follow and block, and check each page;
and people who write to each other.

A reader does one thing after the other, so that their relations during a read are known. What failed is tried again:
posts with their idempotency key, everything else as it was. Only the HTTP API is used.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any
from uuid import UUID

from httpx import Response

from benchmarks.faults.client import NEVER_REPLAYED, Client, patience_s, persist
from benchmarks.faults.talk import Talks
from benchmarks.faults.worlds import Post, Read, Worlds
from benchmarks.oracle import Relation
from phases import PHASES

SLUGS = tuple(phase.slug for phase in PHASES)
AUDIENCES = ("followers",) * 6 + ("mutuals", "circle")
CALM_S = 10.0  # after an unknown outcome: nobody contradicts what may still be on its way to MongoDB
DELETED = 0.15  # share of the posts
PAGE_LIMITS = (5, 20, 50, 100)

Change = Callable[[Relation], Relation]


@dataclass(frozen=True)
class Cast:
    """The handles of the people in a run.

    `steady` readers follow everybody all the time, so whoever has just posted can read through them.
    """

    authors: tuple[str, ...]
    readers: tuple[str, ...]
    steady: tuple[str, ...]

    @property
    def everybody(self) -> tuple[str, ...]:
        return self.authors + self.readers + self.steady


class Load:
    """A load that goes on until `stop` is set, and until every operation under way then has ended."""

    def __init__(self, client: Client, cast: Cast, seed: int, think_s: float) -> None:
        self.client, self.outcome, self.cast = client, client.outcome, cast
        self.worlds, self.talks = Worlds(), Talks(client, cast.steady)
        self.stop = asyncio.Event()
        self._seed, self._think_s = seed, think_s
        for reader in cast.readers + cast.steady:
            for author in cast.authors:
                self.worlds.relations[reader, author] = frozenset({Relation()})

    async def prepare(self) -> None:
        """Sign everybody in, and empty the circles that seeding has made."""
        for handle in self.cast.everybody:
            await self.client.sign_in(handle)
        for author in self.cast.authors:
            for reader in self.cast.readers + self.cast.steady:
                answer = await self.client.call(author, "circle", "DELETE", f"/circle/{reader}", 204)
                assert answer is not None, "nothing has been broken yet"
        await self.talks.prepare()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for handle in self.cast.authors:
                tasks.create_task(self._author(handle, Random(f"{self._seed} {handle}")))
            for handle in self.cast.readers:
                tasks.create_task(Reader(self, handle, Random(f"{self._seed} {handle}")).run())
            for handle in self.cast.steady:
                tasks.create_task(self._writer(handle, Random(f"{self._seed} {handle}")))

    async def pause(self, random: Random) -> None:
        await asyncio.sleep(random.uniform(0.2, 1.8) * self._think_s)

    # Authors

    async def _author(self, handle: str, random: Random) -> None:
        for number in count(1):
            if self.stop.is_set():
                return
            post = Post(handle, f"{handle} says {number}", random.choice(AUDIENCES), time.monotonic())
            if await self._post(post, random):
                phase, reader = random.choice(SLUGS), random.choice(self.cast.steady)
                await self.read(reader, phase, 10)
                if random.random() < DELETED:
                    await self._delete(post)
            await self.pause(random)

    async def _post(self, post: Post, random: Random) -> bool:
        """Post a status; return whether it was acknowledged."""
        self.worlds.begun(post)
        replayed = random.random() >= NEVER_REPLAYED
        headers = {"Idempotency-Key": str(UUID(int=random.getrandbits(128)))} if replayed else {}
        body = {"text": post.text, "audience": post.audience}

        async def attempt(number: int) -> Response | None:
            self.outcome.posts_replayed += number > 1
            options: Any = {"json": body, "headers": headers, "patience_s": patience_s(number, random)}
            return await self.client.call(post.author, "post", "POST", "/statuses", 200, 201, **options)

        answer = await (persist(attempt) if replayed else attempt(1))
        if answer is not None:
            self.outcome.posts_acknowledged += 1
            self.outcome.violations += self.worlds.acknowledge(post, answer.json()["id"], time.monotonic())
        return answer is not None

    async def _delete(self, post: Post) -> None:
        async def attempt(number: int) -> Response | None:
            accepted = (204,) if number == 1 else (204, 404)  # the try before may have done it
            return await self.client.call(post.author, "delete", "DELETE", f"/statuses/{post.id}", *accepted)

        post.delete_began_s = time.monotonic()
        await persist(attempt)
        post.deleted_s = time.monotonic()

    async def _writer(self, handle: str, random: Random) -> None:
        while not self.stop.is_set():
            await self.talks.turn(handle, random)
            await self.pause(random)

    # Pages

    async def read(self, reader: str, phase: str, limit: int, before: str | None = None) -> Read | None:
        """Check one page of a home timeline."""
        parameters = {"phase": phase, "limit": str(limit)} | ({"before": before} if before else {})
        return await self._page(reader, self.cast.authors, f"read {phase}", "/timeline", parameters, before)

    async def profile(self, reader: str, author: str, limit: int) -> None:
        parameters = {"limit": str(limit)}
        await self._page(reader, (author,), "profile", f"/users/{author}/statuses", parameters, None)

    async def _page(
        self, reader: str, authors: Sequence[str], kind: str, path: str, parameters: dict[str, str], before: str | None
    ) -> Read | None:
        began_s = time.monotonic()
        answer = await self.client.call(reader, kind, "GET", path, 200, params=parameters)
        if answer is None:
            return None
        body = answer.json()
        shown = [(status["id"], status["text"]) for status in body["statuses"]]
        where = f"{kind} limit {parameters['limit']}" + (f" from {body['cost']['source']}" if "cost" in body else "")
        read = Read(reader, authors, began_s, time.monotonic(), shown, before, body["next"], where)
        self.outcome.pages_checked += 1
        self.outcome.violations += self.worlds.check(read)
        return read

    async def walk(self, reader: str, phase: str) -> None:
        """Check a whole timeline, to its very first status."""
        before: str | None = None

        async def attempt(_: int) -> Read | None:
            return await self.read(reader, phase, 100, before)

        while True:
            before = (await persist(attempt)).next
            if before is None:
                return


class Reader:
    """A reader whose relations to authors change."""

    def __init__(self, load: Load, handle: str, random: Random) -> None:
        self.load, self.handle, self.random = load, handle, random
        self._calm_until_s: dict[str, float] = {}  # by author

    async def run(self) -> None:
        while not self.load.stop.is_set():
            limit = self.random.choice(PAGE_LIMITS)
            pages = await asyncio.gather(*(self.load.read(self.handle, phase, limit) for phase in SLUGS))
            if self.random.random() < 0.3:
                phase, page = self.random.choice(list(zip(SLUGS, pages, strict=True)))
                if page and page.next:
                    await self.load.read(self.handle, phase, limit, page.next)
            if self.random.random() < 0.2:
                await self.load.profile(self.handle, self.random.choice(self.load.cast.authors), 20)
            if self.random.random() < 0.4:
                await self._change(self.random.choice(self.load.cast.authors))
            await self.load.pause(self.random)

    async def _change(self, author: str) -> None:
        """Make one change between this reader and an author, who goes on reading while its outcome is unknown."""
        if time.monotonic() < self._calm_until_s.get(author, 0):
            return
        (now,) = self.load.worlds.relations[self.handle, author]
        actor, method, path, change = self.random.choice(_changes(self.handle, author, now))

        async def attempt(number: int) -> int | None:
            if number > 1:
                await self.load.read(self.handle, self.random.choice(SLUGS), 20)
            answer = await self.load.client.call(actor, "edge", method, path, 204)
            return None if answer is None else number

        self.load.worlds.asked(self.handle, author, change)
        tries = await persist(attempt)
        self.load.worlds.answered(self.handle, author, change)
        if tries > 1:
            self._calm_until_s[author] = time.monotonic() + CALM_S


def _changes(me: str, author: str, now: Relation) -> list[tuple[str, str, str, Change]]:
    """Return (who asks, method, path, what it changes) of everything that may happen next."""

    def toggle(who: str, path: str, field: str) -> tuple[str, str, str, Change]:
        was = getattr(now, field)
        return who, "DELETE" if was else "PUT", path, _set(**{field: not was})

    circle = toggle(author, f"/circle/{me}", "in_circle")
    if now.blocked:
        unblock = _set(follows=False, followed_back=False, blocked=False)
        return [circle, *[(me, "DELETE", f"/blocks/{author}", unblock)] * 3]
    follow = toggle(me, f"/follows/{author}", "follows")
    if not now.follows:
        return [circle, follow, follow, follow]
    back = toggle(author, f"/follows/{me}", "followed_back")
    block = _set(follows=False, followed_back=False, blocked=True)
    return [circle, follow, back, back, (me, "PUT", f"/blocks/{author}", block)]


def _set(**fields: bool) -> Change:
    return lambda relation: relation._replace(**fields)
