"""The delivery queues where Redis does not do its part."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
from bson import ObjectId
from rq.suspension import is_suspended

from app.stack.queue import DeliveryQueue, connect, stand_in

pytestmark = pytest.mark.anyio

TIMEOUT_S = 0.3


@pytest.fixture
def hung_redis() -> Iterator[str]:
    """It accepts connections and says nothing, as when it is stopped."""
    with socket.create_server(("127.0.0.1", 0), backlog=1_000) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


async def test_only_the_first_posts_wait_for_a_redis_that_hangs(hung_redis: str) -> None:
    """There are few threads: were every offer to wait its timeout in one, the last would wait for all of them."""
    queue = DeliveryQueue(connect(hung_redis, TIMEOUT_S), "test")
    began_s = time.monotonic()
    offered = await asyncio.gather(*(queue.offer("cache", ObjectId()) for _ in range(400)))
    assert not any(offered)
    assert time.monotonic() - began_s < 10 * TIMEOUT_S
    queue.connection.close()


async def test_a_pause_is_for_the_workers_of_one_database() -> None:
    """Not for those of another Feedlab, nor for somebody else's RQ workers, on the same Redis."""
    connection = stand_in()
    one, other = DeliveryQueue(connection, "one"), DeliveryQueue(connection, "other")
    await one.pause()
    assert (await one.paused(), await other.paused(), is_suspended(connection)) == (True, False, 0)
    await other.resume()
    assert await one.paused()
    await one.resume()
    assert not await one.paused()
