"""Prepend to a list that is there, else skip; whoever returns gets one."""

from typing import Any

from bson import ObjectId

from app.stack.memcached import Memcached
from app.stack.mongodb.connection import Database
from app.walkthrough.ideas.i1_query import home_timeline as ask

THREE_DAYS_S = 3 * 24 * 3600


async def deliver_status(db: Database, cache: Memcached, status: Any) -> None:
    followers = db["follows"].find({"followee": status["user_id"]})
    keys = [f"home:{edge['follower']}" async for edge in followers]
    await cache.prepend(keys, status["_id"].binary)  # no list: nothing happens


async def home_timeline(db: Database, cache: Memcached, reader: ObjectId) -> list[Any]:
    kept = await cache.gets(f"home:{reader}")
    if kept is None:  # away for too long: one query, and a list again
        page = await ask(db, reader)
        ids = b"".join(status["_id"].binary for status in page)
        await cache.add(f"home:{reader}", ids, THREE_DAYS_S)
        return page
    ids = kept[0][: 12 * 20]
    newest = [ObjectId(ids[at : at + 12]) for at in range(0, len(ids), 12)]
    query = {"_id": {"$in": newest}}
    return await db["statuses"].find(query).sort("_id", -1).to_list(20)
