"""Markers (rule 9): the authors of whom some status may say `pulled`, and those who are heavy enough to be weighed.

A poster marks the author, by a majority, before the insert says `pulled`. A read must know the markers as they are on
its snapshot: a process remembers them at a version, which every new marker raises and which each page looks at. A
marker too many costs an index seek and nothing else, so one that goes raises nothing.

A marker goes when every list that lives holds what was pulled under it. A list expires no later than its reader's
activity, and takes in what is pulled whenever that begins anew. So when no status may be stored under a marker any
more, a sweep notes when the last activity ends that somebody has: with that the last list ends that may lack any of
them. The note is about this end of the marker: if that is used again, by whatever program, the note counts no more. No
setting is asked: lists that live may have been kept by processes with another TTL.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from bson import ObjectId
from cachetools import LRUCache

from app.edges import MARKERS, OwnEdges, change_edges, version_in, version_of
from app.stack import Stack
from app.stack.cost import uncounted
from app.stack.mongodb.find import Find, together
from app.stack.mongodb.transaction import Transaction
from app.stack.waiting import take_error
from phases.keeping.activity import last_activity
from phases.pulling.heavy import HEAVY, heavy_until

MOST = 50_000  # heavy authors; were there more, everybody would count as one
SHARED = 3  # shared readings that may turn out to be of another epoch, before the caller reads alone
KNOWN_S = 60.0  # how long a process may overlook who has become heavy, or is pulled no more
SWEPT_AT_ONCE = 100
MARKED_REMEMBERED = 100_000
FEW_MARKED = 1_000  # with so many marked authors, nobody else is pulled only because pages are seldom asked for
IDS_REMEMBERED = 500_000  # pulled followees, of all readers together


@dataclass(frozen=True)
class Known:
    """The heavy and the marked authors, as a process remembers them at a version. None: so many that everybody counts
    as one.
    """

    epoch: ObjectId
    version: int
    heavy: frozenset[ObjectId] | None
    pulled: frozenset[ObjectId] | None
    read_at_s: float

    def is_heavy(self, author: ObjectId) -> bool:
        return self.heavy is None or author in self.heavy


class _Among(NamedTuple):
    """The pulled ones among a reader's followees. `of`: what tells these edges and markers from others."""

    of: tuple[object, ...]
    pulled: list[ObjectId]


class Markers:
    """The markers and the heavy authors, as one process knows them, and how it marks."""

    def __init__(self, stack: Stack) -> None:
        self._db, self._clock = stack.db, stack.clock
        # A marker allows statuses to say `pulled` for so long. When half of that is over, the next of them renews it.
        self._marked_s = stack.config.activity_slack_s
        self._grace_s = stack.config.grace_s
        self._known: Known | None = None  # remembered
        self._reading: asyncio.Task[Known] | None = None
        self._marking = asyncio.Lock()
        self._new = 0  # authors marked here since a reading of all markers began
        self._marked: LRUCache[tuple[ObjectId, ObjectId], datetime] = LRUCache(MARKED_REMEMBERED)
        self._among: LRUCache[ObjectId, _Among] = LRUCache(
            IDS_REMEMBERED, getsizeof=lambda among: 1 + len(among.pulled)
        )

    async def known(self, epoch: ObjectId) -> Known:
        """Return the markers as they were lately; a caller that relies on it compares the version with that on a
        snapshot.

        Each epoch of the phase settings begins anew: its database may be of another history, which counts its versions
        again.
        """
        for _ in range(SHARED):
            known = self._known
            if known is None or known.epoch != epoch or self._clock.monotonic() - known.read_at_s > KNOWN_S:
                if self._reading is None or self._reading.done():
                    self._reading = asyncio.create_task(self._looked_up(epoch))
                    self._reading.add_done_callback(take_error)
                reading = self._reading
                known = await asyncio.shield(reading)
                if reading is self._reading:
                    self._known = known
            if known.epoch == epoch:
                return known
        return await self._looked_up(epoch)

    async def _looked_up(self, epoch: ObjectId) -> Known:
        read_at_s, self._new = self._clock.monotonic(), 0
        everybody = Find(HEAVY, {}, ("_id", "heavy_until", "pulled_until"), MOST)
        with uncounted():
            answers = await together(self._db, version=version_of(MARKERS), heavy=everybody)
        rows, now = answers["heavy"], self._clock.now()
        heavy = frozenset(row["_id"] for row in rows if row["heavy_until"] > now)
        pulled = frozenset(row["_id"] for row in rows if "pulled_until" in row)
        enough = len(rows) < MOST
        return Known(
            epoch=epoch,
            version=version_in(answers["version"]),
            heavy=heavy if enough else None,
            pulled=pulled if enough else None,
            read_at_s=read_at_s,
        )

    def forget(self, unless_at: int | None = None) -> None:
        """Forget the markers, as somebody has been marked since. `unless_at`: the version that was seen: others may
        have read it.
        """
        if self._known and self._known.version != unless_at:
            self._known = None

    def among(self, edges: OwnEdges, known: Known) -> list[ObjectId]:
        """Return of whom something may be pulled, among those whom the reader follows and does not mute, and
        themselves.
        """
        of = edges.version, edges.unmuted is None, known.epoch, known.version, known.pulled is None
        found = self._among.get(edges.reader)
        if found and found.of == of:
            return found.pulled
        authors = [edges.reader, *(edges.unmuted or ())]
        pulled = authors if known.pulled is None else [id for id in authors if id in known.pulled]
        self._among[edges.reader] = _Among(of, pulled)
        return pulled

    # Whoever stores a status

    def has_marker_or_room(self, author: ObjectId, known: Known) -> bool:
        """Return whether the author has a marker, or may get one now. They may while fewer than FEW_MARKED authors are
        marked and this process is making no other marker: every process reads all markers again after each new one.
        """
        if known.pulled is None:
            return False
        if author in known.pulled or self._is_marked(author, known.epoch):
            return True
        return len(known.pulled) + self._new < FEW_MARKED and not self._marking.locked()

    async def mark(self, author: ObjectId, epoch: ObjectId) -> None:
        """Have a majority know the author's marker, from now on and for a while.
        Authors are marked one after another: each new marker changes the same document.
        Raises Contended where other processes change it.
        """
        if not self._is_marked(author, epoch):
            async with self._marking:
                if not self._is_marked(author, epoch):
                    self._marked[epoch, author] = await self._mark(author)

    def _is_marked(self, author: ObjectId, epoch: ObjectId) -> bool:
        marked = self._marked.get((epoch, author))
        return bool(marked and self._clock.now() < marked - timedelta(seconds=self._marked_s / 2))

    async def _mark(self, author: ObjectId) -> datetime:
        now = self._clock.now()
        until = now + timedelta(seconds=self._marked_s)
        longer = {"$max": {"pulled_until": until, "heavy_until": now}}
        there = await self._db[HEAVY].update_one({"_id": author, "pulled_until": {"$exists": True}}, longer)
        if there.matched_count:  # nothing is delivered that would show again that they are heavy, if they are
            still = {"_id": author, "heavy_until": {"$gt": now}}
            await self._db[HEAVY].update_one(still, {"$max": {"heavy_until": heavy_until(now)}})
        else:

            async def new(inside: Transaction) -> None:
                await inside[HEAVY].update_one({"_id": author}, longer, upsert=True)

            await change_edges(self._db, {MARKERS}, new)
            self._new += 1
        return until

    async def newest(self, n: int) -> dict[ObjectId, datetime | None]:
        """Return some of the heavy and the marked authors, those first who were noted last to be heavy; each with the
        end of their marker, None without one.
        """
        found = self._db[HEAVY].find({}, {"pulled_until": 1}).sort("heavy_until", -1).limit(n)
        return {row["_id"]: row.get("pulled_until") for row in await found.to_list(None)}

    # Housekeeping

    async def sweep(self) -> None:
        """Remove a bounded number of markers and heavy authors whose time is over."""
        await self._note_ends()
        over = {"needed_until": {"$lte": self._clock.now()}}
        note = {"needed_until": "", "ended_at": ""}
        for row in await self._some(over, "ended_at"):
            noted = {"_id": row["_id"], **over, "ended_at": row.get("ended_at")}
            gone = {"$unset": {**note, "pulled_until": ""}}
            removed = await self._db[HEAVY].update_one({**noted, "pulled_until": row.get("ended_at")}, gone)
            if not removed.matched_count:  # it has been used again: its next end is noted anew
                await self._db[HEAVY].update_one(noted, {"$unset": note})
        light = {"heavy_until": {"$lt": self._clock.now()}, "pulled_until": {"$exists": False}}
        for row in await self._some(light):
            await self._db[HEAVY].delete_one({"_id": row["_id"], **light})

    async def _note_ends(self) -> None:
        """Note until when markers are needed under which nobody stores a status any more. The last activity is looked
        up after that was seen: a list that is kept later has taken in what was pulled under them.
        """
        now = self._clock.now()
        if ended := await self._some({"needed_until": None, "pulled_until": {"$lt": now}}, "pulled_until"):
            last = await last_activity(self._db)
            needed = now if last is None else last + timedelta(seconds=self._grace_s)  # by whoever's clock
            for row in ended:
                note = {"needed_until": needed, "ended_at": row["pulled_until"]}
                await self._db[HEAVY].update_one(row, {"$set": note})

    async def _some(self, query: Mapping[str, object], *fields: str) -> list[dict[str, Any]]:
        shown = dict.fromkeys(("_id", *fields), 1)
        found: list[dict[str, Any]] = await self._db[HEAVY].find(query, shown).limit(SWEPT_AT_ONCE).to_list(None)
        return found
