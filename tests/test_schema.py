"""Old databases become new ones, whoever dies or interferes meanwhile; newer ones are left alone.

`data/afb9210.json.gz` is a database that commit afb9210 made; in it is the script that made it and the pages it showed.
"""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from bson import ObjectId, json_util
from click.testing import CliRunner
from pymongo import ASCENDING, IndexModel

from app.cli import main
from app.config import Config
from app.edges import NAMES, new_versions, version_key
from app.models import DOCUMENTS, NOBODY, SETTINGS, change_tag, versions_tag
from app.social.statuses import Statuses
from app.stack import Addresses, Stack, connected, schema
from app.stack.cost import counted
from app.stack.mongodb.connection import Database, connect, disconnect
from app.stack.mongodb.stand_in import stand_in
from app.stack.mongodb.write import prepare
from app.stack.schema import PHASES, SCHEMA, STEPS, UNUSED_FIELDS, UNUSED_INDEX, VERSION, VERSIONS_OF_3, SchemaTooNew
from benchmarks.oracle import Oracle
from phases import PHASES as ALL_PHASES
from phases.timelines import Timelines
from tests.dates import NOON, ManualClock
from tests.world import STAND_INS

pytestmark = pytest.mark.anyio

OLD = Path(__file__).with_name("data") / "afb9210.json.gz"
KEPT = {"entries": "entries of followers", "lists": "lists of active followers"}
SMALL_BATCH = 200  # of some 300 follow edges

State = dict[str, Any]

_names = count(1)


def name() -> str:
    return f"schema_{next(_names)}"


@cache
def dump() -> Any:
    return json_util.loads(gzip.decompress(OLD.read_bytes()), json_options=json_util.JSONOptions(tz_aware=True))


@pytest.fixture
async def database(addresses: Addresses) -> AsyncIterator[Database]:
    """An empty one."""
    found = connect(addresses.mongodb, name(), 5.0) if addresses.mongodb else stand_in(name())
    yield found
    await found.client.drop_database(found.name)
    await disconnect(found)


@pytest.fixture
async def old(database: Database, addresses: Addresses) -> Database:
    await load(database, memory=addresses.mongodb is None)
    return database


async def load(database: Database, *, memory: bool, names: Collection[str] = ()) -> None:
    """What afb9210 has made, with likes and what older programs have left. All of it, or these collections anew."""
    for name in names:
        await database.drop_collection(name)
    for name, stored in dump()["collections"].items():
        if names and name not in names:
            continue
        clustered = stored["clustered"] and not memory
        options: Any = {"clusteredIndex": {"key": {"_id": 1}, "unique": True}} if clustered else {}
        await database.create_collection(name, **options)
        documents = [dict(document) for document in stored["documents"]]
        if name in UNUSED_FIELDS:
            documents[::2] = [{**document, "active_until": NOON} for document in documents[::2]]
        if name == "statuses":
            documents[::5] = [{**document, "likes": number % 3} for number, document in enumerate(documents[::5])]
        if documents:
            await database[name].insert_many(documents)
        for index in stored["indexes"]:
            rest = {option: value for option, value in index.items() if option not in ("v", "key")}
            await database[name].create_indexes([IndexModel(list(index["key"].items()), **rest)])
        if name == UNUSED_INDEX[0]:
            key = [(field, ASCENDING) for field in ("followee", "active_until", "follower")]
            await database[name].create_indexes([IndexModel(key)])


async def state(database: Database) -> State:
    """Every document, by collection, and the names of its indexes."""
    found: State = {}
    for name in await database.list_collection_names():
        rows = await database[name].find({}).to_list(None)
        found[name] = {row.pop("_id"): row for row in rows}, set(await database[name].index_information())
    return found


def migrated(before: State) -> State:
    """What becomes of an old database, said once more and all at once."""
    after = {name: ({**rows}, set(indexes)) for name, (rows, indexes) in before.items()}
    phases = before[SETTINGS][0][PHASES]
    containers = [
        {"kept": KEPT[c["store"]], "since": c["since"], "nodes": c["memcached"], "until": c["until"]}
        for c in phases["containers"]
    ]
    after[SETTINGS][0].update(
        {PHASES: {**phases, "version": phases["version"] + 1, "containers": containers}, SCHEMA: {"version": VERSION}}
    )
    for name in ("users", "follows"):
        for id, row in after[name][0].items():
            after[name][0][id] = {f: v for f, v in row.items() if f not in ("last_seen_at", "active_until")}
    after["follows"][1].discard("followee_1_active_until_1_follower_1")
    statuses = after["statuses"][0]
    changed = {id: row for id, row in statuses.items() if row["deleted"] or "likes" in row}
    tagged = {id: {**row, "pending": [*row.get("pending", ()), change_tag(id)]} for id, row in changed.items()}
    assert 0 < len(changed) < len(statuses)
    statuses.update(tagged)
    for id, row in after.pop(VERSIONS_OF_3)[0].items():
        statuses[versions_tag(id)] = {"user_id": NOBODY, "pending": [versions_tag(id)], **row}
    return after


class Watched:
    """A database, or a collection of it: `before` is called before each command."""

    COMMANDS = (
        *("find_one", "insert_one", "insert_many", "update_one", "update_many", "bulk_write"),
        *("drop_index", "index_information", "drop_collection"),
    )

    def __init__(self, real: Any, before: Callable[[str], Awaitable[None]]) -> None:
        self._real, self._before = real, before

    def __getitem__(self, name: str) -> "Watched":
        return Watched(self._real[name], self._before)

    def get_collection(self, *args: Any, **options: Any) -> "Watched":
        return Watched(self._real.get_collection(*args, **options), self._before)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in (*self.COMMANDS, "list_collection_names"):
            return real

        async def watched(*args: Any, **options: Any) -> Any:
            await self._before(name)
            return await real(*args, **options)

        return watched


class Killed(Exception):
    pass


def dying(database: Database, left: int) -> Any:
    """The process that uses it dies after `left` commands."""
    commands = count()

    async def before(_: str) -> None:
        if next(commands) == left:
            raise Killed

    return Watched(database, before)


def test_the_steps_follow_each_other_and_are_in_the_document() -> None:
    document = (Path(__file__).parents[1] / "docs" / "upgrading.md").read_text()
    assert [before for before, _, _ in STEPS] == list(range(1, VERSION))
    assert all(f"| {before} | {before + 1} | {what} |" in document for before, what, _ in STEPS)


def test_every_index_that_a_start_waits_for_is_in_the_document() -> None:
    document = (Path(__file__).parents[1] / "docs" / "upgrading.md").read_text()
    table = document.partition("| Indexes that version 1 does not have |")[2].partition("\n\n")[0]
    told = {name: set(re.findall(r"`(\w+[\w-]*)`", names)) for name, names in re.findall(r"\| `(\w+)` \|(.+)\|", table)}
    new = {}
    for model in DOCUMENTS:
        if stored := dump()["collections"].get(model.Settings.name):
            ours = {index.document["name"] for index in model.Settings.indexes}
            new[model.Settings.name] = ours - {index["name"] for index in stored["indexes"]}
    assert told == {name: indexes for name, indexes in new.items() if indexes}


async def test_a_new_database_has_our_version_at_once_and_is_asked_for_it_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await schema.migrate(database)
    assert caplog.messages == [], "no step was taken"
    assert await state(database) == {SETTINGS: ({SCHEMA: {"version": VERSION}}, {"_id_"})}
    with counted() as cost:
        await schema.migrate(database)
    assert cost.mongodb == 1


async def test_several_processes_open_a_new_database(database: Database) -> None:
    """Whoever comes a little later finds our collections, and the version beside them."""
    first = asyncio.Event()

    async def before(command: str) -> None:
        if command == "list_collection_names":
            await first.wait()

    waiting: Any = Watched(database, before)
    late = asyncio.create_task(schema.migrate(waiting))
    await asyncio.gather(*(schema.migrate(database) for _ in range(4)))
    await prepare(database)
    first.set()
    await late
    assert await schema.version(database) == VERSION


async def test_an_old_database_is_migrated(old: Database) -> None:
    before = await state(old)
    assert len(before[SETTINGS][0][PHASES]["containers"]) > 2, "retired ones, too"
    with patch("app.stack.schema.BATCH", SMALL_BATCH):
        await schema.migrate(old)
    after = await state(old)
    assert after == migrated(before)
    await schema.migrate(old)
    assert await state(old) == after
    await old[SETTINGS].delete_one({"_id": SCHEMA})
    await schema.migrate(old)
    assert await state(old) == after, "a repeated step has nothing to do"


async def test_a_database_with_nothing_but_accounts_is_migrated(database: Database) -> None:
    """Whatever else afb9210 would have created had it not been stopped."""
    id = ObjectId()
    await database["users"].insert_one({"_id": id, "handle": "ann", "last_seen_at": NOON})
    await schema.migrate(database)
    assert await database["users"].find_one({}) == {"_id": id, "handle": "ann"}
    assert await schema.version(database) == VERSION


async def test_versions_move_to_where_they_are_looked_up(database: Database) -> None:
    """Those of nobody, too. What another process has moved and changed since stays as it is."""
    ann, bob, liked, deleted, plain = (ObjectId() for _ in range(5))
    await database[SETTINGS].insert_one({"_id": SCHEMA, "version": 3})
    await database["statuses"].insert_many(
        [
            {"_id": liked, "user_id": ann, "text": "x", "deleted": False, "likes": 2, "changed": liked},
            {"_id": deleted, "user_id": ann, "text": "", "deleted": True, "changed": deleted, "pending": ["push"]},
            {"_id": plain, "user_id": ann, "text": "y", "deleted": False, "pending": ["push"]},
            {**version_key(bob), **new_versions(bob), "version": plain},
        ]
    )
    by_author = [("pending", 1), ("user_id", 1), ("_id", -1)]
    await database["statuses"].create_index([("changed", 1)], name="changed")
    await database["statuses"].create_index(by_author, name="pending_by_author")
    tokens = ObjectId()
    await database[VERSIONS_OF_3].insert_many(
        [
            {"_id": NAMES, "version": 7},
            {"_id": ann, "version": liked, "likes": 3, "tokens": tokens, "closed": True},
            {"_id": bob, "version": 1},
        ]
    )
    await schema.migrate(database)
    found, indexes = (await state(database))["statuses"]
    assert found[liked]["pending"] == [change_tag(liked)]
    assert found[deleted]["pending"] == ["push", change_tag(deleted)]
    assert found[plain]["pending"] == ["push"]
    assert not any("changed" in row for row in found.values())
    assert {id: row for id, row in found.items() if isinstance(id, str)} == {
        versions_tag(whose): {"user_id": NOBODY, "pending": [versions_tag(whose)], **versions}
        for whose, versions in (
            (NAMES, {"version": 7}),
            (ann, {"version": liked, "likes": 3, "tokens": tokens, "closed": True}),
            (bob, {"version": plain}),
        )
    }
    assert indexes == {"_id_"}
    assert VERSIONS_OF_3 not in await database.list_collection_names()
    await prepare(database)


async def test_a_migration_that_is_killed_anywhere_is_repeated(old: Database, addresses: Addresses) -> None:
    before = await state(old)
    with patch("app.stack.schema.BATCH", SMALL_BATCH):
        for left in count():
            try:
                await schema.migrate(dying(old, left))
                break
            except Killed:
                await schema.migrate(old)
            assert await state(old) == migrated(before), f"killed after {left} commands"
            await load(
                old, memory=addresses.mongodb is None, names=(SETTINGS, "statuses", VERSIONS_OF_3, *UNUSED_FIELDS)
            )
    assert left > 12


async def test_several_processes_migrate_at_once(old: Database) -> None:
    before = await state(old)
    with patch("app.stack.schema.BATCH", SMALL_BATCH):
        await asyncio.gather(*(schema.migrate(old) for _ in range(4)))
    assert await state(old) == migrated(before)


async def test_a_migration_that_is_overtaken_changes_nothing_any_more(old: Database, addresses: Addresses) -> None:
    """Another process migrates, serves and switches before each of its commands in turn."""
    for overtaken in count():
        commands, switched = count(), [await old[SETTINGS].find_one({})]

        async def before(_: str, commands: Any = commands, at: int = overtaken, switched: Any = switched) -> None:
            if next(commands) == at:
                await schema.migrate(old)
                await old["statuses"].create_index([("pending", 1), ("user_id", 1)], name="pending_of_authors")
                another = {"kept": KEPT["lists"], "since": ObjectId(), "nodes": None, "until": None}
                change = {"$inc": {"version": 1}, "$set": {"read": "query"}, "$push": {"containers": another}}
                await old[SETTINGS].update_one({"_id": PHASES}, change)
                switched[0] = await old[SETTINGS].find_one({"_id": PHASES})

        slow: Any = Watched(old, before)
        await schema.migrate(slow)
        assert await schema.version(old) == VERSION
        if next(commands) <= overtaken:
            break
        assert await old[SETTINGS].find_one({"_id": PHASES}) == switched[0]
        assert "pending_of_authors" in await old["statuses"].index_information()
        await load(old, memory=addresses.mongodb is None, names=(SETTINGS, "statuses", VERSIONS_OF_3, "follows"))
    assert overtaken > 5


async def test_steps_are_taken_in_order_and_a_late_one_does_not_lower_the_version(old: Database) -> None:
    taken: list[str] = []

    async def first(database: Database) -> None:
        taken.append("first")
        if taken == ["first"]:
            await schema.migrate(database)  # another process takes all steps meanwhile

    async def second(database: Database) -> None:
        taken.append("second")
        assert await schema.version(database) == (2 if taken.count("second") == 1 else 3)

    steps = ((1, "first", first), (2, "second", second))
    with patch("app.stack.schema.STEPS", steps), patch("app.stack.schema.VERSION", 3):
        await schema.migrate(old)
    assert taken == ["first", "first", "second", "second"]


async def test_a_batch_is_bounded(old: Database) -> None:
    with patch("app.stack.schema.BATCH", 7):
        found = [await old["users"].find(batch).to_list(None) async for batch in schema._batches(old["users"])]
    assert [len(batch) for batch in found] == [7] * 7 + [1]
    assert len({user["_id"] for batch in found for user in batch}) == 50


async def test_a_newer_database_is_refused_and_left_alone(database: Database) -> None:
    await database[SETTINGS].insert_one({"_id": SCHEMA, "version": VERSION + 1})
    before = await state(database)
    with pytest.raises(SchemaTooNew, match=f"has schema version {VERSION + 1}, and this Feedlab knows .* {VERSION}: "):
        await schema.migrate(database)
    assert await state(database) == before


async def test_stand_ins_are_new(addresses: Addresses) -> None:
    async with connected(STAND_INS, Config(database=name())) as stack:
        assert await schema.version(stack.db) == VERSION


@pytest.mark.servers
def test_every_command_refuses_a_newer_database_in_one_line(servers: Addresses, tmp_path: Path) -> None:
    environment = by_url(servers, name())
    asyncio.run(mark(servers, environment["FEEDLAB_DATABASE"], VERSION + 1))
    for command in (["phases"], ["worker"], ["serve", "--port", "0"], ["serve", "--port", "0", "--demo"]):
        result = CliRunner().invoke(main, [*command, "--data", str(tmp_path)], env=environment)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        *_, line = result.stderr.splitlines()
        assert line.startswith(f"Error: the database '{environment['FEEDLAB_DATABASE']}' has schema version"), line
        assert "Traceback" not in result.output


@pytest.mark.servers
def test_doctor_shows_the_version(servers: Addresses, tmp_path: Path) -> None:
    environment = by_url(servers, name())

    def examined() -> tuple[int, dict[str, Any]]:
        result = CliRunner().invoke(main, ["doctor", "--json", "--data", str(tmp_path)], env=environment)
        return result.exit_code, json.loads(result.stdout)["servers"][0]

    code, found = examined()
    assert (code, found["state"], found["schema"]) == (0, "answers", None)
    asyncio.run(mark(servers, environment["FEEDLAB_DATABASE"], VERSION))
    code, found = examined()
    assert (code, found["schema"]) == (0, VERSION)
    asyncio.run(mark(servers, environment["FEEDLAB_DATABASE"], VERSION + 1))
    code, found = examined()
    assert (code, found["state"], found["schema"]) == (1, "too new", VERSION + 1)
    assert "use the Feedlab that has migrated it" in found["advice"]


def by_url(servers: Addresses, database: str) -> dict[str, str]:
    assert servers.mongodb
    assert servers.redis
    assert servers.memcached
    urls = {"MONGODB_URL": servers.mongodb, "REDIS_URL": servers.redis, "MEMCACHED": ",".join(servers.memcached)}
    return {f"FEEDLAB_{name}": value for name, value in (urls | {"DATABASE": database}).items()}


async def mark(servers: Addresses, database: str, version: int) -> None:
    assert servers.mongodb
    found = connect(servers.mongodb, database, 5.0)
    await found[SETTINGS].update_one({"_id": SCHEMA}, {"$set": {"version": version}}, upsert=True)
    await disconnect(found)


@pytest.mark.servers
async def test_every_phase_shows_the_pages_of_before(servers: Addresses) -> None:
    clock, config = ManualClock(dump()["now"]), Config(database=name(), demo=True)
    assert servers.mongodb
    database = connect(servers.mongodb, config.database, config.server_timeout_s)
    try:
        await load(database, memory=False)
        before = await kept_now(database)
        async with connected(servers, config, clock) as stack:
            timelines = await Timelines.open(stack)
            entries = KEPT["entries"]
            assert (await kept_now(database))[entries] == before["entries"], "the entries of before are read"
            for grace in (0, config.grace_s + 2):  # without lists, and with new ones on these servers
                clock.advance(grace)
                for phase in ALL_PHASES:
                    for reader, ids in dump()["pages"].items():
                        for _ in ("cold", "warm"):
                            assert await walk(timelines, ObjectId(reader), phase.slug) == ids, (phase.slug, reader)
    finally:
        await database.client.drop_database(config.database)
        await disconnect(database)


@pytest.mark.servers
async def test_a_rolling_restart(servers: Addresses) -> None:
    """A web process of the version before serves and posts while a newer one migrates, and after that, until it ends.

    What afb9210 stored is there; the newer version is one more step than ours, as docs/upgrading.md wants them.
    """
    clock, config = ManualClock(dump()["now"]), Config(database=name(), demo=True)
    assert servers.mongodb
    database = connect(servers.mongodb, config.database, config.server_timeout_s)
    posted, batches = count(1), count()

    async def same_pages(*processes: Timelines) -> None:
        told = {"user_id": {"$ne": NOBODY}}  # no versions of readers
        documents = {each: await database[each].find(told).to_list(None) for each in ("statuses", "follows", "circles")}
        oracle: Oracle[ObjectId] = Oracle.of(**documents, blocks=await database["blocks"].find({}).to_list(None))
        for timelines in processes:
            for phase in ALL_PHASES:
                assert await walk(timelines, reader, phase.slug) == oracle.timeline(reader), phase.slug

    async def post(stack: Stack, timelines: Timelines) -> None:
        clock.advance(1)
        await Statuses(stack, timelines.outbox).post(author, f"posted {next(posted)}", "followers")

    async def step(_: Database) -> None:
        """It writes what older programs leave alone, batch by batch, and the older process goes on in between."""
        async for batch in schema._batches(database["statuses"]):
            await database["statuses"].update_many(
                {**batch, "words": None}, [{"$set": {"words": {"$strLenCP": "$text"}}}]
            )
            if next(batches) < 3:
                await post(old_stack, older)
                await same_pages(older)

    try:
        await load(database, memory=False)
        reader = ObjectId(max(dump()["pages"], key=lambda reader: len(dump()["pages"][reader])))
        edge = await database["follows"].find_one({"follower": reader})
        assert edge
        author = edge["followee"]
        async with connected(servers, config, clock) as old_stack:
            older = await Timelines.open(old_stack)
            clock.advance(config.grace_s + 2)
            await same_pages(older)
            newer_steps = (*STEPS, (VERSION, "statuses have their length", step))
            with patch.object(schema, "STEPS", newer_steps), patch.object(schema, "VERSION", VERSION + 1):
                with patch.object(schema, "BATCH", len(dump()["collections"]["statuses"]["documents"]) // 3):
                    await schema.migrate(database)
                async with connected(servers, config, clock) as new_stack:
                    newer = await Timelines.open(new_stack)
                    for stack, timelines in ((old_stack, older), (new_stack, newer)):
                        await post(stack, timelines)
                        await same_pages(older, newer)
            assert next(batches) > 3
            with pytest.raises(SchemaTooNew):
                async with connected(servers, config, clock):
                    pass
            await same_pages(older)
    finally:
        await database.client.drop_database(config.database)
        await disconnect(database)


async def kept_now(database: Database) -> dict[str, ObjectId]:
    """Since when each kind of thing has been kept that is read now."""
    phases = await database[SETTINGS].find_one({"_id": PHASES})
    assert phases
    return {c.get("kept") or c["store"]: c["since"] for c in phases["containers"] if c["until"] is None}


async def walk(timelines: Timelines, reader: ObjectId, phase: str) -> list[ObjectId]:
    ids: list[ObjectId] = []
    before: ObjectId | None = None
    while True:
        page = await timelines.page(reader, phase=phase, before=before, limit=20)
        ids += [status.id for status in page.statuses]
        if (before := page.next) is None:
            return ids
