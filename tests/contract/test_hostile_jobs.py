"""Whoever may write to Redis runs nothing, and stops no worker: a job is one of ours, or is dropped."""

import json
import logging
import pickle
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from rq.job import Job

from app.stack.queue import FAN_OUT, FIRST
from app.stack.queue.strict import refuse
from phases.p4_cache import CACHE
from tests.world import World

pytestmark = pytest.mark.anyio

SOME_ID = str(ObjectId(b"strange stat"))


@pytest.fixture
async def town(world: World) -> World:
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.timelines.change(read=CACHE.slug, delivering=[CACHE.slug])
    world.pass_grace()
    await world.warm("ann")
    refuse.cache_clear()
    return world


def push(world: World, job_id: str | bytes, data: bytes | None, **fields: str | bytes) -> None:
    """As anybody does who reaches Redis."""
    redis: Any = world.stack.queue.connection
    queue = world.stack.queue.queues[FIRST]
    if data is not None and isinstance(job_id, str):
        said: dict[str, Any] = {"data": data, "origin": queue.name, "status": "queued", **fields}
        redis.hset(Job.key_for(job_id), mapping=said)
    redis.rpush(queue.key, job_id)


def call(function: Any, *arguments: Any, instance: Any = None, named: Any = None, after: bytes = b"") -> bytes:
    """As RQ packs it."""
    return zlib.compress(json.dumps([function, instance, arguments, named or {}]).encode() + after)


class Touching:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        return Path.touch, (self.file,)


def payloads(file: Path) -> dict[str, bytes]:
    touch = f"touch {file}"
    ours = (CACHE.slug, SOME_ID, None)
    return {
        "a-command": call("os.system", touch),
        "a-command-unpacked": zlib.decompress(call("os.system", touch)),
        "a-method": call("touch", instance=str(file)),
        "another-function-of-ours": call("workers.jobs.asyncio.os.system", touch),
        "another-module-of-ours": call("app.cli.main"),
        "a-pickle": pickle.dumps(Touching(file)),
        "a-pickle-packed": zlib.compress(pickle.dumps(("os.system", None, (Touching(file),), {}))),
        "a-bomb": call(FAN_OUT, *ours, after=b" " * 500_000),
        "too-large": call(FAN_OUT, "c" * 10_000, SOME_ID, None),
        "too-deep": zlib.compress(b"[" * 990),
        "not-json": zlib.compress(b"\xff\x00"),
        "a-number": zlib.compress(b"7"),
        "nothing-at-all": b"",
        "no-function": call(None),
        "a-list-for-a-function": call([FAN_OUT], *ours),
        "too-few": call(FAN_OUT, CACHE.slug),
        "too-many": call(FAN_OUT, *ours, "more"),
        "named": call(FAN_OUT, *ours, named={"x": 1}),
        "an-instance": call(FAN_OUT, *ours, instance="x"),
        "no-text": call(FAN_OUT, 1, {"$gt": ""}, []),
        "nobody": call(FAN_OUT, "nobody", SOME_ID, None),
        "no-status": call(FAN_OUT, CACHE.slug, "no-status", None),
        "no-after": call(FAN_OUT, CACHE.slug, SOME_ID, "x"),
        "no-status-of-ours": call(FAN_OUT, *ours),
    }


def fields(file: Path) -> dict[str, dict[str, str | bytes]]:
    hook = {"url": "http://127.0.0.1:9/", "job_status": "finished"}
    return {
        "success": {"success_callback_name": "os.abort"},
        "failure": {"failure_callback_name": "os.abort"},
        "stopped": {"stopped_callback_name": "os.abort"},
        "hooks": {"webhooks": json.dumps([hook, {**hook, "job_status": "failed"}])},
        "meta": {"meta": pickle.dumps(Touching(file)), "result": pickle.dumps(Touching(file))},
        "repeats": {"repeats_left": "1000000", "repeat_intervals": "[0]"},
        "dependents": {"dependency_ids": '["a-command"]', "dependency_id": "a-command"},
        "no-time": {"timeout": "soon", "ttl": "x", "result_ttl": "y", "failure_ttl": "z"},
        "no-date": {"enqueued_at": "yesterday"},
        "no-state": {"status": "unheard of"},
        "no-count": {"retries_left": "many", "number_of_retries": "9" * 900},
        "group": {"group_id": "everybody"},
        "elsewhere": {"origin": "b" * 900},
    }


async def works_on(town: World, text: str) -> None:
    await town.post("zoe", text)
    await town.drain()
    assert await town.pending() == dict.fromkeys(await town.pending(), 0)
    assert town.stack.queue.queues[FIRST].count == 0


async def test_nothing_is_run_but_our_own_functions(
    town: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is followed by a job of ours, which is done."""
    file = tmp_path / "touched"
    for name, data in payloads(file).items():
        push(town, name, data)
        await works_on(town, name)
        assert not file.exists(), name
    assert not file.exists()
    dropped = [record.message for record in caplog.records if "dropped" in record.message]
    assert len(dropped) == len(set(dropped)) > 3, "each reason is said, once"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_nothing_that_a_job_says_besides_is_heeded(town: World, tmp_path: Path) -> None:
    file = tmp_path / "touched"
    data = call(FAN_OUT, CACHE.slug, SOME_ID, None)
    for name, said in fields(file).items():
        push(town, name, data, **said)
        await works_on(town, name)
        push(town, f"{name}-failing", call("os.abort"), **said)
        await works_on(town, f"{name}, failing")
    assert not file.exists()


async def test_what_waits_beside_the_jobs_is_harmless(
    town: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ids that are none, keys of another kind, registries with anything in them: also where retries wait."""
    redis: Any = town.stack.queue.connection
    queue = town.stack.queue.queues[FIRST]
    file = tmp_path / "touched"
    await town.post("zoe", "among them")
    redis.set(Job.key_for("a-text"), "x")
    redis.hset(Job.key_for("bad"), mapping={"data": call("os.system", f"touch {file}"), "timeout": "soon"})
    for entry in (b"\xff\xfe", "../../etc", "a" * 10_000, "a-text", "bad", "unknown", "", "a:b:c"):
        push(town, entry, None)
        for kind in ("scheduled", "failed", "wip", "finished", "deferred"):
            redis.zadd(f"rq:{kind}:{queue.name}", {entry: time.time() - 60})
    redis.sadd(f"rq:workers:{queue.name}", b"\xff", "worker")
    push(town, "noted", call(FAN_OUT, CACHE.slug, SOME_ID, None))
    redis.zadd(f"rq:failed:{queue.name}", {"noted": time.time() + 60})
    redis.xadd("rq:results:noted", {"type": "2", "exc_string": "bm90IHBhY2tlZA=="})
    await town.drain()
    await town.sweep()
    await works_on(town, "behind them")
    await town.stack.queue.deliveries(failed=False, limit=100)
    await town.stack.queue.deliveries(failed=True, limit=100)
    await town.stack.queue.retry_dead_letters()
    await town.stack.queue.forget()
    await works_on(town, "after them")
    assert not file.exists()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "no worker gave up"


async def test_a_job_that_cannot_be_understood_leaves_nobody_out(town: World) -> None:
    """Rule 6: another version may say otherwise after whom it goes on. What is owed is still pending."""
    status = await town.post("zoe", "hello")
    await town.stack.queue.forget()
    push(town, "strange", call(FAN_OUT, CACHE.slug, str(status.id), "1767268800000-f"))
    await town.drain()
    assert (await town.pending())[CACHE.slug] == 1
    await town.sweep()
    await town.drain()
    assert (await town.pending())[CACHE.slug] == 0
    assert await town.source("ann", CACHE.slug) == "list"
    await town.sees("ann", "hello")


async def test_a_job_that_fails_is_tried_as_often_as_ours(town: World) -> None:
    """However often it wants to be: one that fails for ever would be all that a worker does."""
    push(town, "greedy", call(FAN_OUT, CACHE.slug, SOME_ID, None), retries_left="1000000", retry_intervals="[0]")
    [job] = await town.stack.queue.deliveries(failed=False, limit=10)
    assert job.attempts_left == 5
