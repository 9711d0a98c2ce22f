"""Relations: who follows, blocks or mutes whom, and who is in whose circle. Each change raises, in its transaction, the
version of the edges of whoever sees more or less by it.
"""

from typing import Any

from bson import ObjectId

from app.edges import change_edges
from app.errors import Forbidden, Invalid, NoAccount
from app.models import Conversation, Event, pair_key
from app.stack import Hint, Stack
from app.stack.mongodb.transaction import Transaction
from phases.delivering.outbox import Outbox


class Relations:
    """The use cases, one object per process. Ids are users'."""

    def __init__(self, stack: Stack, outbox: Outbox) -> None:
        self._stack, self._outbox = stack, outbox
        self._db, self._clock, self._config = stack.db, stack.clock, stack.config

    async def follow(self, reader: ObjectId, followee: ObjectId) -> None:
        """Follow somebody. Raises Invalid for oneself, Forbidden across a block or past the limit. Repeating it changes
        nothing.
        """
        _not_oneself(reader, followee, "follow yourself")
        pair = {"follower": reader, "followee": followee}
        limit, event = self._config.following_limit, self._outbox.event("follow", reader, followee)

        async def unless_refused(edges: Transaction) -> dict[str, Any]:
            await _is_there(edges, followee)
            if await edges["blocks"].find_one(_either_way("blocker", "blocked", reader, followee), {"_id": 1}):
                raise Forbidden("One of you blocks the other.")
            if await edges["follows"].count({"follower": reader}, limit) < limit:
                return await self._owing_row(edges, "follows", pair, event)
            if row := await edges["follows"].find_one(pair, dict.fromkeys((*pair, "debt"), 1)):
                return row
            raise Forbidden(f"Nobody can follow more than {limit:,} people.")

        row = await change_edges(self._db, {reader}, unless_refused)
        self._edges_changed(reader, followee)
        await self._widened("follows", row, event)

    async def unfollow(self, reader: ObjectId, followee: ObjectId) -> None:
        _not_oneself(reader, followee, "unfollow yourself")

        async def end_follow(edges: Transaction) -> None:
            await edges["follows"].delete_one({"follower": reader, "followee": followee})
            await self._outbox.backfills.narrowed(edges, reader, followee)

        await change_edges(self._db, {reader}, end_follow)
        self._edges_changed(reader, followee)

    async def block(self, blocker: ObjectId, blocked: ObjectId) -> None:
        """Block somebody, and end the follows of both."""
        _not_oneself(blocker, blocked, "block yourself")
        pair = {"blocker": blocker, "blocked": blocked}

        async def end_follows(edges: Transaction) -> None:
            await _is_there(edges, blocked)
            await edges["blocks"].find_or_insert(pair, {"_id": self._clock.new_id()})
            await edges["follows"].delete_many(_either_way("follower", "followee", blocker, blocked))
            await self._outbox.backfills.narrowed(edges, blocker, blocked)
            await self._outbox.backfills.narrowed(edges, blocked, blocker)
            await _in_conversation(edges, pair, "$addToSet")

        await change_edges(self._db, {blocker, blocked}, end_follows)
        self._edges_changed(blocker, blocked)

    async def unblock(self, blocker: ObjectId, blocked: ObjectId) -> None:
        """End a block. Nothing is shown again by that: whoever wants to follow does so anew."""
        _not_oneself(blocker, blocked, "unblock yourself")
        pair = {"blocker": blocker, "blocked": blocked}

        async def end_block(edges: Transaction) -> None:
            await edges["blocks"].delete_one(pair)
            await _in_conversation(edges, pair, "$pull")

        await change_edges(self._db, {blocker, blocked}, end_block)
        self._edges_changed(blocker, blocked)

    async def mute(self, reader: ObjectId, muted: ObjectId) -> None:
        """Mute somebody. Their statuses stay where they are kept and are not shown: what is unmuted
        needs no backfill.
        """
        _not_oneself(reader, muted, "mute yourself")
        pair, new = {"muter": reader, "muted": muted}, {"_id": self._clock.new_id()}

        async def silence(edges: Transaction) -> None:
            await _is_there(edges, muted)
            await edges["mutes"].find_or_insert(pair, new)

        await change_edges(self._db, {reader}, silence)
        self._edges_changed(reader, muted)

    async def unmute(self, reader: ObjectId, muted: ObjectId) -> None:
        _not_oneself(reader, muted, "unmute yourself")
        await self._remove("mutes", {"muter": reader, "muted": muted}, reader)
        self._edges_changed(reader, muted)

    async def add_to_circle(self, owner: ObjectId, member: ObjectId) -> None:
        _not_oneself(owner, member, "add yourself to your circle")
        pair, event = {"owner": owner, "member": member}, self._outbox.event("circle", owner, member)

        async def admit(edges: Transaction) -> dict[str, Any]:
            await _is_there(edges, owner)
            return await self._owing_row(edges, "circles", pair, event)

        row = await change_edges(self._db, {member}, admit)
        self._edges_changed(member, owner)
        await self._widened("circles", row, event)

    async def remove_from_circle(self, owner: ObjectId, member: ObjectId) -> None:
        _not_oneself(owner, member, "remove yourself from your circle")
        await self._remove("circles", {"owner": owner, "member": member}, member)
        self._edges_changed(member, owner)

    async def _remove(self, collection: str, pair: dict[str, ObjectId], *readers: ObjectId) -> None:
        await change_edges(self._db, set(readers), lambda edges: edges[collection].delete_one(pair))

    def _edges_changed(self, reader: ObjectId, other: ObjectId) -> None:
        self._stack.bus.tell(Hint("edges", reader, other=other))

    async def _owing_row(
        self, edges: Transaction, collection: str, pair: dict[str, ObjectId], event: Event
    ) -> dict[str, Any]:
        """Return the row of a pair that widens what somebody may see: a new one owes its backfill from the start (rule
        4), and has the id of the event that it is.
        """
        row = await edges[collection].find_or_insert(pair, {"_id": event.id, "debt": True})
        if row["_id"] == event.id:
            await self._outbox.note(edges, event)
        return row

    async def _widened(self, collection: str, row: dict[str, Any], event: Event) -> None:
        await self._outbox.backfills.widened(collection, row)
        if row["_id"] == event.id:
            await self._outbox.happened(event)


async def _is_there(inside: Transaction, person: ObjectId) -> None:
    """Raise NoAccount where the person has deleted their account since they were looked up."""
    if await inside["users"].find_one({"_id": person, "deleted": True}, {"_id": 1}):
        raise NoAccount(person)


async def _in_conversation(edges: Transaction, block: dict[str, ObjectId], change: str) -> None:
    """Note a block in the conversation of the two, if they have one: whoever writes at the same moment looks again."""
    query = {"pair": pair_key(*block.values())}
    changes = {change: {"blocked_by": block["blocker"]}, "$inc": {"version": 1}}
    await edges[Conversation.Settings.name].update_one(query, changes, upsert=False)


def _either_way(from_field: str, to_field: str, one: ObjectId, other: ObjectId) -> dict[str, Any]:
    return {"$or": [{from_field: one, to_field: other}, {from_field: other, to_field: one}]}


def _not_oneself(one: ObjectId, other: ObjectId, deed: str) -> None:
    if one == other:
        raise Invalid("handle", f"You cannot {deed}.")
