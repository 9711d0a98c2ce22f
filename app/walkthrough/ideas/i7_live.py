"""A hint is published once. Every process reads what it means, and tells its own."""

from asyncio import Queue
from typing import Any

from bson import ObjectId

from app.stack.mongodb.connection import Database


async def publish(redis: Any, author: ObjectId, status: ObjectId) -> None:
    await redis.publish("posted", f"{author} {status}")  # once, whoever follows


async def tell(hints: Any, db: Database, here: dict[ObjectId, Queue[Any]]) -> None:
    async for hint in hints:  # that this process hears
        author, status = map(ObjectId, hint.split())
        row = await db["statuses"].find_one({"_id": status})
        theirs = {"followee": author, "follower": {"$in": list(here)}}
        async for edge in db["follows"].find(theirs):
            here[edge["follower"]].put_nowait(row)
