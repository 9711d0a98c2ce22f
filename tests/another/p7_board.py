"""One more phase, for the tests: another store and other recipients. This file and one name in PHASES are all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from app.access import Entry
from app.clock import LAST_ID, id_at
from app.models import HOME, StatusRow
from app.stack.mongodb.connection import Collection
from app.stack.mongodb.find import Find, Rows
from app.stack.sorted_sets import Over
from phases.base import Phase
from phases.claims import (
    CLEAR,
    ENTRIES_BY_JOB,
    INSERT_AND_JOB,
    ONE,
    STATUSES_UNSEEN,
    Commands,
    a_delivery,
    a_page,
    a_post,
)
from phases.home.candidates import Slice
from phases.keeping.store import AuthorIds, Container, Place, Returning, Store
from phases.p2_push import Followers
from phases.p3_queue import WORKER

DROP_AFTER_S = 60  # a switch takes less from the beginning of a container on
PREFIX = f"{HOME}boards_"


class Everybody(Followers):
    """All followers, of a circle's status too: whoever is not in the circle is sorted out by the read."""

    name = "everybody"

    async def next(self, status: StatusRow, after: ObjectId, n: int) -> list[ObjectId]:
        return await self.of(status.user_id, after, n)


class Boards(Store):
    """One document per reader: ids in any order, and the floor. A reader whose document has no floor is cold."""

    name = "boards"
    in_memory = False
    bytes_per_entry = 16  # the id, its type, its place in the array
    bytes_per_reader = 60  # reader, floor, lease

    def _boards(self, container: Container) -> Collection:
        return self.db[PREFIX + container.name]

    async def begin(self, container: Container) -> None:
        await self.db.create_collection(PREFIX + container.name)

    async def deliver(self, container: Container, status: StatusRow, to: Sequence[ObjectId]) -> None:
        """Whoever has no document gets nothing: they are cold, and their rebuild asks."""
        await self._boards(container).update_many({"_id": {"$in": list(to)}}, {"$addToSet": {"ids": status.id}})

    def finds(self, place: Place) -> dict[str, Find]:
        return {"board": Find(PREFIX + place.container.name, {"_id": place.reader}, ("ids", "floor"), 1)}

    async def read(self, place: Place, answers: Mapping[str, Rows]) -> Slice | None:
        board = next(iter(answers["board"]), {})
        if "floor" not in board:
            return None
        entries = [Entry(id) for id in sorted(board["ids"], reverse=True) if board["floor"] <= id < place.before]
        return Slice(entries[: place.n], board["floor"], whole=len(entries) < place.n and place.before == LAST_ID)

    async def rebuild(self, container: Container, returning: Returning) -> bool:
        """Lease -> query -> ids and floor, unless somebody merged, forgot or leased in between."""
        lease, boards = ObjectId(), self._boards(container)
        try:
            change = {"$set": {"lease": lease}, "$setOnInsert": {"ids": []}}
            await boards.update_one({"_id": returning.reader}, change, upsert=True)
        except DuplicateKeyError:
            return False  # two first leases at once: the other one's rebuild will do
        recent = await returning.recent()
        done = await boards.update_one(
            {"_id": returning.reader, "lease": lease},
            {
                "$addToSet": {"ids": {"$each": [ObjectId(row[:12]) for row in recent.rows]}},
                "$set": {"floor": recent.floor, "lease": ObjectId()},
            },
        )
        return bool(done.matched_count)

    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        boards = self._boards(container)
        board = await boards.find_one_and_update({"_id": reader}, {"$set": {"lease": ObjectId()}})
        if board is None or "floor" not in board:
            return
        entries = await author_ids(board["floor"])
        change: dict[str, Any] = {"$addToSet": {"ids": {"$each": [entry.id for entry in entries]}}}
        if len(entries) >= self.config.cap:
            change["$max"] = {"floor": entries[-1].id}
        await boards.update_one({"_id": reader, "floor": {"$exists": True}}, change)

    async def forget(self, container: Container, reader: ObjectId) -> None:
        await self._boards(container).delete_one({"_id": reader})

    async def holds(self, container: Container, reader: ObjectId, status: ObjectId) -> bool | None:
        board = await self._boards(container).find_one({"_id": reader}) or {}
        if status in board.get("ids", ()):
            return True
        return False if "floor" in board else None

    async def sweep(self, current: Container | None, over: Over) -> None:
        """Cut what is longer than the cap, unless something is delivered meanwhile; drop what has been retired."""
        if current:
            boards, cap = self._boards(current), self.config.cap
            async for board in boards.find({f"ids.{cap}": {"$exists": True}, "floor": {"$exists": True}}):
                ids = sorted(board["ids"], reverse=True)[:cap]
                same = {"_id": board["_id"], "ids": board["ids"], "floor": board["floor"]}
                await boards.update_one(same, {"$set": {"ids": ids}, "$max": {"floor": ids[-1]}})
        young = id_at(self.clock.now() - timedelta(seconds=DROP_AFTER_S))
        there = [n.removeprefix(PREFIX) for n in await self.db.list_collection_names() if n.startswith(PREFIX)]
        for since in await over([since for since in there if ObjectId(since) < young]):
            await self.db.drop_collection(PREFIX + since)


BOARD = Phase(
    slug="board",
    title="Keep one document per reader",
    poster_waits="one insert; the enqueue follows the answer",
    reader_waits="their document, then the statuses by id",
    kept_where="one document per reader in MongoDB",
    store=Boards,
    recipients=Everybody,
    carrier=WORKER,
    costs=(
        a_post(INSERT_AND_JOB),
        a_delivery(replace(ENTRIES_BY_JOB, words="per chunk the status, its next followers and one update"), CLEAR),
        a_page(Commands("the document together with what is owed", ONE), STATUSES_UNSEEN),
    ),
)
