"""Small worlds for one measurement each: an author with many followers, a reader of many authors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

from bson import ObjectId

from app.clock import FIRST_ID, id_at
from app.models import StatusRow
from benchmarks.limits import RawMemcached
from benchmarks.rig import Rig
from phases.activity import as_if_here
from phases.lists import LIST, Value, key
from phases.switch import Container, StoreName

BATCH = 10_000
KEEPING = ("push", "queue", "cache")
AGO_S = 3_600  # how old the newest status of a scene is


async def everything_delivers(rig: Rig) -> None:
    """All phases keep timelines from now on."""
    await rig.timelines.switch(read="query", delivering=KEEPING)
    await rig.readable(("entries", "lists"))


async def container(rig: Rig, store: StoreName) -> Container:
    found = (await rig.timelines.settings.fresh()).current(store)
    assert found, "switched on before"
    return found


async def put(rig: Rig, collection: str, documents: Iterable[dict[str, Any]]) -> None:
    rest = iter(documents)
    while batch := list(islice(rest, BATCH)):
        await rig.stack.db[collection].insert_many(batch, ordered=False)


async def people(rig: Rig, name: str, count: int) -> list[ObjectId]:
    now, ids = rig.stack.clock.now(), [ObjectId() for _ in range(count)]
    await put(
        rig,
        "users",
        (
            {
                "_id": id,
                "handle": f"{name[:5]}_{id}",
                "name": name,
                "admin": False,
                "created_at": now,
            }
            for id in ids
        ),
    )
    return ids


async def person(rig: Rig, name: str) -> ObjectId:
    return (await people(rig, name, 1))[0]


@dataclass(frozen=True)
class Star:
    """An author and their followers, of whom the first ones are active."""

    author: ObjectId
    followers: list[ObjectId]
    active: list[ObjectId]


async def star(rig: Rig, followers: int, active: int, readers: Sequence[ObjectId] | None = None) -> Star:
    """`readers`: whom to take the followers from. Active ones are marked; lists are made by `keep_lists`."""
    author = await person(rig, "author")
    found = list(readers[:followers]) if readers else [ObjectId() for _ in range(followers)]
    await put(rig, "follows", (_edge(reader, author) for reader in found))
    await as_if_here(rig.stack, found[:active], author)
    return Star(author, found, found[:active])


def _edge(follower: ObjectId, followee: ObjectId) -> dict[str, Any]:
    return {"_id": ObjectId(), "follower": follower, "followee": followee}


async def keep_lists(rig: Rig, memcached: RawMemcached, readers: Sequence[ObjectId], ids: int = 5) -> str:
    """Put a list of a few ids where phase 4 looks for it, and beside it one for the raw loop; the raw ones' prefix."""
    lists = await container(rig, "lists")
    expires_at_ms = int((rig.stack.clock.now().timestamp() + rig.stack.config.timeline_ttl_s) * 1000)
    value = Value(LIST, [ObjectId().binary for _ in range(ids)], FIRST_ID.binary, expires_at_ms=expires_at_ms).packed()
    await memcached.set_all([key(lists, reader) for reader in readers], value)
    prefix = "raw:" + key(lists, FIRST_ID).removesuffix(str(FIRST_ID))[4:]  # keys of the same length
    await memcached.set_all([f"{prefix}{reader}" for reader in readers], value)
    return prefix


async def forget_lists(rig: Rig, memcached: RawMemcached, readers: Sequence[ObjectId], prefix: str) -> None:
    lists = await container(rig, "lists")
    await memcached.delete_all([key(lists, reader) for reader in readers])
    await memcached.delete_all([f"{prefix}{reader}" for reader in readers])


async def authors(rig: Rig, count: int, each: int) -> list[ObjectId]:
    """Authors with `each` statuses over the last month, as many as other people's traffic needs."""
    found = await people(rig, "author", count)
    now = rig.stack.clock.now()

    def statuses() -> Iterable[dict[str, Any]]:
        total = count * each
        for number in range(total):
            moment = now - timedelta(seconds=AGO_S + (total - number) * 30 * 86_400 / total)
            yield {
                "_id": id_at(moment),
                "user_id": found[(number * 7919) % count],
                "text": "a status of ordinary length, as people write them on an ordinary day",
                "audience": "followers",
                "deleted": False,
            }

    await put(rig, "statuses", statuses())
    return found


async def follower_of(rig: Rig, followees: Sequence[ObjectId]) -> ObjectId:
    reader = await person(rig, "reader")
    await put(rig, "follows", (_edge(reader, followee) for followee in followees))
    return reader


async def stored_status(rig: Rig, author: ObjectId) -> StatusRow:
    """A status that is stored and that nobody owes."""
    id = rig.stack.clock.new_id()
    await put(
        rig,
        "statuses",
        [{"_id": id, "user_id": author, "text": "a status", "audience": "followers", "deleted": False}],
    )
    return StatusRow(id, author, "a status", "followers")
