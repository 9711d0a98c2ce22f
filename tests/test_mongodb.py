"""MongoDB at awkward moments: collections that come and go, a majority that cannot be asked."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import count, islice
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import AsyncMock, Mock, patch
from urllib.parse import quote

import pytest
from bson import ObjectId
from bson.codec_options import DatetimeConversion
from PIL import Image
from pymongo import MongoClient, ReadPreference
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.monitoring import CommandStartedEvent
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from app.accounts import Accounts
from app.config import DAY_S, Config
from app.edges import MARKERS, NAMES, VERSIONS, change_edges, new_versions, raise_version, version_key
from app.errors import Conflict, NotFound
from app.inbox.pictures import Pictures
from app.models import DOCUMENTS
from app.servers.commands import HISTORY_S
from app.stack import Addresses, connected
from app.stack.cost import counted
from app.stack.mongodb import find
from app.stack.mongodb.connection import (
    POOL_SIZE,
    Collection,
    Database,
    Direct,
    Unsuitable,
    _CommandCounter,
    connect,
    direct,
    disconnect,
)
from app.stack.mongodb.find import (
    ANOTHER_SNAPSHOT,
    PAUSES_S,
    SNAPSHOT_UNAVAILABLE,
    Find,
    NoSnapshot,
    Rows,
    dated,
    rows,
    together,
)
from app.stack.mongodb.joined import joined
from app.stack.mongodb.transaction import Transaction, transaction
from app.stack.mongodb.whole import WINDOW, blocking
from app.stack.mongodb.write import (
    DUPLICATE_KEY,
    create_clustered,
    housekeeping,
    insert_missing,
    insert_with_new_id,
    prepare,
    unless_there,
)
from app.stack.outage import UNAVAILABLE, is_away, said_by_a_driver
from tests.dates import NOON, ManualClock
from tests.failing import failing, replica_set_with_failpoints
from tests.world import World, commands_sent

pytestmark = pytest.mark.anyio
STEPPING_DOWN = {"code": 11602, "errmsg": "operation was interrupted"}


def test_an_outage_names_servers_that_have_said_nothing_yet() -> None:
    with (
        TemporaryDirectory() as directory,  # the path of a socket has 100 characters, which pytest's may not leave
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.socket(socket.AF_UNIX) as local,
    ):
        path = f"{directory}/silent.sock"
        port = silent.getsockname()[1]
        local.bind(path)
        local.listen()
        hosts = f"127.0.0.1:{port},{quote(path, safe='')}"
        with (
            MongoClient[Any](f"mongodb://{hosts}/", serverSelectionTimeoutMS=1) as client,
            pytest.raises(ServerSelectionTimeoutError) as raised,
        ):
            client.admin.command("ping")
    assert said_by_a_driver(raised.value) == f"MongoDB: {path}, 127.0.0.1:{port}: No servers found yet"


@pytest.mark.parametrize(
    "options",
    [
        "readPreference=secondaryPreferred&readPreferenceTags=region:far&maxStalenessSeconds=120",
        "readConcernLevel=linearizable",
        "retryReads=false&retryWrites=false",
        "w=1&wtimeoutMS=1&journal=false",
        "tz_aware=false",
        "datetime_conversion=DATETIME_MS",
    ],
)
async def test_a_url_takes_no_promise_back(options: str) -> None:
    """That a page has what was acknowledged before, that an election goes unnoticed, and that a time is one."""
    url = f"mongodb://127.0.0.1:9/?{options}"
    database = connect(url, "test", 1.0)
    of_motor, of_pymongo = database["statuses"], direct(database).in_transactions("statuses")
    with blocking(url, "test") as of_a_backup:
        collections: list[Any] = [of_motor, of_pymongo, of_a_backup["statuses"]]
    for collection in collections:
        assert collection.read_preference == ReadPreference.PRIMARY
        assert collection.read_concern == ReadConcern()
        assert collection.codec_options.tz_aware
        assert collection.codec_options.datetime_conversion == DatetimeConversion.DATETIME
        known: Any = collection.database.client.options  # which transactions go by
        assert (known.read_preference, known.retry_reads, known.retry_writes) == (ReadPreference.PRIMARY, True, True)
    assert of_motor.write_concern == WriteConcern("majority")
    await disconnect(database)


@pytest.mark.servers
async def test_a_collection_that_is_being_created_can_be_read(servers: Addresses) -> None:
    """MongoDB refuses a snapshot that is older than the collection, and asks for another try."""
    async with connected(servers, Config(database="test_snapshots")) as stack:
        busy = asyncio.create_task(_write(stack.db["other"]))
        try:
            for number in range(40):
                name = f"new_{number}"
                looks = {"other": Find("other", {}, ("_id",), 1), "new": Find(name, {}, ("_id",), 1)}
                _, reads = await asyncio.gather(
                    create_clustered(stack.db, name),
                    asyncio.gather(*(together(stack.db, **looks) for _ in "12345")),
                )
                assert all(read["new"] == [] for read in reads)
        finally:
            busy.cancel()
            with suppress(asyncio.CancelledError):
                await busy
            await stack.db.client.drop_database("test_snapshots")


@pytest.mark.servers
async def test_mongodb_dates_what_is_read_and_what_is_stored_by_one_clock(servers: Addresses) -> None:
    """What a dated answer has was stored by then, and what it has not is stored later."""
    async with connected(servers, Config(database="test_dated")) as stack:
        database = direct(stack.db)
        find = Find("dated", {}, ("_id",), 100)
        try:
            await database.insert("dated", {"_id": -1})
            for n in range(20):
                told = await database.insert("dated", {"_id": n})
                found, as_of = await dated(stack.db, find)
                later = await database.insert("dated", {"_id": 100 + n})
                await stack.db["dated"].delete_one({"_id": 100 + n})
                assert {"_id": n} in found
                assert {"_id": 100 + n} not in found
                assert as_of
                assert told <= as_of < later
        finally:
            await stack.db.client.drop_database("test_dated")


@pytest.mark.servers
async def test_housekeeping_may_take_longer_than_a_request(servers: Addresses) -> None:
    slow = {"$where": "sleep(3000) || true"}
    async with connected(servers, Config(database="test_slow", server_timeout_s=2)) as stack:
        try:
            await stack.db["statuses"].insert_one({"_id": ObjectId(), "idempotency_key": "one"})
            with pytest.raises(PyMongoError) as late:
                await stack.db["statuses"].find_one(slow)
            assert late.value.timeout
            with housekeeping():
                assert await stack.db["statuses"].find_one(slow)
        finally:
            await stack.db.client.drop_database("test_slow")


async def test_every_index_that_a_document_names_is_there(world: World) -> None:
    """Two on the same fields in another order are two."""
    for document in DOCUMENTS:
        found = await world.stack.db[document.Settings.name].index_information()
        for index in document.Settings.indexes:
            there = found[index.document["name"]]
            assert list(there["key"]) == list(index.document["key"].items())
            assert bool(there.get("unique")) == bool(index.document.get("unique"))


@pytest.mark.servers
async def test_an_index_is_waited_for_however_long_it_takes(servers: Addresses) -> None:
    """What is given up MongoDB undoes, and a member that is away holds it up, unless it is told otherwise."""
    sent: list[dict[str, Any]] = []

    def note(_: object, event: CommandStartedEvent) -> None:
        if event.command_name == "createIndexes":
            sent.append(dict(event.command))

    with patch.object(_CommandCounter, "started", note):
        async with connected(servers, Config(database="test_indexes")) as stack:
            await stack.db.client.drop_database("test_indexes")
    assert len(sent) == sum(bool(document.Settings.indexes) for document in DOCUMENTS)
    for command in sent:
        assert command["commitQuorum"] == "majority"
        assert command["maxTimeMS"] > 1_000 * DAY_S


async def test_a_transaction_comes_before_or_after_another_one(world: World) -> None:
    """Both count, none is lost, and what was refused in the middle has left nothing behind."""
    ids = [NAMES, MARKERS]  # whose versions count

    async def insert(inside: Transaction) -> None:
        await inside["blocks"].find_or_insert({"blocker": ids[0], "blocked": ids[1]}, {"_id": ObjectId()})

    await asyncio.gather(*(change_edges(world.stack.db, ids, insert) for _ in range(8)))
    assert await world.stack.db["blocks"].count_documents({"blocker": ids[0]}) == 1
    for id in ids:
        version = await world.stack.db[VERSIONS].find_one(version_key(id))
        assert version
        assert version["version"] == 8


@pytest.mark.servers
async def test_a_transaction_that_somebody_else_holds_up_gives_up(servers: Addresses) -> None:
    async with connected(servers, Config(database="test_transactions")) as stack:
        id, began, goes_on = NAMES, asyncio.Event(), asyncio.Event()

        async def hang(_: Transaction) -> None:
            began.set()
            await goes_on.wait()

        async def nothing(_: Transaction) -> None: ...

        dying = asyncio.create_task(change_edges(stack.db, [id], hang))
        await began.wait()
        try:
            # whose time is over first, the driver's or ours, is the machine's affair: callers know both as UNAVAILABLE
            with patch("app.stack.mongodb.transaction.TRANSACTION_S", 0.05), pytest.raises(UNAVAILABLE):
                await change_edges(stack.db, [id], nothing)
            dying.cancel()
            await asyncio.wait([dying])
            goes_on.set()  # nobody waits for it any more, and it is made to its end
            await change_edges(stack.db, [id], nothing)
            version = await stack.db[VERSIONS].find_one(version_key(id))
            assert version == {**version_key(id), **new_versions(id), "version": 2}
        finally:
            goes_on.set()
            await stack.db.client.drop_database("test_transactions")


@pytest.mark.servers
@pytest.mark.parametrize("refuses", [True, False])
async def test_a_transaction_whose_time_is_over_holds_nothing_up(servers: Addresses, refuses: bool) -> None:
    """It is ended at once, and not by MongoDB after the time that this gives to those of killed processes."""
    limit_s = 0.5

    async def slow(_: Transaction) -> None:
        await asyncio.sleep(limit_s)
        if refuses:
            raise NotFound("too late")

    async def nothing(_: Transaction) -> None: ...

    async with connected(servers, Config(database="test_time_over")) as stack:
        with patch("app.stack.mongodb.transaction.TRANSACTION_S", limit_s), suppress(NotFound):
            await change_edges(stack.db, [NAMES], slow)
        with patch("app.stack.mongodb.transaction.TRANSACTION_S", 2.0):
            await change_edges(stack.db, [NAMES], nothing)
        version = await stack.db[VERSIONS].find_one(version_key(NAMES))
        assert version == {**version_key(NAMES), **new_versions(NAMES), "version": 1 if refuses else 2}
        await stack.db.client.drop_database("test_time_over")


@pytest.mark.servers
@pytest.mark.parametrize("is_cold", [True, False])
async def test_of_a_transaction_whose_caller_gives_up_all_is_done_or_nothing(servers: Addresses, is_cold: bool) -> None:
    """Whenever that is, also while a command of it waits for its connection; and it holds nothing up afterwards."""
    rng, at_once, all_ids = random.Random(1), 16, count()
    async with connected(servers, Config(database="test_given_up_inside")) as stack:
        one, two = stack.db["blocks"], stack.db["circles"]
        await prepare(stack.db)

        async def both(id: int, inside: Transaction) -> None:
            await inside["blocks"].insert_one({"_id": id, "blocker": id, "blocked": id})
            await inside["circles"].insert_one({"_id": id, "owner": id, "member": id})

        async def given_up(database: Database, id: int) -> None:
            asked = asyncio.create_task(transaction(database, partial(both, id)))
            await asyncio.sleep(rng.uniform(0, 0.012))
            asked.cancel()
            await asyncio.wait([asked])

        for _ in range(20):
            database, ids = connect(str(servers.mongodb), "test_given_up_inside", 5.0), [*islice(all_ids, at_once)]
            if not is_cold:
                await asyncio.gather(*(rows(database, Find("blocks", {"_id": id}, ("_id",), 1)) for id in ids))
            await asyncio.gather(*(given_up(database, id) for id in ids))
            await disconnect(database)
            made = {row["_id"] for row in await one.find().to_list(None)}
            assert made == {row["_id"] for row in await two.find().to_list(None)}
            for id in set(ids) - made:
                await transaction(stack.db, partial(both, id))
        await stack.db.client.drop_database("test_given_up_inside")


async def _write(collection: Collection) -> None:
    """Keeps the majority busy."""
    for number in count():
        await collection.insert_one({"_id": number})


async def _interrupted(*_: object) -> None:
    """The answer to an insert that arrives while the primary steps down."""
    unless_there({"writeErrors": [{"code": DUPLICATE_KEY}], "writeConcernError": STEPPING_DOWN})


async def test_entries_that_may_not_be_with_a_majority_are_delivered_again(world: World) -> None:
    """A poster is not told of a fault of ours, and a job is not failed by it: the delivery stays pending."""
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    with patch("phases.keeping.entries.insert_missing", _interrupted):
        await world.post("zoe", "stored")
    assert (await world.pending())["push"] == 1
    await world.sees("ann", "stored")
    await world.sweep()
    await world.drain()
    assert (await world.pending())["push"] == 0
    await world.sees("ann", "stored")


def refused(*codes: int) -> dict[str, Any]:
    """The reply to an insert of as many documents."""
    return {"n": 0, "writeErrors": [{"index": n, "code": code, "errmsg": "refused"} for n, code in enumerate(codes)]}


@pytest.mark.parametrize("code", [91, 189, 10107, 11600, 11602, 13435, 13436])
async def test_documents_that_find_no_primary_are_inserted_once_more(code: int) -> None:
    """By a router, which says it of each document."""
    documents, there = [{"_id": 1}, {"_id": 2}], refused(DUPLICATE_KEY)

    async def inserted(*replies: dict[str, Any]) -> None:
        router = Mock(command=AsyncMock(side_effect=replies))
        await insert_missing(router, "entries", documents)

    await inserted(refused(DUPLICATE_KEY, code), there)
    with pytest.raises(UNAVAILABLE):
        await inserted(refused(code, code), refused(DUPLICATE_KEY, code))
    with pytest.raises(BulkWriteError):
        await inserted(refused(code, 121))


@pytest.fixture(scope="module")
def failpoints(servers: Addresses) -> Iterator[Addresses]:
    """These servers, but for a MongoDB of which `failing` may ask anything."""
    with replica_set_with_failpoints(1) as (one, _):
        yield replace(servers, mongodb=one.url)


@asynccontextmanager
async def town(addresses: Addresses, database: str) -> AsyncIterator[World]:
    async with connected(addresses, Config(database=database), clock := ManualClock(NOON)) as stack:
        world = await World.open(stack, clock)
        await world.sign_up("zoe")
        yield world
        await stack.db.client.drop_database(database)


@pytest.mark.servers
async def test_what_no_majority_had_is_in_nobodys_way(servers: Addresses) -> None:
    """A primary that steps down still says that it is there, and the next one has never heard of it."""
    async with town(servers, "test_taken_back") as world:
        zoe, pictures = world.ids["zoe"], Pictures(world.stack)
        _, upload = await pictures.address(zoe, "image/png", 1)
        there = {"code": DUPLICATE_KEY, "errmsg": "it is there", "keyPattern": {"idempotency_key": 1}}
        replies = iter([{"n": 0, "writeErrors": [there], "writeConcernError": STEPPING_DOWN}])
        command = Direct.command

        async def asked(self: Direct, sent: dict[str, Any]) -> dict[str, Any]:
            return next(replies, None) or await command(self, sent)

        stepping_down = patch.object(Direct, "insert", side_effect=DuplicateKeyError("it is there", DUPLICATE_KEY))
        with patch.object(Direct, "command", asked):
            status, created = await world.statuses.post(zoe, "hello", idempotency_key="k")
        assert (created, await world.walk("zoe", "query")) == (True, ["hello"])
        assert await world.statuses.post(zoe, "hello", idempotency_key="k") == (status, False)
        with stepping_down:
            await pictures.store(upload, png())
        assert (await pictures.picture(zoe, upload.id)).type == "image/png"
        with stepping_down:
            ann = await Accounts(world.stack).sign_up("ann", None, "a long password")
        assert await world.people.by_handle("ann") == ann


@pytest.mark.servers
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_status_is_stored_once_however_its_insert_is_answered(failpoints: Addresses, key: str | None) -> None:
    """The connection breaks before MongoDB has heard of it or after, or the primary says that it steps down."""
    command, answers = Direct.command, iter([AutoReconnect("the connection is closed")])

    async def answer_is_lost(self: Direct, sent: dict[str, Any]) -> dict[str, Any]:
        answer = await command(self, sent)
        if lost := next(answers, None):
            raise lost
        return answer

    async with town(failpoints, "test_once") as world:
        zoe, url = world.ids["zoe"], str(failpoints.mongodb)
        breaks: list[AbstractContextManager[object]] = [
            failing(url, "insert", times=1, closeConnection=True),
            failing(url, "insert", times=1, errorCode=11602),
            failing(url, "insert", times=1, errorCode=6),
            failing(url, "insert", times=1, writeConcernError=STEPPING_DOWN),
            patch.object(Direct, "command", answer_is_lost),
        ]
        for n, broken in enumerate(breaks):
            with broken:
                status, created = await world.statuses.post(zoe, str(n), idempotency_key=key and f"{key}{n}")
            assert created
            if key:
                assert await world.statuses.post(zoe, str(n), idempotency_key=f"{key}{n}") == (status, False)
        assert await world.walk("zoe", "query") == ["4", "3", "2", "1", "0"]


@pytest.mark.servers
async def test_a_status_whose_key_is_taken_is_inserted_no_second_time(servers: Addresses) -> None:
    async with town(servers, "test_taken") as world:
        status = {"_id": ObjectId(), "idempotency_key": "k"}
        await insert_with_new_id(world.stack.db, "statuses", status)
        sent_before = commands_sent("mongodb")
        with counted() as cost, pytest.raises(DuplicateKeyError):
            await insert_with_new_id(world.stack.db, "statuses", {**status, "_id": ObjectId()})
        assert (commands_sent("mongodb") - sent_before, cost.mongodb) == (1, 1)


@pytest.mark.servers
async def test_both_tries_of_a_status_have_one_time_limit(failpoints: Addresses) -> None:
    """The time is over in the second, whose connection would be closed later."""
    breaks_late = {"blockConnection": True, "blockTimeMS": 1_200, "closeConnection": True}
    async with connected(failpoints, Config(database="test_limited", server_timeout_s=2)) as stack:
        with failing(str(failpoints.mongodb), "insert", times=2, **breaks_late), pytest.raises(UNAVAILABLE) as late:
            await insert_with_new_id(stack.db, "statuses", {"_id": ObjectId()})
        assert isinstance(late.value, PyMongoError)
        assert late.value.timeout
        await stack.db.client.drop_database("test_limited")


@pytest.mark.servers
async def test_a_status_is_stored_though_its_poster_goes_before_the_connection_breaks(failpoints: Addresses) -> None:
    breaks_late = {"blockConnection": True, "blockTimeMS": 400, "closeConnection": True}
    begun, command = asyncio.Event(), Direct.command

    async def asked(self: Direct, sent: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        return await command(self, sent)

    async with connected(failpoints, Config(database="test_gone")) as stack:
        database, status = connect(str(failpoints.mongodb), "test_gone", 5.0), {"_id": ObjectId()}
        with failing(str(failpoints.mongodb), "insert", times=1, **breaks_late), patch.object(Direct, "command", asked):
            posting = asyncio.create_task(insert_with_new_id(database, "statuses", status))
            await begun.wait()
            posting.cancel()
            await asyncio.wait([posting])
            await disconnect(database)  # after what is under way
        assert posting.cancelled()
        assert await stack.db["statuses"].find_one() == status
        await stack.db.client.drop_database("test_gone")


@pytest.mark.servers
async def test_a_status_that_no_majority_may_have_is_not_acknowledged(failpoints: Addresses) -> None:
    async with town(failpoints, "test_unsure_at_first") as world:
        with failing(str(failpoints.mongodb), "insert", writeConcernError=STEPPING_DOWN), pytest.raises(UNAVAILABLE):
            await world.statuses.post(world.ids["zoe"], "hello")


@pytest.mark.servers
async def test_a_repeat_of_what_no_majority_may_have_is_an_outage(failpoints: Addresses) -> None:
    """Neither is it done nor refused, nor is anybody signed out."""
    async with town(failpoints, "test_unsure") as world:
        zoe, pictures = world.ids["zoe"], Pictures(world.stack)
        _, upload = await pictures.address(zoe, "image/png", 1)
        status, _ = await world.statuses.post(zoe, "hello", idempotency_key="k")
        await pictures.store(upload, png())
        with failing(str(failpoints.mongodb), "insert", writeConcernError=STEPPING_DOWN):
            with pytest.raises(UNAVAILABLE):
                await world.statuses.post(zoe, "hello", idempotency_key="k")
            with pytest.raises(UNAVAILABLE):
                await pictures.store(upload, png())
        assert await world.statuses.post(zoe, "hello", idempotency_key="k") == (status, False)
        with pytest.raises(Conflict):
            await pictures.store(upload, png())


def png() -> bytes:
    made = BytesIO()
    Image.new("RGB", (1, 1)).save(made, "PNG")
    return made.getvalue()


@pytest.mark.servers
async def test_what_one_request_looks_up_at_once_is_one_command(servers: Addresses) -> None:
    """And each is answered: also when another gives up, and when there is nothing to join."""
    config = Config(database=f"joined_{ObjectId()}")
    async with connected(servers, config) as stack:
        try:
            db = stack.db
            await db["people"].insert_many([{"_id": n, "name": str(n)} for n in range(3)])
            await db.command("profile", 2)

            async def name(n: int) -> Rows:
                return await rows(db, Find("people", {"_id": n}, ("name",), 1))

            sent_before = commands_sent("mongodb")
            with joined(), counted() as cost:
                given_up = asyncio.create_task(name(0))
                first, second = asyncio.create_task(name(1)), asyncio.create_task(name(2))
                await asyncio.sleep(0)
                given_up.cancel()
                assert [await first, await second] == [[{"name": "1"}], [{"name": "2"}]]
                assert await name(0) == [{"name": "0"}]
            metric = commands_sent("mongodb") - sent_before
            await db.command("profile", 0)
            sent = await db["system.profile"].count_documents({"ns": f"{config.database}.people"})
            assert (sent, metric, cost.mongodb) == (2, 2, 4)
        finally:
            await stack.db.client.drop_database(config.database)


@pytest.mark.servers
@pytest.mark.parametrize(("look_ups", "sent"), [(1, 1), (5, 3)])
async def test_a_command_that_several_requests_share_is_sent_once(servers: Addresses, look_ups: int, sent: int) -> None:
    """And is part of the cost of each: what a request costs does not depend on who else is there. The first goes alone;
    of the others half a command each, so that there is something to do while MongoDB answers.
    """
    async with connected(servers, Config(database="test_sharing")) as stack:
        finds = [{"person": Find("people", {"_id": {"$in": [n]}}, ("_id",), 1, by="_id")} for n in range(look_ups)]
        sent_before = commands_sent("mongodb")
        with counted() as cost:
            await asyncio.gather(*(together(stack.db, **find) for find in finds))
        assert (commands_sent("mongodb") - sent_before, cost.mongodb) == (sent, look_ups)


BROKEN: Any = {"closeConnection": True}
NEW_PRIMARY = {"errorCode": 10107}
SHARD_AWAY = {"errorCode": 6}
BAD_QUERY = {"errorCode": 2}


@pytest.mark.servers
@pytest.mark.parametrize("how", [BROKEN, NEW_PRIMARY, SHARD_AWAY])
async def test_a_read_is_asked_again_where_a_connection_breaks_or_the_primary_changes(
    failpoints: Addresses, how: dict[str, Any]
) -> None:
    async with connected(failpoints, Config(database="test_asked_again")) as stack:
        await stack.db["people"].replace_one({"_id": 1}, {}, upsert=True)
        with failing(str(failpoints.mongodb), "find", times=2, **how):
            assert await rows(stack.db, Find("people", {}, ("_id",), 1)) == [{"_id": 1}]


@pytest.mark.servers
@pytest.mark.parametrize(("how", "error"), [(BAD_QUERY, OperationFailure), ({**BROKEN, "times": None}, UNAVAILABLE)])
async def test_a_read_that_cannot_be_answered_says_so(failpoints: Addresses, how: dict[str, Any], error: Any) -> None:
    """At once where it would do no good to ask again, or after the time-out."""
    config = Config(database="test_not_answered", server_timeout_s=1)
    async with connected(failpoints, config) as stack:
        with failing(str(failpoints.mongodb), "find", **{"times": 1, **how}), pytest.raises(error):
            await rows(stack.db, Find("people", {}, ("_id",), 1))


@pytest.mark.servers
@pytest.mark.parametrize("how", [NEW_PRIMARY, SHARD_AWAY])
async def test_who_refuses_at_once_is_asked_a_few_times_and_not_without_pause(
    failpoints: Addresses, how: dict[str, Any]
) -> None:
    """Else one look-up is a thousand commands, and those of all who read take the processor from everybody."""
    async with connected(failpoints, Config(database="test_refused", server_timeout_s=1)) as stack:
        command = AsyncDatabase.command
        with (
            failing(str(failpoints.mongodb), "find", **how),
            patch.object(AsyncDatabase, "command", autospec=True, side_effect=command) as asked,
            pytest.raises(PyMongoError) as told,
        ):
            await rows(stack.db, Find("people", {}, ("_id",), 1))
        assert 1 < asked.call_count < 20
        assert is_away(told.value)
        assert not told.value.timeout, "it says what MongoDB has said"


@pytest.mark.servers
async def test_one_member_of_several_is_not_asked_alone(servers: Addresses) -> None:
    """It would answer after an election, too, without what the new primary has been told."""
    with replica_set_with_failpoints(2) as (two, _):
        one = f"{two.url.partition(',')[0]}/?directConnection=true"
        with pytest.raises(Unsuitable, match=r"directConnection=true.+replicaSet=three"):
            async with connected(replace(servers, mongodb=one), Config(database="test_one_of_two")):
                pass
        async with connected(replace(servers, mongodb=two.url), Config(database="test_one_of_two")):
            pass


@pytest.mark.servers
@pytest.mark.parametrize("code", sorted(ANOTHER_SNAPSHOT))
async def test_a_look_up_that_is_sent_again_is_asked_for_once(servers: Addresses, code: int) -> None:
    refused = OperationFailure("another snapshot would do", code)
    answers = [refused, refused, {"firstBatch": []}]
    async with connected(servers, Config(database="test_sent_again")) as stack:
        sent_before = commands_sent("mongodb")
        with counted() as cost, patch.object(Direct, "read", AsyncMock(side_effect=answers)):
            assert await rows(stack.db, Find("people", {}, ("_id",), 1)) == []
        assert (commands_sent("mongodb") - sent_before, cost.mongodb) == (3, 1)


@pytest.mark.servers
async def test_a_look_up_waits_between_its_tries_and_not_after_the_last(servers: Addresses) -> None:
    done: list[str | float] = []

    async def refuses(*_: object) -> None:
        done.append("asked")
        raise OperationFailure("another snapshot would do", SNAPSHOT_UNAVAILABLE)

    async def sleeps(seconds: float) -> None:
        done.append(seconds)

    async with connected(servers, Config(database="test_tries")) as stack:
        with (
            patch.object(Direct, "read", refuses),
            patch.object(find, "asyncio", Mock(sleep=sleeps)),
            pytest.raises(NoSnapshot),
        ):
            await rows(stack.db, Find("people", {}, ("_id",), 1))
    assert done == ["asked", *(step for pause_s in PAUSES_S for step in (pause_s, "asked"))]


@pytest.mark.servers
async def test_a_snapshot_may_be_dropped_while_it_is_read(servers: Addresses) -> None:
    """It is where nothing was written for longer than MongoDB keeps history, and then something is."""
    async with connected(servers, Config(database="test_dropped")) as stack:
        finds = {name: Find(name, {"_id": {"$in": [1]}}, ("_id",), 1, by="_id") for name in ("a", "b", "c", "d")}
        for name in finds:
            await stack.db[name].insert_one({"_id": 1})
        admin, refused = stack.db.client.admin, 0.0

        async def read() -> None:
            nonlocal refused
            while not refused:
                before = commands_sent("mongodb")
                assert all(found == [{"_id": 1}] for found in (await together(stack.db, **finds)).values())
                refused += commands_sent("mongodb") - before - 1

        async def write() -> None:
            while not refused:
                await direct(stack.db).insert("written", {})

        await admin.command({"setParameter": 1, WINDOW: 0})
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(read(), *(write() for _ in range(3)))
        finally:
            await admin.command({"setParameter": 1, WINDOW: HISTORY_S})
            await stack.db.client.drop_database("test_dropped")


@pytest.mark.servers
async def test_whoever_gives_up_a_look_up_takes_no_place_from_others(servers: Addresses) -> None:
    async with connected(servers, Config(database="test_given_up")) as stack:
        slow = Find("settings", {"$where": "sleep(50) || true"}, ("_id",), 1)
        for _ in range(3):
            asked = [asyncio.create_task(rows(stack.db, slow)) for _ in range(2 * POOL_SIZE)]
            await asyncio.sleep(0.01)
            for task in asked:
                task.cancel()
                task.cancel()
            await asyncio.wait(asked)
        async with asyncio.timeout(60):
            assert await rows(stack.db, Find("settings", {"_id": "none"}, ("_id",), 1)) == []
        await stack.db.client.drop_database("test_given_up")


@pytest.mark.servers
async def test_several_may_be_the_first_to_raise_a_version(servers: Addresses) -> None:
    async with connected(servers, Config(database="test_first_version")) as stack:
        for _ in range(40):
            nobody = ObjectId()
            await asyncio.gather(*(raise_version(stack.db, nobody) for _ in range(8)))
            assert await stack.db[VERSIONS].count_documents(version_key(nobody)) == 1
        await stack.db.client.drop_database("test_first_version")


@pytest.mark.servers
async def test_an_index_may_take_longer_to_make_than_a_request_may_wait(servers: Addresses) -> None:
    """It waits for a transaction on its collection."""
    assert servers.mongodb
    limit_s = 2.0
    async with connected(servers, Config(database="test_long_index")) as stack:
        hurried = connect(servers.mongodb, "test_long_index", limit_s)
        try:
            await stack.db["statuses"].drop_index("pending_of_authors")
            async with await stack.db.client.start_session() as session, session.start_transaction():
                await stack.db["statuses"].insert_one({"idempotency_key": "one"}, session=session)
                preparing = asyncio.create_task(prepare(hurried))
                await asyncio.sleep(1.5 * limit_s)
            await preparing
            assert "pending_of_authors" in await stack.db["statuses"].index_information()
        finally:
            await disconnect(hurried)
            await stack.db.client.drop_database("test_long_index")
