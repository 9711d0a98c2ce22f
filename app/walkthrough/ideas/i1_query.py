"""Ask the database on every read."""

from typing import Any

from bson import ObjectId

from app.stack.mongodb.connection import Database


async def home_timeline(db: Database, reader: ObjectId, n: int = 20) -> list[Any]:
    following = db["follows"].find({"follower": reader})
    following_ids = [edge["followee"] async for edge in following]
    query = {"user_id": {"$in": following_ids}}
    return await db["statuses"].find(query).sort("_id", -1).limit(n).to_list(n)
