"""On servers that the environment names: the same figures, nothing of others touched, and nothing left behind."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
from bson import ObjectId
from pymemcache.client.base import Client
from pymongo import MongoClient

from app.config import Config, environment_for
from app.servers.borrow import running_servers
from app.stack import Addresses
from benchmarks import borrowed, curves
from benchmarks.borrowed import _memcached_keys
from benchmarks.report import Curves
from benchmarks.report import load as read_report
from benchmarks.rig import BenchRefused, Rig
from phases.p1_query import QUERY
from phases.p2_push import PUSH
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.timelines import Timelines
from tests.benchmarks.command import bench
from tests.conftest import real_servers

pytestmark = pytest.mark.servers

NAME = "theirs_bench"
SMALL = ("fanout", "--max-followers", "10", "--repeats", "1", "--servers", "urls")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """Servers of somebody else's."""
    with real_servers(), running_servers(tmp_path_factory.mktemp("theirs"), Config()) as addresses:
        yield addresses


class Others:
    """What is on the servers that is not ours."""

    def __init__(self, addresses: Addresses) -> None:
        assert addresses.mongodb
        assert addresses.redis
        assert addresses.memcached
        self.mongodb: MongoClient[dict[str, Any]] = MongoClient(addresses.mongodb)
        self.redis = redis.Redis.from_url(addresses.redis)
        self.node = addresses.memcached[0]
        self.memcached = Client(self.node)
        self.variables = {
            "FEEDLAB_MONGODB_URL": addresses.mongodb,
            "FEEDLAB_REDIS_URL": addresses.redis,
            "FEEDLAB_MEMCACHED": self.node,
            "FEEDLAB_DATABASE": "theirs",
        }

    def fill(self) -> None:
        for database in ("theirs", "another", f"x_{NAME}x"):
            self.mongodb[database]["things"].replace_one({"_id": 1}, {"_id": 1, "what": database}, upsert=True)
        self.redis.sadd("rq:queues", "rq:queue:theirs-12345678-deliver-first")
        self.redis.set("rq:suspended:theirs-12345678", 1)
        self.redis.set("a key", "of somebody")
        self.memcached.set("list:000:1", b"somebody's", noreply=False)
        self.memcached.set(f"x{NAME}:1", b"somebody's", noreply=False)

    def seen(self) -> dict[str, Any]:
        names = sorted(set(self.mongodb.list_database_names()) - {"admin", "config", "local"})
        workers = (b"rq:worker", b"rq:clean")  # RQ's own, which it lets expire
        found: Any = self.redis.keys()
        keys = [key for key in sorted(found) if not key.startswith(workers)]
        documents = {
            (n, c): list(self.mongodb[n][c].find()) for n in names for c in self.mongodb[n].list_collection_names()
        }
        values = {key: self.redis.dump(key) for key in keys}
        return {"mongodb": documents, "redis": values, "memcached": self.cached()}

    def cached(self) -> dict[bytes, Any]:
        async def keys() -> list[bytes]:
            return [key async for key in _memcached_keys(self.node, "")]

        return {key: self.memcached.get(key) for key in sorted(asyncio.run(keys()))}

    def close(self) -> None:
        self.mongodb.close()
        self.redis.close()
        self.memcached.close()


@pytest.fixture
def others(named: Addresses, monkeypatch: pytest.MonkeyPatch) -> Iterator[Others]:
    there = Others(named)
    for name, value in there.variables.items():
        monkeypatch.setenv(name, value)
    there.fill()
    yield there
    there.close()


def test_everything_is_measured_and_nothing_is_left(others: Others, tmp_path: Path) -> None:
    before, written = others.seen(), tmp_path / "report.json"
    options = ("--graph", "powerlaw:60:6", "--rounds", "1", "--seconds", "1", "--burn-in", "0.2", "--rate", "30")
    phases = ",".join(phase.slug for phase in (QUERY, PUSH, CACHE, STREAM))  # each kind of store
    done = bench(
        "compare", *options, "--phases", phases, "--through", "api", "--servers", "urls", "--json", str(written)
    )
    assert done.exit_code == 0, done.output
    assert "replica set, 1 member" in done.output
    assert others.seen() == before
    report: Any = read_report(written)
    assert report.topology == {
        "mongodb": "replica set, 1 member",
        "redis": "standalone, 0 replicas",
        "memcached": "1 node",
    }
    assert all(report.servers.values())
    cache = report.phases["cache"]
    assert set(cache.cpu_share) == {"harness", "worker", "web", "mongod", "redis", "memcached"}
    assert not report.meaningless
    assert cache.kept.entries > 0
    assert cache.kept.bytes_per_entry > 12
    assert cache.checked_pages > 30
    assert cache.errors == {}
    assert report.phases["query"].commands["read"]["mongodb"] > 0
    for place in others.variables.values():
        assert place.split("/?")[0] not in written.read_text(), "a report is no place for somebody's servers"


def test_the_raw_limits_are_measured_where_the_phases_are(others: Others) -> None:
    before = others.seen()
    done = bench(*SMALL)
    assert done.exit_code == 0, done.output
    assert others.seen() == before


@pytest.mark.scale
def test_the_second_database_of_a_row_is_removed_too(others: Others) -> None:
    before = others.seen()
    done = bench("targets", "--scale", "0.01", "--only", "backlog", "--servers", "urls")
    assert done.exit_code == 0, done.output
    assert others.seen() == before


def test_an_error_in_the_middle_leaves_nothing(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    before = others.seen()
    right = Timelines.change

    async def change(self: Timelines, **wanted: Any) -> Any:
        await right(self, **wanted)
        await self.stack.queue.pause()
        await self.stack.queue.offer("queue", ObjectId())
        assert others.redis.keys(f"*{NAME}-*"), "something is there that has to go"
        raise OSError("no such thing")

    monkeypatch.setattr(Timelines, "change", change)
    assert isinstance(bench(*SMALL).exception, OSError)
    assert others.seen() == before


def test_what_cannot_be_removed_is_said_and_keeps_nothing_on_the_other_servers(
    others: Others, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, written = others.seen(), tmp_path / "report.json"

    async def away(*_: object) -> None:
        raise redis.ConnectionError("Error 111 connecting")

    monkeypatch.setattr(borrowed, "_clear_redis", away)
    done = bench(*SMALL, "--json", str(written))
    assert done.exit_code == 2, done.output
    assert "not all could be removed" in done.output
    assert "Redis: Error 111 connecting" in done.output
    assert "Milliseconds by followers" in done.output, "what was measured is shown all the same"
    report = read_report(written)
    assert isinstance(report, Curves)
    assert not report.unfinished
    after = others.seen()
    assert (after["mongodb"], after["memcached"]) == (before["mongodb"], before["memcached"])
    for key in others.redis.keys(f"*{NAME}-*"):
        others.redis.delete(key)
    for queue in [one for one in others.redis.smembers("rq:queues") if NAME.encode() in one]:
        others.redis.srem("rq:queues", queue)


def test_what_is_left_of_the_database_beside_is_removed_at_the_end(
    others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is away for a moment, while a row's second database is removed."""
    before, right, times = others.seen(), borrowed._clear_redis, count()

    async def away_at_first(*of: Any) -> None:
        if next(times) == 0:
            raise redis.ConnectionError("Error 111 connecting")
        await right(*of)

    async def measure(rig: Rig, *_: object) -> None:
        async with borrowed.beside(rig) as other:
            await other.stack.queue.pause()
            assert others.redis.keys(f"*{NAME}_none-*"), "something is there that has to go"

    monkeypatch.setattr(borrowed, "_clear_redis", away_at_first)
    monkeypatch.setattr(curves, "fanout", measure)
    done = bench(*SMALL)
    assert done.exit_code == 2
    assert "Error 111 connecting" in done.output
    assert others.seen() == before


@pytest.mark.parametrize(
    ("left", "name"),
    [
        ("mongodb", NAME),
        ("mongodb", f"{NAME}_none"),
        ("redis", NAME),
        ("redis", f"{NAME}_none"),
        ("memcached", NAME),
    ],
)
def test_whatever_has_the_name_is_left_alone_and_refused(others: Others, left: str, name: str) -> None:
    key = {"redis": f"rq:queue:{name}-12345678-deliver-first", "memcached": f"{name}:list:000:1"}.get(left, "")
    match left:
        case "mongodb":
            others.mongodb[name]["things"].insert_one({"_id": ObjectId()})
        case "redis":
            others.redis.set(key, "left")
        case "memcached":
            others.memcached.set(key, b"left", noreply=False)
    try:
        before = others.seen()
        refused = bench(*SMALL)
        assert refused.exit_code == 2
        assert f"there is already a {'database' if left == 'mongodb' else 'key'}" in refused.output
        assert name in refused.output
        assert others.seen() == before
    finally:
        others.mongodb.drop_database(name)
        others.redis.delete(key or "nothing")
        others.memcached.delete(key or "nothing", noreply=False)


def test_of_two_that_begin_at_once_one_is_refused_and_removes_nothing(
    others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: object) -> None:
        """As the second one finds it, just before the first one writes."""

    others.mongodb[NAME][borrowed.CLAIM].insert_one({"_id": borrowed.CLAIM})
    monkeypatch.setattr(borrowed, "_there", nothing)
    try:
        before = others.seen()
        with pytest.raises(BenchRefused, match="another benchmark"), borrowed.borrowed():
            pass
        assert others.seen() == before
    finally:
        others.mongodb.drop_database(NAME)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_leaves_nothing(others: Others, number: signal.Signals) -> None:
    before = others.seen()
    options = ("compare", "--graph", "powerlaw:60:6", "--phases", "cache", "--seconds", "600", "--servers", "urls")
    before_us = signal.signal(number, signal.default_int_handler)  # who runs us in the background may ignore it
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "bench", *options],
        env=environment_for(others.variables),
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(number, before_us)
    assert process.stderr
    while "round 1" not in (line := process.stderr.readline()):
        assert line, "it has ended"
    while not any(key.startswith(NAME.encode()) for key in others.cached()):
        assert process.poll() is None
    process.send_signal(number)
    while number == signal.SIGHUP and process.poll() is None:  # the shell sends it, and the system when that has gone
        time.sleep(0.02)
        process.send_signal(number)
    process.communicate()
    assert process.returncode == 128 + number
    assert others.seen() == before


def test_all_three_have_to_be_named(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEEDLAB_REDIS_URL")
    refused = bench(*SMALL)
    assert refused.exit_code == 2
    assert "set FEEDLAB_REDIS_URL" in refused.output
