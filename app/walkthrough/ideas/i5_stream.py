"""Nobody enqueues: the database tells of each insert. Sorted sets keep the order."""

from collections.abc import AsyncIterator
from typing import Any

from bson import ObjectId

from app.stack.mongodb.connection import Database


async def follow(changes: AsyncIterator[Any], db: Database, redis: Any) -> None:
    async for change in changes:  # of db["statuses"].watch()
        status = change["fullDocument"]
        async for edge in db["follows"].find({"followee": status["user_id"]}):
            member = {status["_id"].binary: 0}
            await redis.zadd(f"home:{edge['follower']}", member)


async def home_timeline(db: Database, redis: Any, reader: ObjectId) -> list[Any]:
    newest = await redis.zrevrange(f"home:{reader}", 0, 19)
    query = {"_id": {"$in": [ObjectId(id) for id in newest]}}
    return await db["statuses"].find(query).sort("_id", -1).to_list(20)
