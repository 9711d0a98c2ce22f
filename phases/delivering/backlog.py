"""The backlog as one process knows it: what is pending for the phases that keep something, by author.

While much is pending, every page has to know what its own authors have in it, and an `$in` of them all keeps MongoDB
busy for as long as the rest of a page does. So the process reads the backlog once, in bounded steps, and a page asks
only for what has come since, which is the same question for everybody (rule 10).

Why nothing is missing. What is read is as of a second of the cluster's time, by which MongoDB also dates each insert.
What is stored later has an id from LATE_S before that second on, so the page finds it: unless the insert came later
than LATE_S after its id. Then its poster changes the version LATE before anybody is told that it is stored, and a page
that sees another version, on the snapshot of its look, does not believe what was read. Should the poster die, or be
cut off, before that, nobody has been told, and the status is there REREAD_S later at the latest. What has been
delivered since stays a candidate, which `on_home` judges like any other.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bson import ObjectId, Timestamp
from cachetools import LRUCache

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID, Clock, first_id
from app.edges import LATE, Version, version_of
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import NEWEST_FIRST, Find, dated
from phases.home.candidates import Undelivered

LATE_S = 2  # from the second of an id to that of the insert; from then on it is late
STEP = 1_000  # statuses of one look-up
MOST = 50_000  # statuses that are known, about 10 MB; of a longer backlog each page asks for its own authors
REREAD_S = 60.0  # after so long it is read anew
WAITED_FOR = 100_000  # places of all readers together, about 200 bytes each


def is_late(status: ObjectId, pending_s: int) -> bool:
    """Return whether a status that is pending from this second on has an id from more than LATE_S before."""
    return pending_s - _second(status) > LATE_S


class _Waiting(NamedTuple):
    """The newest `n` that a reader of these followees waits for."""

    followees: Sequence[ObjectId]
    n: int
    waiting: Undelivered

    def size(self) -> int:
        return 1 + len(self.waiting.entries)


class Backlog:
    """What was `pending` for some consumers, as a query says which. A page finds at most `few` that have come since.

    `late`: the version LATE, at which this may be believed. `since`: what is stored after it has at least this id.
    """

    def __init__(self, db: Database, clock: Clock, pending: object, few: int) -> None:
        self._db, self._clock, self._pending, self._few = db, clock, pending, few
        self._by_author: dict[bytes, set[bytes]] = {}  # remembered
        self._waiting: LRUCache[bytes, _Waiting] = LRUCache(WAITED_FOR, getsizeof=_Waiting.size)  # by reader
        self._known, self._below = 0, LAST_ID
        self._reading = self._is_behind = False
        self._begun_at_s = clock.monotonic()
        self._as_of: Timestamp | None = None
        self.late: Version = 0
        self.since = LAST_ID

    @property
    def is_old(self) -> bool:
        return self._clock.monotonic() - self._begun_at_s >= REREAD_S

    @property
    def is_complete(self) -> bool:
        """Whether it was read to its end."""
        return self._below == FIRST_ID

    async def read_on(self) -> bool:
        """Make the next step of the reading, if there is any and nobody is at it. Return whether that is worth while:
        neither is it too long, nor does more come than a page could ask for.
        """
        if self._reading or (self.is_complete and not self._is_behind):
            return True
        self._reading = True
        try:
            return await (self._catch_up() if self.is_complete else self._read_down())
        finally:
            self._reading = False

    async def _read_down(self) -> bool:
        if self._below == LAST_ID:
            found, self._as_of = await dated(self._db, version_of(LATE))
            self.late = found[0].get("version", 0) if found else 0
        part, second = await self._dated({"$lt": self._below})
        if second is None:
            return False
        if self._below == LAST_ID:
            self.since = first_id(second - LATE_S)
        self._add(part)
        self._below = part[-1].id if len(part) == STEP else FIRST_ID
        return self._known <= MOST and self._stays_few(part)

    async def _catch_up(self) -> bool:
        part, second = await self._dated({"$gte": self.since})
        if second is None or len(part) == STEP:
            return False
        self._add(part)
        self.since, self._is_behind = first_id(second - LATE_S), False
        return self._known <= MOST and self._stays_few(part)

    def _stays_few(self, newest: Iterable[Entry]) -> bool:
        return sum(entry.id >= self.since for entry in newest) <= self._few // 2

    async def _dated(self, ids: dict[str, ObjectId]) -> tuple[list[Entry], int | None]:
        """Return what is pending among these ids, and the second that it is of; None where that is before what was read
        already: another member of the replica set has answered, which is behind.
        """
        find = Find("statuses", {"pending": self._pending, "_id": ids}, ("_id", "user_id"), STEP, NEWEST_FIRST)
        found, as_of = await dated(self._db, find)
        if as_of and self._as_of and as_of < self._as_of:
            return [], None
        self._as_of = as_of
        return [Entry(row["_id"], row["user_id"]) for row in found], self._clock.of_cluster(as_of)

    def _add(self, entries: Iterable[Entry]) -> None:
        for id, author in entries:
            assert author, "a status has one"
            ids = self._by_author.setdefault(author.binary, set())
            self._known += id.binary not in ids
            ids.add(id.binary)
        self._waiting.clear()

    def beside(
        self, found: Sequence[Entry], reader: ObjectId, followees: Sequence[ObjectId], before: ObjectId, n: int
    ) -> Undelivered:
        """Return the newest `n` of what the reader waits for below `before`. `found`: what a look has found that came
        since. The same object as before where nothing of the reader's is new.
        """
        self._is_behind |= len(found) > self._few // 2
        waiting = self._waiting_for(reader, followees, before, n)
        if found:
            own = {author.binary for author in (reader, *followees)}
            if new := [entry for entry in found if entry.author and entry.author.binary in own]:
                return Undelivered([*new, *waiting.entries], waiting.down_to)
        return waiting

    def _waiting_for(self, reader: ObjectId, followees: Sequence[ObjectId], before: ObjectId, n: int) -> Undelivered:
        known = self._waiting.get(reader.binary)
        if known and known.followees is followees and known.n == n and before == LAST_ID:
            return known.waiting
        ids = {
            id: author
            for author in (reader, *followees)
            for id in self._by_author.get(author.binary, ())
            if id < before.binary
        }
        entries = [Entry(ObjectId(id), ids[id]) for id in sorted(ids, reverse=True)[:n]]
        waiting = Undelivered(entries, entries[-1].id if len(ids) > n else FIRST_ID)
        if before == LAST_ID and len(entries) < WAITED_FOR:
            self._waiting[reader.binary] = _Waiting(followees, n, waiting)
        return waiting


def _second(id: ObjectId) -> int:
    return int.from_bytes(id.binary[:4], "big")
