"""Deliver the id when somebody posts; a read looks into one list."""

from typing import Any

from bson import ObjectId

from app.stack.mongodb.connection import Database


async def after_create(db: Database, status: dict[str, Any]) -> None:
    push = {"$push": {"status_ids": {"$each": [status["_id"]], "$slice": -800}}}
    async for edge in db["follows"].find({"followee": status["user_id"]}):
        mine = {"_id": edge["follower"]}
        await db["home_timelines"].update_one(mine, push, upsert=True)


async def home_timeline(db: Database, reader: ObjectId, n: int = 20) -> list[Any]:
    mine = await db["home_timelines"].find_one({"_id": reader})
    query = {"_id": {"$in": mine["status_ids"][-n:] if mine else []}}
    return await db["statuses"].find(query).sort("_id", -1).to_list(n)
