"""A server that was away is tried by one request, and the others do not wait for that."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest.mock import Mock, patch

import pytest
from bson import ObjectId

from app.clock import LAST_ID
from app.stack.breaker import Breaker
from app.stack.heartbeats import HeartbeatsDown, RedisHeartbeats
from app.stack.memcached import MemcachedDown, MemcachedNodes
from app.stack.queue import DeliveryQueue, QueueDown, connect
from app.stack.sorted_sets import RedisSets, SetsDown

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0
A_PAUSE_S = 60.0  # longer than any of ours
Opening = Callable[[str], tuple[Any, Callable[[], Awaitable[object]]]]


def sets(at: str) -> tuple[Any, Callable[[], Awaitable[object]]]:
    client = RedisSets(f"redis://{at}", "test", PATIENCE_S)
    return client, lambda: client.read("at", ObjectId(), LAST_ID, 1)


def heartbeats(at: str) -> tuple[Any, Callable[[], Awaitable[object]]]:
    client = RedisHeartbeats(f"redis://{at}", "test", PATIENCE_S)
    return client, lambda: client.among([ObjectId()])


def page(at: str) -> tuple[Any, Callable[[], Awaitable[object]]]:
    client = MemcachedNodes([at], PATIENCE_S)
    return client, lambda: client.gets("key")


def delivery(at: str) -> tuple[Any, Callable[[], Awaitable[object]]]:
    client = MemcachedNodes([at], PATIENCE_S)
    return client, lambda: client.prepend(["key"], b"value")


def queue(at: str) -> tuple[Any, Callable[[], Awaitable[object]]]:
    client = DeliveryQueue(connect(f"redis://{at}", PATIENCE_S), "test", lambda: clock_s)
    return client, client.ping


clock_s = 100.0


@pytest.fixture(autouse=True)
def a_clock() -> Iterator[None]:
    """The breakers go by this one alone, so how busy the machine is does not matter."""
    with patch("app.stack.breaker.time", Mock(monotonic=lambda: clock_s)):
        yield


def later() -> None:
    global clock_s
    clock_s += A_PAUSE_S


@pytest.mark.parametrize("opening", [sets, heartbeats, page, delivery, queue])
async def test_one_request_tries_a_server_that_was_away(opening: Opening) -> None:
    """And nobody else waits with it, each time that it is tried."""
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        client, ask = opening("{}:{}".format(*nobody_listens.getsockname()))
        ends: list[Any] = list(await asyncio.gather(ask(), return_exceptions=True))
        for _ in range(2):
            later()
            ends += await asyncio.gather(*(ask() for _ in range(20)), return_exceptions=True)
        if closing := client.close():
            await closing
    assert all(isinstance(end, SetsDown | HeartbeatsDown | MemcachedDown | QueueDown) for end in ends)
    waited = [end for end in ends if "a moment ago" not in str(end) and "less than" not in str(end)]
    assert len(waited) == 1 + 2


async def test_who_is_answered_lets_everybody_ask_again() -> None:
    ended = list[asyncio.Event]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(end := asyncio.Event())
        while len(ended) > 1 and await reader.readline():
            writer.write(b"END\r\n")
        writer.close()
        end.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        memcached = MemcachedNodes(["{}:{}".format(*server.sockets[0].getsockname())], PATIENCE_S)
        with pytest.raises(MemcachedDown):
            await memcached.gets("key")
        later()
        assert [await memcached.gets("key") for _ in range(3)] == [None] * 3
        await memcached.close()
        for end in ended:
            await end.wait()


def test_an_answer_of_before_the_failure_does_not_let_everybody_ask() -> None:
    breaker = Breaker(A_PAUSE_S)
    assert [breaker.lets_through(), breaker.lets_through()] == [True, True]
    breaker.failed()
    breaker.answered()
    assert not breaker.lets_through()


def test_where_whoever_tried_it_has_gone_another_one_does() -> None:
    breaker = Breaker(A_PAUSE_S)
    breaker.failed()
    later()
    assert [breaker.lets_through(), breaker.lets_through()] == [True, False]
    later()
    assert [breaker.lets_through(), breaker.lets_through()] == [True, False]
    breaker.answered()
    assert [breaker.lets_through(), breaker.lets_through()] == [True, True]
