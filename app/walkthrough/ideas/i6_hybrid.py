"""Ask for those who write more often than their readers read; merge at the read."""

from typing import Any

from bson import ObjectId

from app.stack.mongodb.connection import Database
from phases.p6_hybrid import DELIVERY_US, PULLED_US


def is_pulled(posts_a_day: float, pages_a_day: float) -> bool:
    return posts_a_day * DELIVERY_US > pages_a_day * PULLED_US


async def merged(db: Database, kept: list[Any], following: list[ObjectId]) -> list[Any]:
    query = {"pulled": True, "user_id": {"$in": following}}
    pulled = await db["statuses"].find(query).sort("_id", -1).limit(20).to_list(20)
    both = sorted(kept + pulled, key=lambda status: status["_id"], reverse=True)
    return both[:20]
