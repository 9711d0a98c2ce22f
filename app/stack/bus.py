"""The bus of hints: a hint says that something may have happened. Every process hears all of them, or none: whoever
hears one reads the truth, and whoever misses one finds it by looking.

In Redis the bus is a topic, with `PUBLISH` and `SUBSCRIBE`: what nobody listens to is kept nowhere. In one process it
is a list of listeners.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from typing import Any, Literal, NamedTuple, Protocol, get_args

import redis.asyncio as redis
from bson import ObjectId
from redis import Redis
from redis.exceptions import ConnectionError, RedisError

from app.logs import Outages
from app.stack.cost import count_redis
from app.stack.redis_pool import redis_pool
from app.watch.background import errors_counted

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0  # of one command; nobody waits for it
PAUSE_S = 0.5  # until Redis is asked again after a failure
SURE_S = 10.0  # a subscription that is silent for so long has ended; halfway Redis is asked to say something
MOST_UNSENT = 10_000  # hints; older ones are dropped, and found by looking
AT_ONCE = 200  # in one command

HintKind = Literal["posted", "deleted", "liked", "edges", "named", "concerns", "talked", "presence", "tokens"]


class Hint(NamedTuple):
    """A hint of some kind.

    `about`: the author of a status that was `posted` or `deleted`; who has `liked` one or taken a like back; whose
    `edges`, name (`named`), conversation (`talked`) or `presence` has changed; whom something `concerns` alone; or of
    whom some `tokens` have ended. `what`: the status, or the conversation. `other`: the other end of the edge, or the
    other person for whom the conversation has changed.
    """

    kind: HintKind
    about: ObjectId
    what: ObjectId | None = None
    other: ObjectId | None = None

    def packed(self) -> str:
        return " ".join([self.kind, *("-" if id is None else str(id) for id in self[1:])])

    @classmethod
    def unpacked(cls, text: str) -> "Hint | None":
        """Return the hint of a text; None for a text of another version of the program."""
        kind, *ids = text.split(" ")
        if kind not in get_args(HintKind) or len(ids) != 3 or not all(id == "-" or ObjectId.is_valid(id) for id in ids):
            return None
        about, what, other = (None if id == "-" else ObjectId(id) for id in ids)
        return cls(kind, about, what, other) if about else None  # type: ignore[arg-type]


class Listener(NamedTuple):
    """The callbacks of one listener. `missed` is called when hints may have been missed, and once at the beginning."""

    heard: Callable[[Hint], None]
    missed: Callable[[], None]


class Bus(Protocol):
    """The bus of one process. Nobody waits for it, and it never fails: what it loses is found by looking."""

    def tell(self, *hints: Hint) -> None:
        """Tell hints to all processes. Call it after the commit of what they hint at."""
        ...

    def listen(self, listener: Listener) -> None: ...

    def leave(self, listener: Listener) -> None: ...

    async def close(self) -> None: ...


class MemoryBus:
    """The bus of a process that is alone."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def tell(self, *hints: Hint) -> None:
        for hint in hints:
            for listener in self._listeners:
                listener.heard(hint)

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)
        listener.missed()

    def leave(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    async def close(self) -> None: ...


def channel(prefix: str) -> str:
    return f"{prefix}:live"


async def web_processes(connection: Redis, prefix: str) -> int:
    """Return how many web processes there are now: each has one subscription. 0 where Redis, which knows, is away."""
    try:
        [(_, count)] = await asyncio.to_thread(connection.pubsub_numsub, channel(prefix))
    except (RedisError, OSError):
        return 0
    return int(count)


class RedisBus:
    """The bus through Redis: one connection to publish, and one subscription where somebody listens."""

    def __init__(self, url: str, prefix: str) -> None:
        self.channel = channel(prefix)
        pool = redis_pool(url, 2, TIMEOUT_S, health_check_interval=SURE_S, decode_responses=True)
        self._redis = redis.Redis.from_pool(pool)
        self._listeners: list[Listener] = []
        self._unsent: deque[Hint] = deque(maxlen=MOST_UNSENT)
        self._publishing: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._outages = Outages(log)

    def tell(self, *hints: Hint) -> None:
        self._unsent += hints
        if self._publishing is None:  # in a context of its own: it is nobody's cost
            self._publishing = asyncio.get_running_loop().create_task(self._publish(), context=Context())

    async def _publish(self) -> None:
        """Publish each hint once. What Redis does not take is lost: it would be old before Redis is back."""
        try:
            with errors_counted("hints", "live hints are lost"):
                while self._unsent:
                    some = [self._unsent.popleft() for _ in range(min(AT_ONCE, len(self._unsent)))]
                    count_redis()
                    try:
                        await self._redis.publish(self.channel, "\n".join(hint.packed() for hint in some))
                    except (RedisError, OSError) as error:
                        self._unsent.clear()
                        self._outages.tell(True, f"live hints are lost while Redis is away: {error}")
                    else:
                        self._outages.tell(False, "live hints are sent again")
        finally:
            self._publishing = None

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)
        if self._hearing is None:
            self._hearing = asyncio.get_running_loop().create_task(self._hear(), context=Context())
        else:  # the subscription that tells of its beginning has begun for others
            listener.missed()

    def leave(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    async def _hear(self) -> None:
        """Hear hints until cancelled. Those that were told while nobody was subscribed have been missed."""
        while True:
            with errors_counted("hints", "live hints have been missed"):
                try:
                    await self._subscribed()
                except (RedisError, OSError) as error:
                    self._outages.tell(True, f"live hints are not heard while Redis is away: {error}")
            await asyncio.sleep(PAUSE_S)

    async def _subscribed(self) -> None:
        subscription = self._redis.pubsub(ignore_subscribe_messages=False)
        try:
            await subscription.subscribe(self.channel)
            while True:
                message = await _next_of(subscription)
                if message["type"] == "subscribe":
                    self._missed()
                elif message["type"] == "message":
                    self._heard(message["data"].split("\n"))
        finally:
            await _closed(subscription)

    def _heard(self, packed: Iterable[str]) -> None:
        for hint in filter(None, map(Hint.unpacked, packed)):
            for listener in self._listeners:
                listener.heard(hint)

    def _missed(self) -> None:
        for listener in self._listeners:
            listener.missed()

    async def close(self) -> None:
        if self._publishing:
            await asyncio.wait([self._publishing], timeout=TIMEOUT_S)
        for task in (self._publishing, self._hearing):
            if task:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._redis.aclose()


async def _next_of(subscription: "redis.client.PubSub") -> dict[str, Any]:
    """Return the next message, or the answer to a ping. Raises ConnectionError where neither comes.

    A host that has vanished, or a network that is gone, ends no connection: TCP would wait for a quarter of an hour.
    """
    message: dict[str, Any] | None = await subscription.get_message(timeout=SURE_S / 2)
    if message is None:
        await subscription.ping()
        message = await subscription.get_message(timeout=SURE_S / 2)
    if message is None:
        raise ConnectionError(f"it has been silent for {SURE_S} s")
    return message


async def _closed(subscription: "redis.client.PubSub") -> None:
    with suppress(RedisError, OSError):
        await subscription.aclose()  # type: ignore[no-untyped-call]
