"""The change stream of a real MongoDB, and who follows it."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from app.clock import Clock
from app.config import Config
from app.models import User
from app.servers.commands import address
from app.servers.replica import replica_set
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.stack import Addresses, Stack, connected
from app.stack.mongodb.changes import HistoryLost, inserts
from app.stack.mongodb.connection import direct
from app.stack.outage import UNAVAILABLE
from phases.p5_stream import STREAM
from phases.timelines import Timelines
from tests.failing import replica_set_with_failpoints
from tests.waiting import eventually
from workers import tailer
from workers.tailer import Tailer, stream_state
from workers.worker import run_in_thread

pytestmark = [pytest.mark.anyio, pytest.mark.servers]
P = STREAM.slug
_databases = count(1)


@pytest.fixture
async def stack(servers: Addresses) -> AsyncIterator[Stack]:
    config = Config(database=f"followed_{next(_databases)}", list_chunk=4, grace_s=1.0)
    async with connected(servers, config, Clock()) as stack:
        yield stack
        await stack.db.client.drop_database(config.database)


@pytest.fixture
async def timelines(stack: Stack) -> Timelines:
    """Only phase 5 delivers."""
    timelines = await Timelines.open(stack)
    await timelines.change(read=P, delivering=[P])
    await eventually(lambda: readable(timelines))
    return timelines


async def readable(timelines: Timelines) -> bool:
    return timelines.switch.readable(await timelines.switch.fresh(), STREAM.keeps or "") is not None


async def delivered(timelines: Timelines) -> bool:
    return not await timelines.outbox.count(P)


async def person(stack: Stack, handle: str) -> ObjectId:
    user = User(id=stack.clock.new_id(), handle=handle, name=handle, created_at=stack.clock.now())
    await user.insert()
    return user.id


async def post(timelines: Timelines, author: ObjectId, text: str) -> ObjectId:
    status, _ = await Statuses(timelines.stack, timelines.outbox).post(author, text)
    return status.id


async def lease(stack: Stack) -> dict[str, Any]:
    return await stack.db["settings"].find_one({"_id": tailer.DOCUMENT}) or {}


@asynccontextmanager
async def following(timelines: Timelines) -> AsyncIterator[Tailer]:
    """In this process, and past its first look."""
    one = Tailer(timelines)
    task = asyncio.create_task(one.forever())

    async def begun() -> bool:
        return bool((await lease(timelines.stack)).get("place"))

    try:
        await eventually(begun)
        yield one
    finally:
        one.stopping.set()
        await task


async def test_an_insert_is_on_its_readers_sets_and_no_job_is_queued(timelines: Timelines) -> None:
    zoe = await person(timelines.stack, "zoe")
    await timelines.page(zoe)
    async with following(timelines):
        with patch.object(timelines.stack.queue, "offer", side_effect=AssertionError("nobody enqueues")):
            ids = [await post(timelines, zoe, str(n)) for n in range(5)]
            await eventually(lambda: delivered(timelines))
    kept = timelines.kept_by(P)
    assert kept
    assert [await kept.holds(zoe, id) for id in ids] == [True] * 5
    assert (await lease(timelines.stack))["owner"] is None, "whoever comes next need not wait"


async def test_further_steps_are_taken_by_any_worker(timelines: Timelines) -> None:
    zoe, *fans = [await person(timelines.stack, name) for name in ("zoe", *(f"fan{n}" for n in range(9)))]
    for fan in fans:
        await Relations(timelines.stack, timelines.outbox).follow(fan, zoe)
        await timelines.page(fan)
    async with run_in_thread(timelines):
        id = await post(timelines, zoe, "hello")
        await eventually(lambda: delivered(timelines))
    kept = timelines.kept_by(P)
    assert kept
    assert [await kept.holds(fan, id) for fan in fans] == [True] * 9


async def test_whoever_comes_next_goes_on_from_the_place_that_was_noted(timelines: Timelines) -> None:
    zoe = await person(timelines.stack, "zoe")
    async with following(timelines):
        await post(timelines, zoe, "first")
        await eventually(lambda: delivered(timelines))
    await post(timelines, zoe, "nobody follows")
    with patch.object(Tailer, "reconcile", side_effect=AssertionError("the stream knows it")):
        async with following(timelines):
            await eventually(lambda: delivered(timelines))


async def test_what_was_posted_before_anybody_followed_is_found(timelines: Timelines) -> None:
    await post(timelines, await person(timelines.stack, "zoe"), "early")
    async with following(timelines):
        await eventually(lambda: delivered(timelines))


async def test_a_lost_history_is_made_up_for(timelines: Timelines, caplog: pytest.LogCaptureFixture) -> None:
    """Error 286, for a place that the oplog does not reach back to."""
    zoe = await person(timelines.stack, "zoe")
    async with following(timelines):
        pass
    await post(timelines, zoe, "while nobody followed")
    with patch.object(direct(timelines.stack.db), "watch", history_lost(timelines)):
        async with following(timelines):
            await eventually(lambda: delivered(timelines))
            await post(timelines, zoe, "and since")
            await eventually(lambda: delivered(timelines))
    assert "looked for" in caplog.text


def history_lost(timelines: Timelines) -> Callable[..., Any]:
    watch = direct(timelines.stack.db).watch

    async def watching(*args: Any, resume_after: Any, **options: Any) -> Any:
        if resume_after:
            raise OperationFailure("Resume of change stream was not possible", 286)
        return await watch(*args, resume_after=resume_after, **options)

    return watching


@pytest.mark.parametrize("place", [{"_data": "82" + "00" * 30}, {"_data": "of another version"}])
async def test_a_place_that_means_nothing_is_a_lost_history(stack: Stack, place: dict[str, str]) -> None:
    with pytest.raises(HistoryLost):
        await inserts(stack.db, "statuses", {}, place).__aenter__()


@pytest.mark.parametrize("place", [None, {"_data": "82" + "00" * 30}])
async def test_what_is_wrong_with_more_than_the_place_keeps_its_own_words(
    stack: Stack, place: dict[str, str] | None
) -> None:
    with (
        patch.object(direct(stack.db), "watch", side_effect=OperationFailure("not authorized on feedlab", 13)),
        pytest.raises(OperationFailure, match="not authorized") as refused,
    ):
        await inserts(stack.db, "statuses", {}, place).__aenter__()
    assert refused.value.__cause__ is None, "an error is not its own cause"


async def test_a_dropped_collection_is_a_lost_history(stack: Stack) -> None:
    found: list[Any] = []

    async def until_it_ends() -> None:
        async with inserts(stack.db, "things", {"wanted": True}, None) as changed:
            await stack.db["things"].insert_one({"wanted": False})
            await stack.db["things"].insert_one({"_id": 1, "wanted": True})
            async for inserted in changed:
                found.extend(inserted.documents)
                if found:
                    await stack.db.drop_collection("things")

    with pytest.raises(HistoryLost, match="dropped"):
        await until_it_ends()
    assert found == [{"_id": 1, "wanted": True}]


WORKER = """
import sys
from app.config import Config
from app.stack import Addresses
from workers.worker import run
mongodb, redis, memcached, database = sys.argv[1:]
run(Addresses(mongodb, redis, (memcached,)), Config(database=database, grace_s=1.0))
"""


@asynccontextmanager
async def worker(stack: Stack) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own, which follows the stream."""
    addresses = stack.addresses
    assert addresses.memcached
    before = (await lease(stack)).get("fence", 0)
    command = [sys.executable, "-c", WORKER, addresses.mongodb, addresses.redis, addresses.memcached[0]]
    root = str(Path(__file__).parents[1])
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stack.config.database, cwd=root, env={**os.environ, "PYTHONPATH": root}
    )

    async def owns() -> bool:
        found = await lease(stack)
        return found.get("fence", 0) > before and bool(found.get("place"))

    try:
        await eventually(owns)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "stop"])
async def test_an_owner_that_is_gone_is_taken_over(timelines: Timelines, with_signal: signal.Signals) -> None:
    stack = timelines.stack
    zoe = await person(stack, "zoe")
    async with worker(stack) as process:
        await post(timelines, zoe, "by the first owner")
        await eventually(lambda: delivered(timelines))
        old = await lease(stack)
        began_s = time.monotonic()
        process.send_signal(with_signal)
        await post(timelines, zoe, "while it is gone")
        task = asyncio.create_task((second := Tailer(timelines)).forever())
        try:
            await eventually(lambda: delivered(timelines))
            taken = await lease(stack)
            assert taken["fence"] == old["fence"] + 1
            assert time.monotonic() - began_s > tailer.LEASE_S - tailer.EVERY_S, "it may have been slow only"
            if with_signal == signal.SIGSTOP:
                process.send_signal(signal.SIGCONT)
                await asyncio.sleep(3 * tailer.EVERY_S)  # it wakes, and would like to note its place
                now = await lease(stack)
                assert (now["fence"], now["owner"]) == (taken["fence"], taken["owner"])
                assert process.returncode is None
            await post(timelines, zoe, "and since")
            await eventually(lambda: delivered(timelines))
        finally:
            second.stopping.set()
            await task


async def test_a_primary_without_a_majority_makes_a_silent_stream(servers: Addresses, tmp_path: Path) -> None:
    """Its secondaries are there and vote, but take in nothing: nobody else would notice."""
    config = Config(database=f"followed_{next(_databases)}", grace_s=1.0, server_timeout_s=1.0)
    short = Path(tempfile.mkdtemp())
    with replica_set(short) as three, patch.object(tailer, "SILENT_S", 3.0):
        async with connected(replace(servers, mongodb=three.url), config, Clock()) as stack:
            timelines = await Timelines.open(stack)
            await timelines.change(read=P, delivering=[P])
            await eventually(lambda: readable(timelines))
            zoe = await person(stack, "zoe")

            async def is_silent() -> bool:
                state = await stream_state(timelines)
                return bool(state and state.is_silent)

            async with following(timelines):
                await post(timelines, zoe, "heard")
                await eventually(lambda: delivered(timelines))
                assert not await is_silent()
                with standing_still(short):
                    with pytest.raises(UNAVAILABLE):
                        await post(timelines, zoe, "a majority has it later")
                    await eventually(is_silent)

                async def hears_again() -> bool:
                    return not await is_silent() and await delivered(timelines)

                await eventually(hears_again)
            assert [status.text for status in (await timelines.page(zoe)).statuses][-1] == "heard"
    shutil.rmtree(short)


async def test_a_stream_at_a_member_that_hears_nothing_is_opened_anew(servers: Addresses) -> None:
    """It was the primary and is cut off from the next one, which knows the lease: nobody takes over."""
    config = Config(database=f"followed_{next(_databases)}", grace_s=1.0, server_timeout_s=30.0)
    with replica_set_with_failpoints(3) as (three, directory), patch.object(tailer, "SILENT_S", 3.0):
        async with connected(replace(servers, mongodb=three.url), config, Clock()) as stack:
            timelines = await Timelines.open(stack)
            await timelines.change(read=P, delivering=[P])
            await eventually(lambda: readable(timelines))
            zoe = await person(stack, "zoe")
            async with following(timelines):
                await post(timelines, zoe, "heard")
                await eventually(lambda: delivered(timelines))
                before = await lease(stack)
                await asyncio.to_thread(depose, directory)
                await post(timelines, zoe, "where nobody listens")
                await eventually(lambda: delivered(timelines))
                assert (await lease(stack))["fence"] == before["fence"]


def depose(replicas: Path) -> None:
    """The primary becomes a secondary, and takes in nothing."""
    for at in replicas.glob("*/mongodb.sock"):
        with MongoClient[dict[str, Any]](address("mongodb", at)) as client:
            if client.admin.command("hello")["isWritablePrimary"]:
                client.admin.command({"configureFailPoint": "stopReplProducer", "mode": "alwaysOn"})
                client.admin.command({"replSetStepDown": 60})
                return


@contextmanager
def standing_still(replicas: Path) -> Iterator[None]:
    """Its secondaries apply nothing."""
    locked = []
    with ExitStack() as clients:
        for at in sorted(replicas.glob("*/mongodb.sock")):
            client = clients.enter_context(MongoClient[dict[str, Any]](address("mongodb", at)))
            if not client.admin.command("hello")["isWritablePrimary"]:
                client.admin.command("fsync", lock=True)
                locked.append(client)
        try:
            yield
        finally:
            for client in locked:
                client.admin.command("fsyncUnlock")
