"""`feedlab backup` and `feedlab restore`: what cannot be made anew, in one file, as of one moment.

    | JSON, padded to 4,096 bytes | gzip of frames |        a frame: | collection 1 | length 4 | BSON documents |

The header says the versions and the SHA-256 of everything else, so a file is judged before anything is touched. What
phases keep is left out: it is derived, and a restored database begins all of it anew (rule 3).
"""

import gzip
import hashlib
import json
import logging
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, cast

from bson import decode_all
from bson.errors import InvalidBSON
from bson.raw_bson import DEFAULT_RAW_BSON_OPTIONS
from pydantic import BaseModel
from pymongo.collection import Collection
from pymongo.database import Database as Blocking
from pymongo.errors import PyMongoError

from app import __version__, models
from app.clock import Clock
from app.config import Config
from app.demo.progress import Progress, silent
from app.errors import Refused
from app.models import HOME, SETTINGS
from app.servers.urls import masked
from app.stack import Addresses, DeliveryQueue, QueueDown, Stack, connected, opened, said_by_a_driver, schema
from app.stack.bus import web_processes
from app.stack.mongodb.connection import preflight
from app.stack.mongodb.whole import BACKUP, HISTORY, Row, batches, blocking, history_kept, insert_batch, sizes
from phases.timelines import Timelines
from workers.tailer import DOCUMENT as STREAM

log = logging.getLogger(__name__)

FORMAT = 1
HEADER_BYTES = 4_096
FRAME = struct.Struct(">BI")
LEVEL = 1  # of gzip: higher ones take far longer for a file that is little smaller
READ_BYTES = 1024 * 1024
COLLECTIONS = (SETTINGS, *models.COLLECTIONS)


class Header(BaseModel):
    """The header of a backup. `documents`: how many there are, by collection; a frame says which by its place among
    these. `size`: bytes of what follows the header; `sha256`: of that and of the header without it.
    """

    feedlab_backup: int = FORMAT
    feedlab: str = __version__
    version: int  # of the schema
    database: str
    at: str
    documents: dict[str, int]
    size: int
    sha256: str = ""

    def packed(self) -> bytes:
        """Return the header, padded to HEADER_BYTES. Raises ValueError where there is no room for it."""
        packed = self.model_dump_json().encode()
        if len(packed) >= HEADER_BYTES:
            raise ValueError(f"{len(packed):,} bytes are too many for a header")
        return packed.ljust(HEADER_BYTES - 1) + b"\n"

    def sealed(self, body: "hashlib._Hash") -> str:
        whole = body.copy()
        whole.update(self.model_copy(update={"sha256": ""}).packed())
        return whole.hexdigest()


class Damaged(Refused):
    """The file is no backup, or not as it was written."""


class _Hashing:
    """A file that is written, with the hash and the size of what has been written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def place(url: str, config: Config) -> str:
    """Return what tells one database from another: without the settings, a command is about one of its own."""
    return f"the database {config.database!r} at {masked(url)}"


def backup(url: str, config: Config, file: Path, *, window_s: int | None = None, progress: Progress = silent) -> Header:
    """Write the file, which must not exist yet; it has its name when all of it is there. Return its header.

    Nothing is migrated, and nothing changed but the note of when the last backup was made and, for so long, what
    `window_s` needs. Raises Refused, TooLong among them, and the driver's errors.
    """
    if file.exists():
        raise Refused(f"{file} exists already: a backup replaces nothing")
    with blocking(url, config.database) as database:
        version = _our_version(database)
        with _whole_or_not_at_all(file) as out, history_kept(database[SETTINGS], window_s, url):
            header = _written(database, out, version, progress)
        _note(database[SETTINGS], datetime.fromisoformat(header.at))
        return header


def _note(settings: Collection[Row], at: datetime) -> None:
    """Note when a backup was made, for an alert about one that is missing. It is made, whoever may not note it."""
    try:
        settings.update_one({"_id": BACKUP}, {"$max": {"at": at}}, upsert=True)
    except PyMongoError as error:
        log.warning("the backup is made, but not noted, so no alert can tell of its age: %s", said_by_a_driver(error))


@contextmanager
def _whole_or_not_at_all(file: Path) -> Iterator[IO[bytes]]:
    """Yield a file that has its name once the block has ended well, and is gone otherwise; its owner alone can read it,
    since hashes of passwords are in it. Until then its name is of this run alone: two may make the same backup at once.
    """
    with NamedTemporaryFile("wb", dir=file.parent, prefix=f"{file.name}.", suffix=".part", delete=False) as out:
        part = Path(out.name)
        try:
            yield out
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def _our_version(database: Blocking[Row]) -> int:
    found = database[SETTINGS].find_one({"_id": schema.SCHEMA})
    if found is None and not set(COLLECTIONS).intersection(database.list_collection_names()):
        raise Refused(f"there is nothing of Feedlab's in the database {database.name!r}")
    found = found or {"version": 1}  # 0.1 wrote none
    schema.check(database.name, found)
    return int(found["version"])


def _written(database: Blocking[Row], out: IO[bytes], version: int, progress: Progress) -> Header:
    out.write(bytes(HEADER_BYTES))
    hashing, documents, at = _Hashing(out), Counter(dict.fromkeys(COLLECTIONS, 0)), Clock().now()
    sizes = {name: database[name].estimated_document_count() for name in COLLECTIONS}
    with gzip.GzipFile(fileobj=cast("IO[bytes]", hashing), mode="wb", compresslevel=LEVEL, mtime=0, filename="") as gz:
        for name, batch in batches(database, COLLECTIONS):
            gz.write(FRAME.pack(COLLECTIONS.index(name), len(batch)))
            gz.write(batch)
            documents[name] += _count(batch)
            progress(name, documents[name], sizes[name])
    header = Header(version=version, database=database.name, at=at.isoformat(), documents=documents, size=hashing.size)
    header.sha256 = header.sealed(hashing.hash)
    out.seek(0)
    out.write(header.packed())
    out.flush()
    os.fsync(out.fileno())
    return header


def _count(batch: bytes) -> int:
    """Count the documents in a row: each begins with its length."""
    at = number = 0
    while at < len(batch):
        at += int.from_bytes(batch[at : at + 4], "little")
        number += 1
    return number


def checked(file: Path) -> Header:
    """Read all of the file twice, and return its header. Raises Damaged, and Refused for one of a newer program."""
    with file.open("rb") as source:
        try:
            raw = source.read(HEADER_BYTES)
            said = json.loads(raw)
            number = said.get("feedlab_backup") if isinstance(said, dict) else None
            if isinstance(number, int) and number > FORMAT:
                raise Refused(f"{file} was written by Feedlab {said.get('feedlab')}: restore it with that one")
            header = Header.model_validate(said)
            is_ours = header.packed() == raw
        except ValueError:
            is_ours = False
        if not is_ours:
            raise Damaged(f"{file} is no backup of Feedlab's, or its beginning is damaged")
        body, size = hashlib.sha256(), 0
        while data := source.read(READ_BYTES):
            body.update(data)
            size += len(data)
    if size < header.size:
        raise Damaged(f"{file} is cut off: {header.size - size:,} of {header.size:,} bytes are missing")
    if size > header.size or header.sealed(body) != header.sha256:
        raise Damaged(f"{file} is damaged: it is not what `feedlab backup` wrote")
    if header.version > schema.VERSION:
        raise schema.SchemaTooNew(header.database, header.version)
    if _held(file, header) != header.documents:
        raise Damaged(f"{file} holds other documents than it says: whoever wrote it was no Feedlab")
    return header


def _held(file: Path, header: Header) -> dict[str, int] | None:
    """Count the documents in the file, by collection; None where they cannot be read."""
    held = dict.fromkeys(header.documents, 0)
    try:
        for name, batch in frames(file, header):
            held[name] += len(decode_all(batch, DEFAULT_RAW_BSON_OPTIONS))
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error, IndexError, InvalidBSON):
        return None
    return held


def frames(file: Path, header: Header) -> Iterator[tuple[str, bytes]]:
    """Yield the name of a collection and BSON documents for each frame. The file was `checked`, and has this header."""
    names = list(header.documents)  # other versions have other collections
    with file.open("rb") as source:
        source.seek(HEADER_BYTES)
        with gzip.GzipFile(fileobj=source, mode="rb") as gz:
            while head := gz.read(FRAME.size):
                number, length = FRAME.unpack(head)
                yield names[number], gz.read(length)


async def restore(
    addresses: Addresses,
    config: Config,
    file: Path,
    *,
    yes: bool,
    say: Callable[[str], object],
    progress: Progress = silent,
    clock: Clock | None = None,
) -> Header:
    """Put the backup where nothing of ours is or, with `yes`, in its place, and begin anew whatever is kept beside it.

    No other process of ours may run; a web process that does is noticed. A restore that is broken off leaves a database
    that everybody refuses until it is repeated. Raises Refused before anything is changed.
    """
    header = checked(file)
    assert addresses.mongodb
    async with opened(addresses, config, clock or Clock()) as stack:
        await preflight(stack.db)
        where = place(addresses.mongodb, config)
        prefix = await _prefix(stack)
        if prefix and (running := await web_processes(stack.queue.connection, prefix)):
            raise Refused(f"{running} web process(es) of Feedlab run on {where}: stop all processes first")
        if lost := await _lost(stack):
            what = ", ".join(f"{number:,} {name}" for name, number in lost.items())
            if not yes:
                raise Refused(f"{where} is not empty: --yes erases {what} in it, and nothing else")
            say(f"restores into {where}, and erases {what} in it")
        else:
            say(f"restores into {where}, which is empty")
        if prefix:
            await _forget_jobs(stack, prefix)
    with blocking(addresses.mongodb, config.database) as database:
        _fill(database, file, header, progress)
    async with connected(addresses, config, clock) as stack:  # indexes, and what has changed since
        await Timelines.open(stack)  # what phases keep begins anew: nothing of it is in a backup
    return header


async def _lost(stack: Stack) -> Mapping[str, int]:
    """Count what is in our collections, by name. Settings are left out: every database that somebody has opened has
    some.
    """
    there = await stack.db.list_collection_names()
    counts = await sizes(stack.db, sorted(filter(_is_ours, there)))
    return {name: number for name, number in counts.items() if number}


def _is_ours(collection: str) -> bool:
    """Return whether a collection is ours, and not the settings."""
    return collection in (*COLLECTIONS[1:], schema.VERSIONS_OF_3) or collection.startswith(HOME)


async def _prefix(stack: Stack) -> str | None:
    """Return the prefix that the database has in Redis before it is restored; None where nobody has opened it."""
    old = await stack.db[SETTINGS].find_one({"_id": schema.SCHEMA, "identity": {"$exists": True}})
    return f"{stack.db.name}-{old['identity']}" if old else None


async def _forget_jobs(stack: Stack, prefix: str) -> None:
    """Forget the jobs of the database that goes. The restored one has queues of its own."""
    with suppress(QueueDown):  # what is left of them does nothing
        await DeliveryQueue(stack.queue.connection, prefix, stack.clock.monotonic).forget()


def _fill(database: Blocking[Row], file: Path, header: Header, progress: Progress) -> None:
    settings = database[SETTINGS]
    settings.replace_one({"_id": schema.SCHEMA}, schema.broken_off(header.at), upsert=True)
    settings.delete_many({"_id": {"$nin": [schema.SCHEMA, HISTORY, BACKUP]}})  # of this server, and of its backups
    for name in database.list_collection_names():
        if _is_ours(name):
            database.drop_collection(name)
    done: Counter[str] = Counter()
    for name, batch in frames(file, header):
        if name == SETTINGS:
            left_out = (schema.SCHEMA, STREAM, HISTORY, BACKUP)
            kept = [_restored(row) for row in decode_all(batch) if row["_id"] not in left_out]
            if kept:
                settings.insert_many(kept)
            done[name] += _count(batch)
        else:
            done[name] += insert_batch(database, name, batch)
        progress(name, done[name], header.documents[name])
    settings.replace_one({"_id": schema.SCHEMA}, {"version": header.version})  # and so another identity


def _restored(setting: dict[str, Any]) -> dict[str, Any]:
    """Return a setting as it is restored: nothing of what phases kept is there any more."""
    return {**setting, "containers": []} if setting["_id"] == schema.PHASES else setting
