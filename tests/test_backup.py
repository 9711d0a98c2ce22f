"""A backup while others write, its way back, and everything that may be wrong with either."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest
from bson import ObjectId
from click.testing import CliRunner, Result
from pymongo.errors import AutoReconnect

from app import backup as backups
from app.backup import COLLECTIONS, HEADER_BYTES, Damaged, Header, backup, checked, place, restore
from app.cli import main
from app.config import Config
from app.demo.graph import powerlaw
from app.demo.seed import seed
from app.errors import Refused
from app.models import NOBODY, User
from app.servers.datadir import DataDirectory
from app.stack import Addresses, connected, schema
from app.stack.bus import Listener
from app.stack.mongodb import whole
from app.stack.mongodb.connection import connect, disconnect
from app.stack.mongodb.whole import BACKUP, HISTORY, WINDOW, TooLong, blocking
from app.watch.metrics import REGISTRY
from benchmarks.oracle import Oracle
from tests.dates import LONG_AGO, NOON, ManualClock
from tests.test_schema import by_url, dump, load, mark
from tests.world import KEEPING, SLUGS, World
from workers import sampler

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

PEOPLE, STATUSES, READERS = 30, 120, 3
PATIENCE_S = 30.0
_names = count(1)


class System:
    """A seeded database of its own. Who uses it is a new process each time, as behind a stop."""

    def __init__(self, servers: Addresses) -> None:
        self.servers, self.clock = servers, ManualClock(NOON)
        self.config = Config(database=f"backup_{next(_names)}", demo=True, cap=40)
        self.people: list[ObjectId] = []

    @property
    def mongodb(self) -> str:
        assert self.servers.mongodb
        return self.servers.mongodb

    @asynccontextmanager
    async def process(self) -> AsyncIterator[World]:
        async with connected(self.servers, self.config, self.clock) as stack:
            world = await World.open(stack, self.clock)
            world.ids = {str(id): id for id in self.people}
            yield world

    async def fill(self) -> None:
        async with self.process() as world:
            graph = powerlaw(PEOPLE, 6, 1)
            await seed(world.stack, graph, statuses=STATUSES, days=9, seed=1, password=None, reset=False)
            self.people = [user.id for user in await User.find().sort("_id").to_list()]

    async def shows(self) -> dict[str, list[ObjectId]]:
        """What some readers see, which every phase agrees about, cold and warm, with the oracle."""
        async with self.process() as world:
            names = ("statuses", "follows", "blocks", "circles", "mutes")
            told = {"user_id": {"$ne": NOBODY}}  # no versions of readers
            documents = {name: await world.stack.db[name].find(told).to_list(None) for name in names}
            oracle: Oracle[ObjectId] = Oracle.of(**documents)
            shown = {str(reader): oracle.timeline(reader) for reader in self.people[:READERS]}
            for _ in ("as it is", "warm"):
                for reader, statuses in shown.items():
                    for phase in SLUGS:
                        assert await _walk(world, reader, phase) == statuses, (reader, phase)
        return shown

    async def goes_on(self) -> None:
        """Much that the backup does not know, and lists that know it."""
        async with self.process() as world:
            for author in list(world.ids)[:4]:
                await world.post(author, "lost")
            await world.relations.unfollow(*await _edge(world))
            await world.drain()
            await world.warm(*list(world.ids)[:READERS])

    async def restore(self, file: Path, *, yes: bool = True, say: Callable[[str], object] = lambda _: None) -> Header:
        return await restore(self.servers, self.config, file, yes=yes, say=say, clock=self.clock)

    async def documents(self) -> dict[str, int]:
        with blocking(self.mongodb, self.config.database) as database:
            return {name: database[name].count_documents({}) for name in database.list_collection_names()}


async def _walk(world: World, reader: str, phase: str) -> list[ObjectId]:
    found: list[ObjectId] = []
    before: ObjectId | None = None
    while True:
        page = await world.page(reader, phase, before, limit=50)
        found += [status.id for status in page.statuses]
        if (before := page.next) is None:
            return found


async def _edge(world: World) -> tuple[ObjectId, ObjectId]:
    edge = await world.stack.db["follows"].find_one({})
    assert edge
    return edge["follower"], edge["followee"]


@pytest.fixture(scope="module")
def system(servers: Addresses) -> Iterator[System]:
    """Each test makes a backup of it first, and leaves it as it is in that."""
    system = System(servers)
    asyncio.run(system.fill())
    yield system
    with blocking(system.mongodb, system.config.database) as database:
        database.client.drop_database(system.config.database)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "feedlab.backup"


async def test_every_page_is_that_of_the_backup_and_goes_on_from_there(system: System, file: Path) -> None:
    before = await system.shows()
    header = backup(system.mongodb, system.config, file)
    assert header.documents["statuses"] == STATUSES
    assert checked(file) == header
    await system.goes_on()
    assert await system.shows() != before
    said: list[str] = []
    with patch.object(backups, "insert_batch", side_effect=MemoryError), pytest.raises(MemoryError):
        await system.restore(file, say=said.append)
    assert said[0].startswith(f"restores into {place(system.mongodb, system.config)}, and erases ")
    assert f"{STATUSES + 4} statuses" in said[0]
    with pytest.raises(schema.BrokenOff, match="was broken off: repeat it"):
        await system.shows()
    with pytest.raises(schema.BrokenOff):
        backup(system.mongodb, system.config, file.with_name("another"))
    await system.restore(file)
    assert await system.shows() == before
    async with system.process() as world:
        world.pass_grace()
        readers = list(world.ids)[:READERS]
        await world.warm(*readers)
        author = await _edge(world)
        status = await world.post(str(author[1]), "since")
        await world.drain()
        for phase in KEEPING:
            assert status.id in await _walk(world, str(author[0]), phase), phase
            assert await world.source(readers[0], phase) == "list", phase
    assert await system.shows() != before


async def test_it_is_as_of_one_moment(system: System, file: Path) -> None:
    """Whatever others write between two batches, into collections that come later or have been read."""
    wrote = 0

    def others(what: str, done: int, total: int) -> None:
        nonlocal wrote
        with blocking(system.mongodb, system.config.database) as database:
            for name in ("users", "follows", "statuses"):
                database[name].insert_one({"handle": f"latecomer {wrote}", "follower": wrote})
                database[name].delete_one({"handle": f"latecomer {wrote - 2}"})
        wrote += 1

    before = await system.documents()
    header = backup(system.mongodb, system.config, file, progress=others)
    assert wrote > 3
    assert header.documents == {name: before.get(name, 0) for name in COLLECTIONS}
    for name, batch in backups.frames(file, header):
        assert b"latecomer" not in batch, name
    await system.restore(file)


async def test_one_that_takes_longer_than_the_history_is_kept(system: System, file: Path) -> None:
    with blocking(system.mongodb, system.config.database) as database:
        parameter = database.client.admin.command
        was = parameter({"getParameter": 1, WINDOW: 1})[WINDOW]

        def slow(what: str, done: int, total: int) -> None:
            """As if it took hours: all history goes at once."""
            parameter({"setParameter": 1, WINDOW: 0})
            for n in range(20):
                database["users"].update_one({}, {"$set": {"name": f"name {n}"}})

        try:
            with pytest.raises(TooLong, match=r"keeps a snapshot for .* --window"):
                backup(system.mongodb, system.config, file, progress=slow)
        finally:
            parameter({"setParameter": 1, WINDOW: was})
        assert not list(file.parent.glob("*"))

        def asked(what: str, done: int, total: int) -> None:
            assert parameter({"getParameter": 1, WINDOW: 1})[WINDOW] == 7_200

        header = backup(system.mongodb, system.config, file, window_s=7_200, progress=asked)
        settings = b"".join(batch for name, batch in backups.frames(file, header) if name == "settings")
        assert HISTORY.encode() in settings, "of the server that the backup is of"
        assert parameter({"getParameter": 1, WINDOW: 1})[WINDOW] == was
        killed = patch.object(whole, "_set_back", side_effect=SystemExit)
        with killed, pytest.raises(SystemExit):
            backup(system.mongodb, system.config, file.with_name("killed"), window_s=7_200)
        backup(system.mongodb, system.config, file.with_name("beside it"))
        assert parameter({"getParameter": 1, WINDOW: 1})[WINDOW] == 7_200, "it may still be at work, on another host"
        database["settings"].update_one({"_id": HISTORY}, {"$set": {"until": LONG_AGO}})
        backup(system.mongodb, system.config, file.with_name("after it"))
        assert parameter({"getParameter": 1, WINDOW: 1})[WINDOW] == was
        assert database["settings"].find_one({"_id": HISTORY}) is None
    await system.restore(file)
    with blocking(system.mongodb, system.config.database) as database:
        assert database["settings"].find_one({"_id": HISTORY}) is None, "it says nothing about another server"
        database["settings"].insert_one({"_id": HISTORY, "was": was, "until": NOON})
        await system.restore(file)
        assert database["settings"].delete_one({"_id": HISTORY}).deleted_count, "this server is still to be set back"


async def test_when_the_last_one_was_made_is_known_and_no_restore_forgets_it(system: System, file: Path) -> None:
    def at() -> datetime | None:
        with blocking(system.mongodb, system.config.database) as database:
            note = database["settings"].find_one({"_id": BACKUP})
            return note["at"] if note else None

    def told() -> float:
        return REGISTRY.get_sample_value("feedlab_backup_timestamp_seconds") or 0

    first = backup(system.mongodb, system.config, file)
    assert at() == datetime.fromisoformat(first.at)
    with patch.object(backups, "batches", side_effect=MemoryError), pytest.raises(MemoryError):
        backup(system.mongodb, system.config, file.with_name("broken"))
    assert at() == datetime.fromisoformat(first.at), "it has no file"
    second = backup(system.mongodb, system.config, file.with_name("second"))
    await system.restore(file)
    assert at() == datetime.fromisoformat(second.at), "that file is still there"
    async with system.process() as world:
        await sampler.sample(world.timelines)
        assert told() == datetime.fromisoformat(second.at).timestamp()
        with patch.object(sampler, "rows", side_effect=AutoReconnect):
            await sampler.sample(world.timelines)
        assert told() == datetime.fromisoformat(second.at).timestamp(), "that has not changed"
        with blocking(system.mongodb, system.config.database) as database:
            database["settings"].delete_one({"_id": BACKUP})
        await sampler.sample(world.timelines)
        assert told() == 0, "somebody wants no alert any more"
    await system.restore(file.with_name("second"))
    assert at() is None, "what the file says of the one before it is not put back"


def test_a_damaged_file_changes_nothing(system: System, file: Path) -> None:
    backup(system.mongodb, system.config, file)
    whole, bad, before = file.read_bytes(), file.with_name("bad"), asyncio.run(system.documents())

    def flipped(at: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    body = range(HEADER_BYTES, len(whole), len(whole) // 5)
    header = range(0, len(whole[:HEADER_BYTES].rstrip()), 7)
    cut = (0, 1, HEADER_BYTES - 1, HEADER_BYTES, len(whole) - 1)
    for damaged in (*map(flipped, [*header, *body]), *(whole[:length] for length in cut), whole + b"x", b"{}"):
        bad.write_bytes(damaged)
        with pytest.raises(Damaged, match=r"^\S*bad is [^\n]*$"):
            asyncio.run(system.restore(bad))
    assert asyncio.run(system.documents()) == before


TOO_LONG = b'{"version":1,"database":"a","documents":{},"size":0,"at":"%s"}' % (b"a" * (HEADER_BYTES - 70))


@pytest.mark.parametrize("beginning", [b"[]", b"1", b"null", b"{}", TOO_LONG], ids=lambda some: some[:3])
def test_a_file_that_begins_otherwise_is_no_backup(beginning: bytes, file: Path) -> None:
    """Whatever Python is told to leave out."""
    file.write_bytes(beginning.ljust(HEADER_BYTES - 1) + b"\n")
    with pytest.raises(Damaged, match="is no backup"):
        checked(file)


def _more_users(header: Header, body: bytes) -> bytes:
    header.documents["users"] += 1
    return body


def _no_gzip(header: Header, body: bytes) -> bytes:
    header.size = 3
    return b"abc"


def _a_collection_less(header: Header, body: bytes) -> bytes:
    header.documents = dict([next(iter(header.documents.items()))])
    return body


@pytest.mark.parametrize("forge", [_more_users, _no_gzip, _a_collection_less])
def test_a_file_that_holds_other_documents_than_it_says_changes_nothing(
    system: System, file: Path, forge: Callable[[Header, bytes], bytes]
) -> None:
    """Its checksum is right: somebody else has written it."""
    header, before = backup(system.mongodb, system.config, file), asyncio.run(system.documents())
    body = forge(header, file.read_bytes()[HEADER_BYTES:])
    header.sha256 = header.sealed(hashlib.sha256(body))
    forged = file.with_name("forged")
    forged.write_bytes(header.packed() + body)
    with pytest.raises(Damaged, match="other documents than it says"):
        asyncio.run(system.restore(forged))
    assert asyncio.run(system.documents()) == before


def test_of_two_that_write_the_same_file_each_writes_all_of_it(system: System, file: Path) -> None:
    """The first is ready while the second has only begun, which is killed then."""

    def killed(what: str, done: int, total: int) -> None:
        raise SystemExit

    def second(what: str, done: int, total: int) -> None:
        if not file.exists() and what == "users":
            with pytest.raises(SystemExit):
                backup(system.mongodb, system.config, file, progress=killed)

    first = backup(system.mongodb, system.config, file, progress=second)
    assert checked(file) == first
    assert [path.name for path in file.parent.iterdir()] == [file.name]


async def test_what_is_there_is_erased_on_demand_only(system: System, file: Path) -> None:
    backup(system.mongodb, system.config, file)
    with pytest.raises(Refused, match="exists already"):
        backup(system.mongodb, system.config, file)
    with blocking(system.mongodb, system.config.database) as database:
        database["of somebody else"].insert_one({})
    before = await system.documents()
    with pytest.raises(Refused, match=rf"is not empty: --yes erases .*{PEOPLE} users.*, and nothing else"):
        await system.restore(file, yes=False)
    assert await system.documents() == before
    await system.restore(file)
    after = await system.documents()
    assert after["of somebody else"] == 1
    empty, said = System(system.servers), list[str]()
    await empty.restore(file, yes=False, say=said.append)
    assert said == [f"restores into {place(empty.mongodb, empty.config)}, which is empty"]
    assert (await empty.documents())["users"] == PEOPLE
    with (
        blocking(system.mongodb, system.config.database) as one,
        blocking(system.mongodb, empty.config.database) as two,
    ):
        identities = [each["settings"].find_one({"_id": "schema"}) for each in (one, two)]
        one.client.drop_database(empty.config.database)
    assert all(identities)
    assert identities[0] != identities[1], "two that came from one backup share no queue"


async def test_a_web_process_that_runs_keeps_its_database(system: System, file: Path) -> None:
    """It would go on with what it remembers of the old one."""
    backup(system.mongodb, system.config, file)
    async with system.process() as world:
        subscribed = asyncio.Event()
        world.stack.bus.listen(Listener(lambda _: None, subscribed.set))
        await asyncio.wait_for(subscribed.wait(), PATIENCE_S)
        before = await system.documents()
        with pytest.raises(Refused, match=r"web process.* run on the database .*: stop all processes first"):
            await system.restore(file)
        assert await system.documents() == before
    await system.restore(file)


async def test_a_backup_of_a_program_with_other_collections(system: System, file: Path) -> None:
    others = (COLLECTIONS[0], "of the future", *reversed(COLLECTIONS[1:]))
    with patch.object(backups, "COLLECTIONS", others):
        backup(system.mongodb, system.config, file)
    before = await system.documents()  # with the note that there is a backup
    await system.restore(file)
    after = await system.documents()
    assert {name: after[name] for name in COLLECTIONS} == {name: before[name] for name in COLLECTIONS}


async def test_a_backup_of_a_newer_program_is_refused(system: System, file: Path) -> None:
    backup(system.mongodb, system.config, file)
    with patch.object(schema, "VERSION", schema.VERSION - 1), pytest.raises(schema.SchemaTooNew):
        await system.restore(file)
    with patch.object(backups, "FORMAT", backups.FORMAT - 1), pytest.raises(Refused, match="was written by Feedlab"):
        await system.restore(file)


def test_who_goes_back_to_a_version_restores_its_backup_over_a_newer_database(system: System, file: Path) -> None:
    """By the old program, which does nothing else with such a database."""
    environment = by_url(system.servers, system.config.database)

    def feedlab(*arguments: str) -> int:
        return CliRunner().invoke(main, [*arguments, "--data", str(file.parent / "data")], env=environment).exit_code

    before = asyncio.run(system.shows())
    assert feedlab("backup", str(file)) == 0
    asyncio.run(mark(system.servers, system.config.database, schema.VERSION + 1))
    assert feedlab("phases") == 2
    assert feedlab("restore", str(file), "--yes") == 0
    assert feedlab("phases") == 0
    assert asyncio.run(system.shows()) == before


def test_by_the_command_line(system: System, file: Path) -> None:
    environment = by_url(system.servers, system.config.database)

    def feedlab(*arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--data", str(file.parent / "data")], env=environment)

    saved = feedlab("backup", str(file))
    assert saved.exit_code == 0, saved.output
    where = place(system.mongodb, system.config)
    assert f" documents of {where}, " in saved.stdout
    assert file.stat().st_mode & 0o777 == 0o600, "hashes of passwords are in it"
    for refused, words in (
        (feedlab("backup", str(file)), "exists already"),
        (feedlab("restore", str(file)), "is not empty: --yes erases"),
        (feedlab("backup", str(file.with_name("another")), "--stack", "memory"), "a stand-in inside a process"),
    ):
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert words in refused.stderr
    with DataDirectory(file.parent / "data").owned("feedlab serve", lasting=True):
        refused = feedlab("restore", str(file), "--yes")
        assert (refused.exit_code, "feedlab serve runs in" in refused.stderr) == (2, True)
    restored = feedlab("restore", str(file), "--yes")
    assert restored.exit_code == 0, restored.output
    assert f"restores into {where}, and erases" in restored.stderr
    assert "documents are back as of" in restored.stdout


async def test_what_the_first_release_stored_is_saved_as_it_is_and_migrated_when_it_comes_back(
    servers: Addresses, file: Path
) -> None:
    old, new = System(servers), System(servers)
    old.clock = new.clock = ManualClock(dump()["now"])
    database = connect(old.mongodb, old.config.database, 5.0)
    await load(database, memory=False)
    before = await old.documents()
    assert backup(old.mongodb, old.config, file).version == 1
    before["settings"] += 1  # the note of it
    assert await old.documents() == before, "nothing is migrated by saving it"
    await new.restore(file)
    new.people = [ObjectId(reader) for reader in dump()["pages"]][:READERS]
    assert await new.shows() == {str(reader): dump()["pages"][str(reader)] for reader in new.people}
    for each in (old, new):
        await database.client.drop_database(each.config.database)
    await disconnect(database)
