"""The schema version of a database, and the steps that bring an older one to ours.

A step may be repeated, run by several processes at once and broken off anywhere: it recognizes what it has to change
by its old shape. What else a step has to promise is in docs/upgrading.md.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from pymongo import UpdateMany
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern

from app.clock import FIRST_ID
from app.errors import Refused
from app.models import COLLECTIONS, NOBODY, SETTINGS, change_tag, versions_tag
from app.stack.mongodb.connection import Collection, Database
from app.stack.mongodb.write import unless_there

log = logging.getLogger(__name__)

SCHEMA, PHASES = "schema", "phases"  # documents of the settings
OURS = {SETTINGS, *COLLECTIONS}

BATCH = 5_000  # documents that one command looks at, so that each ends long before the driver gives up on it

# From version 1 to 2
CONTAINER_FIELDS = {"store": "kept", "memcached": "nodes"}
KEPT = {"entries": "entries of followers", "lists": "lists of active followers"}
UNUSED_FIELDS = {"users": ("last_seen_at", "active_until"), "follows": ("active_until",)}
UNUSED_INDEX = ("follows", "followee_1_active_until_1_follower_1")

# From version 3 to 4
VERSIONS_OF_3 = "edge_versions"
STATUS_INDEXES_OF_3 = ("changed", "pending_by_author")


class SchemaTooNew(Refused):
    """The database has been migrated by a newer program."""

    def __init__(self, database: str, found: int) -> None:
        self.found = found
        super().__init__(
            f"the database {database!r} has schema version {found}, and this Feedlab knows versions up to {VERSION}: "
            "use the Feedlab that has migrated it or a newer one, or name another database in FEEDLAB_DATABASE"
        )


class BrokenOff(Refused):
    """The database holds part of a backup, whose restore did not come to its end."""

    def __init__(self, database: str, at: str) -> None:
        super().__init__(
            f"a restore into the database {database!r}, of the backup of {at}, was broken off: repeat it "
            "(`feedlab restore`), or name another database in FEEDLAB_DATABASE"
        )


BROKEN_OFF = 1_000_000  # a version that no program knows, older ones included


def broken_off(at: str) -> dict[str, Any]:
    """Return what stands in place of the version while a backup is being restored."""
    return {"version": BROKEN_OFF, "restoring": at}


def check(database: str, schema: Mapping[str, Any]) -> None:
    """Check that we may use a database with this schema. Raises BrokenOff, SchemaTooNew."""
    if at := schema.get("restoring"):
        raise BrokenOff(database, at)
    if schema["version"] > VERSION:
        raise SchemaTooNew(database, schema["version"])


async def version(database: Database) -> int | None:
    """Return the schema version that a majority has; None where none is written."""
    found = await said(database)
    return found["version"] if found else None


async def said(database: Database) -> dict[str, Any] | None:
    """Return all that the database says of its schema; None where it says nothing."""
    return await database.get_collection(SETTINGS, read_concern=ReadConcern("majority")).find_one({"_id": SCHEMA})


async def identity(database: Database) -> str:
    """Return a name for this database that is unique where several share a server: its own name and a random part."""
    return f"{database.name}-{await _own(database, 'identity', secrets.token_hex(4))}"


async def secret(database: Database) -> bytes:
    """Return the key by which the processes of this database seal what they give out. It stands in the database."""
    return bytes(await _own(database, "secret", secrets.token_bytes(32)))


async def _own(database: Database, field: str, value: Any) -> Any:
    """Return what the database has as its own in this field: the value, where it has had none."""
    await database[SETTINGS].update_one({"_id": SCHEMA, field: {"$exists": False}}, {"$set": {field: value}})
    schema = await database[SETTINGS].find_one({"_id": SCHEMA})
    assert schema, "`migrate` comes first"
    return schema[field]


async def migrate(database: Database) -> None:
    """Bring the database to our version, before anything else reads it; one command where it has that already.

    Raises SchemaTooNew, BrokenOff.
    """
    found = await said(database) or await _first_version(database)
    check(database.name, found)
    for before, what, step in STEPS[found["version"] - 1 :]:
        log.warning("database %s, schema version %d to %d: %s", database.name, before, before + 1, what)
        await step(database)
        await database[SETTINGS].update_one({"_id": SCHEMA, "version": before}, {"$set": {"version": before + 1}})


async def _first_version(database: Database) -> dict[str, Any]:
    """Write the first version and return what is then said of the schema: the first process to write is right.

    The version is ours in an empty database, and 1 where a program has been that wrote none.
    """
    old = OURS.intersection(await database.list_collection_names())
    with suppress(DuplicateKeyError):
        await database[SETTINGS].insert_one({"_id": SCHEMA, "version": 1 if old else VERSION})
    written = await said(database)
    assert written, "a majority has it"
    return written


async def _to_2(database: Database) -> None:
    await _rename_in_containers(database[SETTINGS])
    await _drop_index(database, *UNUSED_INDEX)
    for name, fields in UNUSED_FIELDS.items():
        async for batch in _batches(database[name]):
            await database[name].update_many(batch, {"$unset": dict.fromkeys(fields, "")})


async def _rename_in_containers(settings: Collection) -> None:
    """Rename fields of the phase settings, by compare and set as with every change of them: no switch is lost."""
    while old := await settings.find_one({"_id": PHASES, "containers.store": {"$exists": True}}):
        await settings.update_one(
            {"_id": PHASES, "version": old["version"]},
            {"$set": {"version": old["version"] + 1, "containers": [_container(c) for c in old["containers"]]}},
        )


def _container(old: Mapping[str, Any]) -> dict[str, Any]:
    new = {CONTAINER_FIELDS.get(name, name): value for name, value in old.items()}
    return new | {"kept": KEPT[new["kept"]]}


async def _to_3(database: Database) -> None:
    """Version 3 had a field with an index of its own for what `_to_4` tags."""


async def _to_4(database: Database) -> None:
    statuses = database["statuses"]
    changed = {"$or": [{"deleted": True}, {"likes": {"$exists": True}}, {"changed": {"$exists": True}}]}
    async for batch in _batches(statuses):
        found = await statuses.find({**batch, **changed}, {"_id": 1}).to_list(None)
        tagged = [
            UpdateMany(row, {"$addToSet": {"pending": change_tag(row["_id"])}, "$unset": {"changed": ""}})
            for row in found
        ]
        if tagged:
            await statuses.bulk_write(tagged, ordered=False)
    for index in STATUS_INDEXES_OF_3:
        await _drop_index(database, "statuses", index)
    await _move_versions(database, {"_id": FIRST_ID})
    async for batch in _batches(database[VERSIONS_OF_3]):
        await _move_versions(database, batch)
    await database.drop_collection(VERSIONS_OF_3)


async def _move_versions(database: Database, batch: Mapping[str, Any]) -> None:
    """Copy some versions to where they are looked up now. What is there is newer: another process has been faster."""
    found = [(versions_tag(row.pop("_id")), row) for row in await database[VERSIONS_OF_3].find(batch).to_list(None)]
    moved = [{"_id": tag, "user_id": NOBODY, "pending": [tag], **row} for tag, row in found]
    if moved:
        try:
            await database["statuses"].insert_many(moved, ordered=False)
        except BulkWriteError as error:
            unless_there(error.details or {})


async def _drop_index(database: Database, name: str, index: str) -> None:
    if index not in await database[name].index_information():
        return
    try:
        await database[name].drop_index(index)
    except OperationFailure:
        if index in await database[name].index_information():  # no other process has been faster
            raise


async def _batches(collection: Collection) -> AsyncIterator[Mapping[str, Any]]:
    """Yield queries that together find every document, each a range of `_id` with at most BATCH of them."""
    above = FIRST_ID
    while last := await collection.find_one({"_id": {"$gt": above}}, {"_id": 1}, sort=[("_id", 1)], skip=BATCH - 1):
        yield {"_id": {"$gt": above, "$lte": last["_id"]}}
        above = last["_id"]
    yield {"_id": {"$gt": above}}


# From which version, what changes, and how.
Step = tuple[int, str, Callable[[Database], Awaitable[None]]]
STEPS: tuple[Step, ...] = (
    (1, "containers of the phase settings name what is kept; unused fields and an unused index go", _to_2),
    (2, "nothing, which the next step would not change", _to_3),
    (
        3,
        "one index has all that a page looks at: what is pending or has changed, and versions of readers",
        _to_4,
    ),
)
VERSION = 1 + len(STEPS)
