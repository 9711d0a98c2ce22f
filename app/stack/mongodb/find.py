"""Look-ups: several of them in one command, answered as of one moment."""

import asyncio
from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Any

from bson import Timestamp
from pymongo.errors import AutoReconnect, OperationFailure

from app.stack.cost import asked_of_mongodb, sent_to_mongodb
from app.stack.mongodb.connection import Database, Direct, direct
from app.stack.mongodb.joined import ask
from app.stack.mongodb.lookup import NEWEST_FIRST, Find, Order, Rows
from app.stack.mongodb.shared import answered
from app.stack.mongodb.stand_in import StandInDatabase

SNAPSHOT_UNAVAILABLE, SNAPSHOT_TOO_OLD, MIGRATION_CONFLICT = 246, 239, 194  # MongoDB's error codes
ANOTHER_SNAPSHOT = frozenset({SNAPSHOT_UNAVAILABLE, SNAPSHOT_TOO_OLD, MIGRATION_CONFLICT})  # would do
# A shard or the new primary may answer soon. Source: MongoDB specification, Retryable Reads.
SERVER_SOON = frozenset({6, 7, 89, 134, 262, 9001})
PAUSES_S = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)  # between tries; a majority is behind by more only in an outage
SOON_S = 0.2  # the longest for a server that may answer soon: meanwhile a look-up holds a place that others wait for


class NoSnapshot(Exception):
    """There was no snapshot to read for so long that it is as if a server were away."""


async def rows(database: Database, find: Find) -> Rows:
    """Return the answer to one look-up, which is a plain `find`."""
    return (await together(database, rows=find))["rows"]


async def dated(database: Database, find: Find) -> tuple[Rows, Timestamp | None]:
    """Return the answer to one look-up, and the moment of the cluster's time that it is of; None of a stand-in, which
    tells no time.
    """
    if isinstance(database, StandInDatabase):
        return (await database.one_after_another({"rows": find}))["rows"], None
    asked_of_mongodb()
    connected = direct(database)
    cursor = await connected.to_its_end(_on_a_snapshot(connected, find.command()))
    return cursor["firstBatch"], cursor["atClusterTime"]


async def together(database: Database, **finds: Find) -> dict[str, Rows]:
    """Return the answers by name, all as of one moment.

    It is one command on one snapshot, or a plain `find` where there is one look-up. The snapshot is of what a majority
    has: whatever was acknowledged before is in it. Source: MongoDB manual, Read Concern "snapshot"; $unionWith.
    """
    if isinstance(database, StandInDatabase):
        return await database.one_after_another(finds)
    asked_of_mongodb()
    return await ask(partial(_at_once, database), finds)


async def _at_once(database: Database, finds: Mapping[str, Find]) -> dict[str, Rows]:
    connected = direct(database)
    if all(find.may_be_shared for find in finds.values()):
        return await connected.shared.ask(lambda some: connected.uncancelled(lambda: _answers(connected, some)), finds)
    [answers] = await connected.to_its_end(answered(partial(_answers, connected), [finds]))
    return answers


async def _answers(connected: Direct, finds: Mapping[str, Find]) -> dict[str, Rows]:
    (name, first), *others = finds.items()
    if not others:
        found = await _on_a_snapshot(connected, first.command())
        return {name: first.unknown(found["firstBatch"])}
    # Rows without the name of a look-up are of the first, which MongoDB need not add to them.
    pipeline = first.stages() + [
        {"$unionWith": {"coll": find.collection, "pipeline": find.stages(other)}} for other, find in others
    ]
    batch = sum(find.limit for find in finds.values()) + 1
    command = {"aggregate": first.collection, "pipeline": pipeline, "cursor": {"batchSize": batch}}
    answers: dict[str, Rows] = {name: [] for name in finds}
    for row in (await _on_a_snapshot(connected, command))["firstBatch"]:
        answers[row.pop("part", name)].append(row)
    return answers


async def _on_a_snapshot(connected: Direct, command: Mapping[str, Any]) -> dict[str, Any]:
    """Read, and try again on a newer snapshot while MongoDB asks for that. Raises NoSnapshot.

    A collection that has just been created is in no snapshot yet, and a chunk may have moved since. Where nothing was
    written for longer than MongoDB keeps history, the newest snapshot is as old as that, and the next write drops it.

    Where a connection breaks, the primary changes or a router misses a shard, try again while there is time. A server
    that answers so does it at once: without pauses that were thousands of commands.
    """
    pauses_s = iter(PAUSES_S)
    refused: Exception | None = None
    with connected.in_time() as until_s:
        while True:
            sent_to_mongodb()
            try:
                return await connected.read(command)
            except (AutoReconnect, OperationFailure) as error:
                code, pause_s = getattr(error, "code", None), next(pauses_s, None)
                soon = isinstance(error, AutoReconnect) or code in SERVER_SOON
                if error.timeout and refused:
                    raise refused from error  # it says more than that the time is over
                if error.timeout or not (soon or code in ANOTHER_SNAPSHOT):
                    raise
                if soon:
                    pause_s = min(pause_s or SOON_S, SOON_S)
                refused = error if soon else NoSnapshot(f"MongoDB has no snapshot to read: its error {code}")
                if pause_s is None or monotonic() + pause_s > until_s:
                    raise refused from None if soon else error
            await asyncio.sleep(pause_s)


__all__ = ["NEWEST_FIRST", "Find", "NoSnapshot", "Order", "Rows", "dated", "rows", "together"]
