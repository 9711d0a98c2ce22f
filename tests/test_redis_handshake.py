"""Whoever answers at the URL of Redis and is none is away, for everybody who asks."""

import socketserver
import threading
from collections.abc import Iterator

import pytest
import redis.asyncio
from redis.exceptions import RedisError

from app.servers.probe import NoAnswer, ask
from app.stack.queue import DeliveryQueue, QueueDown, connect
from app.stack.redis_pool import redis_pool

pytestmark = pytest.mark.anyio

TIMEOUT_S = 2.0  # a question that is sent with another one may have no answer
GREETS = b"%1\r\n+proto\r\n:3\r\n"  # as Redis does, and then says nothing else


@pytest.fixture(
    params=[b"+PONG\r\n", b":1\r\n", b"$2\r\na:\r\n", b"*0\r\n", GREETS, b"HTTP/1.1 400 Bad Request\r\n\r\n"]
)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a server that gives one answer to everything."""
    says: bytes = request.param

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(4096):
                self.request.sendall(says)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()


def test_doctor_has_no_answer(url: str) -> None:
    with pytest.raises(NoAnswer):
        ask("redis", url, TIMEOUT_S)


async def test_the_queue_is_down(url: str) -> None:
    now_s = iter(range(0, 1_000, 10))  # each call asks again
    queue = DeliveryQueue(connect(url, TIMEOUT_S), "test", lambda: next(now_s))
    for look in (queue.ping, queue.known, queue.depth, queue.dead, queue.workers, queue.paused):
        with pytest.raises(QueueDown):
            await look()
    queue.close()


async def test_nothing_is_asked_on_the_event_loop(url: str) -> None:
    pool = redis_pool(url, 1, TIMEOUT_S)
    async with redis.asyncio.Redis.from_pool(pool) as client:
        for _ in range(2):
            with pytest.raises(RedisError):
                await client.exists("a lock")
