"""Backup and restore of a whole database, as of one moment: by PyMongo, in the memory of one batch of documents."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from bson import decode_all
from bson.raw_bson import DEFAULT_RAW_BSON_OPTIONS
from pymongo import MongoClient, ReadPreference, ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database as Blocking
from pymongo.errors import ConnectionFailure, OperationFailure
from pymongo.hello import Hello
from pymongo.server_description import ServerDescription
from pymongo.write_concern import WriteConcern

from app.config import files_of
from app.errors import Refused
from app.models import NOBODY
from app.stack.mongodb.connection import PROMISED, Database
from app.stack.mongodb.find import SNAPSHOT_TOO_OLD
from app.stack.mongodb.write import HOUSEKEEPING_S

log = logging.getLogger(__name__)

UNAUTHORIZED = 13  # MongoDB's error code
HISTORY, BACKUP = "history", "backup"  # the notes of what WINDOW was, and of when the last backup was made
WINDOW = "minSnapshotHistoryWindowInSeconds"
CONNECT_S = 5.0

Row = dict[str, Any]


class TooLong(Refused):
    """The snapshot needs history that MongoDB has dropped."""


@contextmanager
def blocking(url: str, name: str, **others: Any) -> Iterator[Blocking[Row]]:
    """Yield the database by a client that blocks, for a command of its own. Writes are acknowledged by a majority.
    `others`: further options of PyMongo.
    """
    wait_ms, longest_ms = int(CONNECT_S * 1000), int(HOUSEKEEPING_S * 1000)
    others |= {"serverSelectionTimeoutMS": wait_ms, "connectTimeoutMS": wait_ms, "socketTimeoutMS": longest_ms}
    with files_of("FEEDLAB_MONGODB_URL"):
        client: MongoClient[Row] = MongoClient(url, **PROMISED, **others)
    with client:
        yield client.get_database(name, write_concern=WriteConcern("majority"))


async def sizes(database: Database, names: Iterable[str]) -> dict[str, int]:
    """Return about how many documents these collections have, by name. Versions of readers are no statuses."""
    found = {name: await database[name].estimated_document_count() for name in names}
    if "statuses" in found:
        versions = await database["statuses"].count_documents({"user_id": NOBODY})
        found["statuses"] = max(0, found["statuses"] - versions)
    return found


def batches(database: Blocking[Row], names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield every document of these collections as a majority has them at one moment.

    Each item is (collection, BSON documents in a row, at most 16 MB). Raises TooLong. Source: MongoDB manual, Read
    Concern "snapshot", Read Concern and Client Sessions.
    """
    try:
        with database.client.start_session(snapshot=True) as session:
            for name in names:
                found: Iterator[Any] = database[name].find_raw_batches({}, session=session)
                for batch in found:
                    yield name, batch
    except OperationFailure as error:
        if error.code != SNAPSHOT_TOO_OLD:
            raise
        raise TooLong(
            f"MongoDB keeps a snapshot for 300 s, unless {WINDOW} says otherwise, and the backup took longer: nothing "
            "was written. Repeat it with --window and as many seconds as it may take"
        ) from error


@contextmanager
def history_kept(notes: Collection[Row], window_s: int | None, url: str) -> Iterator[None]:
    """Make the primary keep snapshots for so long during the block; None leaves it at what is set there. Raises TooLong
    in other words where another primary has come in between.

    What was set before, and at which member, is noted among the settings (`notes`): a process that is killed sets
    nothing back, so the next one does whose user may, as soon as the one before must have ended, or when that member is
    the primary no more. Of two at once the first that ends sets it back for both. `url`: of the replica set.
    """
    admin = notes.database.client.admin
    told = admin.command("hello", codec_options=notes.codec_options)
    now: datetime = told["localTime"]
    here = {"at": told.get("me")}  # a router has no name; an older note is about whoever is primary
    noted = notes.find_one({"_id": HISTORY})
    noted = here | noted if noted else None
    if noted and (noted["until"] < now or noted["at"] != here["at"]):
        try:
            _set_back(notes, noted, url)
        except OperationFailure as error:
            if window_s is not None or error.code != UNAUTHORIZED:
                raise
            log.warning(
                "a backup that was killed has left %s as it needed it, and this user may not set it back to %s: make "
                "a backup as a user with the roles hostManager and clusterMonitor, or restart mongod",
                *(WINDOW, noted["was"]),
            )
        noted = None
    if window_s is None:
        yield
        return
    was = noted["was"] if noted else admin.command({"getParameter": 1, WINDOW: 1})[WINDOW]
    until = now + timedelta(seconds=window_s)
    note = notes.find_one_and_update(
        {"_id": HISTORY},
        # Another one may have begun meanwhile.
        {"$setOnInsert": {"was": was, **here}, "$max": {"until": until}, "$inc": {"begun": 1}},
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    assert note
    note = here | note
    _set(notes, window_s)
    try:
        yield
    except TooLong as error:
        if _is_primary(notes, note["at"]):
            raise
        raise TooLong(
            "another primary was elected while the backup was made, and does not have its snapshot: nothing was "
            "written. Repeat it"
        ) from error
    finally:
        _set_back(notes, note, url)


def _set(notes: Collection[Row], window_s: int) -> None:
    try:
        notes.database.client.admin.command({"setParameter": 1, WINDOW: window_s})
    except OperationFailure as error:
        if error.code == UNAUTHORIZED:  # there is nothing to set back, unless another one has begun beside us
            notes.delete_one({"_id": HISTORY, "begun": 1})
        raise


def _set_back(notes: Collection[Row], note: Row, url: str) -> None:
    """Set the window back at the member where it was set, whether that is still the primary or not."""
    command = {"setParameter": 1, WINDOW: note["was"]}
    if _is_primary(notes, note["at"]):
        notes.database.client.admin.command(command)
    else:
        with blocking(url, "admin", server_selector=partial(_alone, note["at"])) as there:
            try:
                there.command(command, read_preference=ReadPreference.NEAREST)
            except ConnectionFailure as error:
                told = "%s of %s is not set back to %s, which a restart of that mongod does as well: %s"
                log.warning(told, WINDOW, note["at"], note["was"], error)
    notes.delete_one({"_id": HISTORY})


def _is_primary(notes: Collection[Row], member: str) -> bool:
    return bool(notes.database.client.admin.command("hello").get("me") == member)


def _alone(member: str, servers: Sequence[ServerDescription]) -> list[ServerDescription]:
    return [server for server in servers if server.me == Hello({"me": member}).me]


def insert_batch(database: Blocking[Row], name: str, batch: bytes) -> int:
    """Insert the documents of a batch; return how many they are."""
    documents = decode_all(batch, DEFAULT_RAW_BSON_OPTIONS)
    database[name].insert_many(documents, ordered=False)
    return len(documents)
