"""Active readers: those who have been here lately, and the authors whose statuses they get. A list never outlives its
reader's activity.

There is one document per active reader. Invariant: a live list expires no later than `until` of its reader's document,
and that names everybody whom the reader follows, but for edges whose backfill is owed. So the document is written
before a list is filled or renewed, and each backfill begins by adding its author. An author too many, unfollowed at the
wrong moment, costs a place in the list and nothing else: the read decides.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from bson import ObjectId

from app.config import Config
from app.models import ActiveReader
from app.stack import Database, Stack
from app.stack.mongodb.transaction import Transaction
from app.stack.mongodb.write import grown
from phases.keeping.recipients import Admitted, Recipients

ACTIVE = ActiveReader.Settings.name
SWEPT_AT_ONCE = 100  # since each may be a key of the index for each of 10,000 authors
SWEPT = 10  # times that many in one sweep


def active_until(config: Config, now: datetime) -> datetime:
    """Return until when a reader who has just been here is active: at least half the slack longer than a list lives. It
    is rounded to steps of the other half, so that marking somebody again soon changes nothing.
    """
    step_s = config.activity_slack_s // 2
    until_s = int(now.timestamp()) + config.timeline_ttl_s + config.activity_slack_s
    return datetime.fromtimestamp(until_s // step_s * step_s, UTC)


class ActiveReaders(Recipients):
    """The recipients that are noted as active readers. Phase 4 says to which of them a status goes."""

    active_only = True
    noted_in = ACTIVE

    async def admit(self, reader: ObjectId, followees: Sequence[ObjectId]) -> Admitted:
        until = active_until(self.config, self.clock.now())
        whose = (self.db, ACTIVE, reader)
        noted = await grown(*whose, "authors", followees, "until", until)
        return Admitted(noted["until"], noted["authors"])

    async def widen(self, reader: ObjectId, author: ObjectId) -> None:
        """Note the author, whether the reader is active or not: a process that has looked up their followees too early
        may be about to mark them active. Nobody asks whether they still follow: the answer may be older than the edge,
        from a shard or a primary that has not heard of it.
        """
        await self.admit(reader, [author])

    async def narrow(self, inside: Transaction, reader: ObjectId, author: ObjectId) -> None:
        """Remove the author from the note on the reader. Should the edge come back, `widen` comes after this."""
        await inside[ACTIVE].update_one({"_id": reader}, {"$pull": {"authors": author}}, upsert=False)

    async def here(self, reader_ids: Sequence[ObjectId]) -> set[ObjectId]:
        here = {"_id": {"$in": list(reader_ids)}, "until": {"$gte": self.clock.now()}}
        return {row["_id"] for row in await self.db[ACTIVE].find(here, {"_id": 1}).to_list(None)}

    async def sweep(self) -> None:
        """Forget the next readers whose activity has ended. Until then fan-outs pass them by in the index."""
        over = {"until": {"$lt": self.clock.now()}}
        for _ in range(SWEPT):
            gone = await self.db[ACTIVE].find(over, {"_id": 1}).limit(SWEPT_AT_ONCE).to_list(None)
            if gone:
                await self.db[ACTIVE].delete_many({"_id": {"$in": [row["_id"] for row in gone]}, **over})
            if len(gone) < SWEPT_AT_ONCE:
                return


async def last_activity(database: Database) -> datetime | None:
    """Return when the last activity ends, and with it the last list that lives now; None where nobody is active."""
    found = await database[ACTIVE].find({}, {"until": 1}).sort("until", -1).limit(1).to_list(None)
    return found[0]["until"] if found else None


async def active_count(stack: Stack) -> int:
    """Count the readers whom deliveries reach now."""
    return await stack.db[ACTIVE].count_documents({"until": {"$gte": stack.clock.now()}})
