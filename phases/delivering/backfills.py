"""Backfills (rule 4): what an edge owes that widens what its reader may see. The edge says so from the moment it is
written; until its backfill is made, a read asks.
"""

import logging
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from bson import ObjectId

from app.logs import Outages
from app.stack import Stack, outages_told
from app.stack.mongodb.find import Find, Rows
from app.stack.mongodb.transaction import Transaction
from phases.delivering.kept_timelines import KeptTimelines
from phases.delivering.overdue import Overdue
from phases.delivering.switch import Switch

log = logging.getLogger(__name__)

# The rows that widen what a reader may see: collection -> (field of the reader, field of the author).
WIDENING = {"follows": ("follower", "followee"), "circles": ("member", "owner")}


def owed_to(reader: ObjectId) -> dict[str, Find]:
    """Return the look-ups of rows that owe the reader a backfill."""
    return {
        f"backfill_{rows}": Find(rows, {"debt": True, field: reader}, ("debt",), 1)
        for rows, (field, _) in WIDENING.items()
    }


def is_any_owed(answers: Mapping[str, Rows]) -> bool:
    """Return whether the answers to `owed_to`, where they were asked for, name any row."""
    return any(answers.get(f"backfill_{rows}") for rows in WIDENING)


class Backfills:
    """The backfills that one process makes. `kept`: the timelines that edges change."""

    def __init__(self, stack: Stack, switch: Switch, kept: Collection[KeptTimelines]) -> None:
        self._db, self._switch, self._kept = stack.db, switch, kept
        noted = {each.recipients.noted_in: each.recipients for each in kept if each.recipients.noted_in}
        self._noting = tuple(noted.values())  # each for all that share its collection
        self._overdue, self._outages = Overdue(stack.db), Outages(log)

    async def widened(self, collection: str, row: Mapping[str, Any]) -> None:
        """Make the backfill that a stored row of WIDENING owes if it is new: now, or it is left to the sweeper."""
        if not row.get("debt"):
            return
        with outages_told(partial(self._outages.tell, True), "backfills are left to the sweeper"):
            await self.make(collection, row)
            self._outages.tell(False, "backfills are made at once again")

    async def narrowed(self, inside: Transaction, reader: ObjectId, author: ObjectId) -> None:
        """Note whom deliveries reach no longer as a follow ends, in its transaction."""
        for recipients in self._noting:
            await recipients.narrow(inside, reader, author)

    async def make(self, collection: str, row: Mapping[str, Any]) -> None:
        """Make the backfill that a row owes: first deliveries reach the reader, then timelines take in what the author
        wrote before. Note that it is made after that, unless a phase is delivered to that only another version of the
        program knows: its sweeper makes the backfill again.
        """
        reader, author = (row[field] for field in WIDENING[collection])
        for recipients in self._noting if collection == "follows" else ():
            await recipients.widen(reader, author)
        for kept in self._kept:
            await kept.backfill(reader, author)
        if self._switch.unknown(await self._switch.fresh()):
            return
        edge = {field: row[field] for field in ("_id", *WIDENING[collection])}  # with what it would be sharded by
        await self._db[collection].update_one(edge, {"$unset": {"debt": ""}})

    async def overdue(self, older_than: ObjectId, limit: int) -> list[tuple[str, dict[str, Any]]]:
        """Return the rows whose backfill is overdue, each with its collection, behind those of the last call: at most
        `limit` per collection.
        """
        return [
            (collection, row)
            for collection in WIDENING
            for row in await self._overdue.further("debt", collection, {"debt": True}, older_than, limit)
        ]

    async def sweep(self) -> None:
        for recipients in self._noting:
            await recipients.sweep()
