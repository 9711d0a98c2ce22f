"""Presence: who is here now, and when they were here last, for those who may know: people who follow each other.

A person is here while any of their connections is, on whatever device. A connection that ends ends after a grace, so a
reload, a tunnel or another tab is no change. A process that is killed leaves its people here for 35 s at most: so
long its heartbeats last. Another one finds within LOOK_S that they have gone. Nothing else needs presence: without
Redis nobody is said to be here, and nothing fails.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from bson import ObjectId

from app.batched import batched
from app.edges import Edges, Reader
from app.errors import TooMany
from app.live.connection import EACH
from app.logs import Outages
from app.stack import Stack, outages_told
from app.stack.heartbeats import Full, HeartbeatsDown
from app.stack.mongodb.find import Find, together
from app.watch.background import errors_counted

log = logging.getLogger(__name__)

RENEW_S = 15.0
GRACE_S = 8.0  # how long a connection that has ended still counts
LOOK_S = 5.0  # between looks for people who have gone
STORED_S = 60.0  # somebody who stays is noted to have been seen so often
RETRY_AFTER_S = 5
PEOPLE_AT_ONCE = 1_000  # in one write

Changed = Callable[[ObjectId], Awaitable[None]]  # somebody has come, or gone: a hint


class Presence(NamedTuple):
    """Whether somebody is here, and when they were seen last.

    `last_seen_at`: to a minute while they are here; None for somebody who never was.
    """

    online: bool
    last_seen_at: datetime | None


def is_another(one: Presence | None, other: Presence | None) -> bool:
    """Say whether the two differ in a way that is told.

    When somebody who is here was seen last is no news.
    """
    return one != other and not (one and other and one.online and other.online)


async def _nobody_listens(_person: ObjectId) -> None:
    pass


class Presences:
    """The presence of people, and the connections of this process. There is one instance per process.

    `changed`: is told of people who come and go. One process alone is told of each.
    """

    def __init__(self, stack: Stack, changed: Changed = _nobody_listens) -> None:
        self._db, self._clock, self._heartbeats, self._changed = stack.db, stack.clock, stack.heartbeats, changed
        self._connections: dict[tuple[ObjectId, str], float] = {}  # and when they were last noted to be here
        self._outages = Outages(log)

    # Connections of this process

    @property
    def here(self) -> int:
        """The number of people with a connection to this process."""
        return len({person for person, _ in self._connections})

    async def connected(self, person: ObjectId, connection: str) -> None:
        """Note a connection that has begun. `connection`: an id that no other one has, in any process.

        Raises TooMany where the person has EACH of them, in all processes together: as far as Redis knows, and those
        that have ended do not count in their grace.
        """
        self._connections[person, connection] = self._clock.monotonic()
        try:
            await self._beat([(person, connection)], EACH)
        except Full:
            del self._connections[person, connection]
            raise TooMany(f"You have {EACH} live streams open already.", RETRY_AFTER_S) from None

    async def gone(self, person: ObjectId, connection: str) -> None:
        if self._connections.pop((person, connection), None) is None:
            return
        try:
            await self._heartbeats.leave(person, connection, int(GRACE_S * 1000))
        except HeartbeatsDown as error:
            self._tell(error)

    async def renew(self) -> None:
        """Renew all connections of this process, in one round trip."""
        if not self._connections:
            return
        now_s = self._clock.monotonic()
        late = [one for one, noted_s in self._connections.items() if now_s - noted_s >= STORED_S]
        self._connections.update(dict.fromkeys(late, now_s))
        await self._seen({person for person, _ in late})
        await self._beat(list(self._connections))

    async def look(self) -> None:
        """Look for people whose last connection has ended, here or in a process that was killed."""
        try:
            while gone := await self._heartbeats.lapsed():
                await self._seen(gone)
                for person in gone:
                    await self._changed(person)
        except HeartbeatsDown as error:
            self._tell(error)

    async def keep(self) -> None:
        """Renew and look until cancelled; then the connections of this process end, after the grace."""
        renewed_s = self._clock.monotonic()
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                with errors_counted("presence", "who comes and goes is told later"):
                    if self._clock.monotonic() - renewed_s >= RENEW_S - LOOK_S / 2:
                        renewed_s = self._clock.monotonic()
                        await self.renew()
                    await self.look()
        finally:
            for person, connection in list(self._connections):
                await self.gone(person, connection)

    async def _beat(self, connections: Sequence[tuple[ObjectId, str]], most: int = 0) -> None:
        try:
            came = await self._heartbeats.beat(connections, most, int(GRACE_S * 1000))
        except HeartbeatsDown as error:
            self._tell(error)
            return
        self._tell(None)
        await self._seen(came)
        for person in came:
            await self._changed(person)

    async def _seen(self, people: Collection[ObjectId]) -> None:
        """Note that these people were seen now. Whatever others write meanwhile, it moves forward only."""
        now = self._clock.now()
        for some in batched(people, PEOPLE_AT_ONCE):
            known = {"_id": {"$in": some}, "deleted": {"$exists": False}}
            with outages_told(log.info, "who was here is noted a minute later"):
                await self._db["users"].update_many(known, {"$max": {"seen_at": now}})

    def _tell(self, away: HeartbeatsDown | None) -> None:
        words = f"nobody is said to be here: {away}" if away else "it is known again who is here"
        self._outages.tell(away is not None, words)

    # What others see

    async def seen_by(self, viewer: ObjectId, people: Collection[ObjectId]) -> Mapping[ObjectId, Presence | None]:
        """Return the presence of these people as the viewer may know it; None where they may not.

        It is known of whoever follows the viewer and is followed by them, without a block in between, unless that
        person hides it.
        """
        return (await self.seen_by_each({viewer: people}))[viewer]

    async def seen_by_each(
        self, viewers: Mapping[ObjectId, Collection[ObjectId]]
    ) -> dict[ObjectId, dict[ObjectId, Presence | None]]:
        """Return, for each viewer, the presence of the people whom they look at, as in `seen_by`."""
        people = sorted({person for theirs in viewers.values() for person in theirs})
        if not people:
            return {viewer: {} for viewer in viewers}
        edges = Edges(viewers, people)
        users = Find("users", {"_id": {"$in": people}}, ("_id", "seen_at", "presence", "deleted"), len(people))
        found = await together(self._db, users=users, **edges.finds)
        readers = edges.readers(found)
        may = {
            viewer: {each for each in theirs if _may_know(readers[viewer], each)} for viewer, theirs in viewers.items()
        }
        asked = set().union(*may.values())
        shown = [row for row in found["users"] if row["_id"] in asked and not row.get("deleted")]
        seen = {row["_id"]: row.get("seen_at") for row in shown if row.get("presence") != "nobody"}
        known = _presences(seen, await self._here(list(seen)), seen)
        return {
            viewer: {person: known.get(person) if person in may[viewer] else None for person in theirs}
            for viewer, theirs in viewers.items()
        }

    async def _here(self, people: Sequence[ObjectId]) -> Collection[ObjectId]:
        if not people:
            return ()
        try:
            return await self._heartbeats.among(people)
        except HeartbeatsDown as error:
            self._tell(error)
            return ()


def _may_know(viewer: Reader, person: ObjectId) -> bool:
    relation = viewer.relations[person]
    return relation.follows and viewer.followed_by[person] and not relation.blocked


def _presences(
    people: Collection[ObjectId], here: Collection[ObjectId], seen: Mapping[ObjectId, datetime | None]
) -> dict[ObjectId, Presence]:
    return {person: Presence(person in here, seen.get(person)) for person in people}
