"""Put a job on a queue; a worker makes the walk."""

from asyncio import Queue
from typing import Any

from bson import ObjectId

from app.stack.mongodb.connection import Database
from app.walkthrough.ideas.i2_push import after_create as deliver_status


async def after_create(jobs: "Queue[ObjectId]", status: dict[str, Any]) -> None:
    await jobs.put(status["_id"])  # and the poster goes on


async def worker(db: Database, jobs: "Queue[ObjectId]") -> None:
    while True:
        status = await db["statuses"].find_one({"_id": await jobs.get()})
        if status:
            await deliver_status(db, status)
        jobs.task_done()
