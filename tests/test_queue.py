"""The delivery queues where Redis does not do its part."""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import redis
from bson import ObjectId
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.suspension import is_suspended
from rq.worker import WorkerStatus

from app.stack.queue import DeliveryQueue, QueueDown, connect, stand_in
from app.stack.queue.delivery_queue import AWAY_S, LOOKING, OFFERING
from app.stack.queue.strict import StrictQueue
from app.stack.queue.worker import PAUSE_S, consume

pytestmark = pytest.mark.anyio

TIMEOUT_S = 0.3


@pytest.fixture
def hung_redis() -> Iterator[str]:
    """It accepts connections and says nothing, as when it is stopped."""
    with socket.create_server(("127.0.0.1", 0), backlog=1_000) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.fixture
def signals() -> Iterator[None]:
    """What an RQ worker does to them is undone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Pause(threading.Event):
    """What a worker waits for between two looks for Redis. SIGTERM comes meanwhile."""

    def wait(self, timeout: float | None = None) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return False


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("at", ["in its work", "in a pause"])
def test_a_worker_without_redis_ends_when_it_is_asked_to(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job goes on to its end, and no other worker begins."""
    queue, seen = DeliveryQueue(stand_in(), "test"), list[str]()

    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError("away")

    def work(self: Any, **_: object) -> None:
        seen.append("begun")
        self._install_signal_handlers()
        self._state = WorkerStatus.BUSY
        monkeypatch.setattr(self.connection, "execute_command", away)
        if at == "in its work":
            signal.raise_signal(signal.SIGTERM)
            seen.append("the job goes on")
        away()

    monkeypatch.setattr(SimpleWorker, "work", work)
    consume(queue, Pause())
    assert seen == (["begun", "the job goes on"] if at == "in its work" else ["begun"])
    queue.close()


@pytest.mark.usefixtures("signals")
def test_a_worker_that_was_asked_to_stop_before_it_heard_signals_does_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal goes to the one before, which is not at work any more."""
    queue, begun, jobs = DeliveryQueue(stand_in(), "test"), list[Any](), list[Any]()
    install: Any = SimpleWorker._install_signal_handlers
    work: Any = SimpleWorker.work

    def late(self: Any) -> None:
        if len(begun) > 1:
            signal.raise_signal(signal.SIGTERM)
        install(self)

    def first_without_redis(self: Any, **options: Any) -> None:
        begun.append(self)
        if len(begun) > 1:
            work(self, **options)
            return
        install(self)
        raise redis.ConnectionError("away")

    def job(self: Any, *_: object) -> None:
        jobs.append(self)

    monkeypatch.setattr(SimpleWorker, "_install_signal_handlers", late)
    monkeypatch.setattr(SimpleWorker, "work", first_without_redis)
    monkeypatch.setattr(SimpleWorker, "dequeue_job_and_maintain_ttl", job)
    monkeypatch.setattr("app.stack.queue.worker.PAUSE_S", 0)
    consume(queue, threading.Event())
    assert (len(begun), jobs) == (2, [])
    queue.close()


@pytest.mark.usefixtures("signals")
def test_a_worker_asks_as_often_however_long_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """RQ itself waits twice as long each time, up to a minute, and that long after Redis is back."""
    queue, stop, pauses = DeliveryQueue(stand_in(), "test"), threading.Event(), list[float]()

    def away(*_: object, **__: object) -> None:
        if len(pauses) == 6:
            stop.set()
            raise StopRequested
        raise redis.ConnectionError("away")

    monkeypatch.setattr(StrictQueue, "dequeue_any", away)
    monkeypatch.setattr("rq.worker.base.time.sleep", pauses.append)
    consume(queue, stop)
    assert pauses == [PAUSE_S] * 6
    queue.close()


async def test_only_the_first_posts_wait_for_a_redis_that_hangs(hung_redis: str) -> None:
    """There are few threads: were every offer to wait its timeout in one, the last would wait for all of them."""
    queue = DeliveryQueue(connect(hung_redis, TIMEOUT_S), "test", lambda: 10.0)
    with patch.object(queue, "_offer", wraps=queue._offer) as asked:
        offered = await asyncio.gather(*(queue.offer("cache", ObjectId()) for _ in range(400)))
    assert not any(offered)
    assert 1 <= asked.call_count <= OFFERING
    queue.close()


async def test_nobody_who_posts_waits_behind_those_who_look(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, answered = DeliveryQueue(stand_in(), "feedlab"), threading.Event()
    monkeypatch.setattr(queue, "_version", answered.wait)
    looks = [asyncio.create_task(queue.ping()) for _ in range(50)]
    try:
        assert await asyncio.wait_for(queue.offer("cache", ObjectId()), 30)
        assert not any(look.done() for look in looks)
    finally:
        answered.set()
        await asyncio.gather(*looks)
        queue.close()


async def test_whoever_is_known_to_be_away_is_not_asked_again_by_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, asked = 10.0, 0

    def silent() -> str:
        nonlocal asked
        asked += 1
        raise redis.TimeoutError

    queue = DeliveryQueue(stand_in(), "feedlab", lambda: now_s)
    monkeypatch.setattr(queue, "_version", silent)
    answers = await asyncio.gather(*(queue.ping() for _ in range(50)), return_exceptions=True)
    assert all(isinstance(answer, QueueDown) for answer in answers)
    assert 1 <= asked <= LOOKING
    assert not await queue.offer("cache", ObjectId()), "who posts has heard of it"
    now_s += AWAY_S
    assert await queue.offer("cache", ObjectId())
    queue.close()


async def test_the_log_says_once_that_nothing_can_be_queued(caplog: pytest.LogCaptureFixture) -> None:
    """However much happens, for however many consumers, while Redis is away."""
    now_s = 10.0
    queue = DeliveryQueue(stand_in(), "feedlab", lambda: now_s)
    with patch.object(queue, "_offer", side_effect=redis.ConnectionError("refused")):
        for _ in range(5):
            assert not await queue.offer("cache", ObjectId())
            now_s += AWAY_S
    for _ in range(2):
        assert await queue.offer("cache", ObjectId())
    away, back = caplog.messages
    assert "while Redis is away: refused" in away
    assert "at once again" in back
    queue.close()


async def test_what_rq_cannot_read_queues_nothing_and_is_no_outage() -> None:
    queue = DeliveryQueue(stand_in(), "feedlab", lambda: 10.0)
    with patch.object(queue, "_offer", side_effect=ValueError("no job of ours")):
        assert not await queue.offer("cache", ObjectId())
    assert await queue.offer("cache", ObjectId())
    queue.close()


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


@pytest.mark.parametrize(("scheme", "first"), [("redis", b"*"), ("rediss", b"\x16")])  # RESP; a TLS handshake
async def test_the_scheme_of_the_url_says_how_it_is_spoken_to(scheme: str, first: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = connect(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/0", TIMEOUT_S)
        asking = asyncio.create_task(asyncio.to_thread(client.ping))
        with await asyncio.to_thread(lambda: listener.accept()[0]) as accepted:
            assert accepted.recv(1) == first
        with pytest.raises(redis.RedisError):
            await asking
        client.close()
