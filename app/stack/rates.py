"""Rate limits: counted in Redis for all processes together, and in this process while Redis is away."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

import redis.asyncio as redis
from cachetools import TLRUCache, TTLCache
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.exceptions import RedisError

from app.errors import TooMany
from app.logs import Outages
from app.stack.breaker import Breaker
from app.stack.redis_pool import redis_pool

log = logging.getLogger(__name__)

CONNECTIONS = 8
TIMEOUT_S = 0.25  # whoever signs in or posts waits for it
AHEAD_REMEMBERED = 10_000
HERE_REMEMBERED = 100_000  # of all limits, while Redis is away
AWAY_S = 2.0  # after a failure nobody waits for Redis again for so long

T = TypeVar("T")


class _Here(Storage):
    """Counts in this process: the HERE_REMEMBERED that were asked for last.

    `limits` has one of its own, which keeps all of them, and looks through all after each hit.
    """

    STORAGE_SCHEME = None
    base_exceptions = ValueError

    def __init__(self) -> None:
        super().__init__()
        self._counts = TLRUCache[str, tuple[int, float]](HERE_REMEMBERED, _until, lambda: time.time())

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        count, until = self._counts.get(key, (0, time.time() + expiry))
        self._counts[key] = count + amount, until
        return count + amount

    async def get(self, key: str) -> int:
        return self._counts.get(key, (0, 0.0))[0]

    async def get_expiry(self, key: str) -> float:
        return self._counts.get(key, (0, time.time()))[1]

    async def clear(self, key: str) -> None:
        self._counts.pop(key, None)

    async def check(self) -> bool:
        return True

    async def reset(self) -> None:
        self._counts.clear()


def _until(_key: str, kept: tuple[int, float], _now: float) -> float:
    return kept[1]


class Rates:
    """All rate limits of one stack. `url`: None is for a process that is alone."""

    def __init__(self, url: str | None, prefix: str) -> None:
        self._here = FixedWindowRateLimiter(_Here())
        self._everywhere: FixedWindowRateLimiter | None = None
        self._pool: redis.ConnectionPool | None = None
        self._breaker, self._outages = Breaker(AWAY_S), Outages(log)
        if url:
            self._pool = redis_pool(url, CONNECTIONS, TIMEOUT_S)
            storage = RedisStorage(
                "redis://",
                implementation="redispy",
                key_prefix=f"{prefix}:rates",
                connection_pool=self._pool,  # type: ignore[arg-type]
            )
            self._everywhere = FixedWindowRateLimiter(storage)

    async def close(self) -> None:
        if self._pool:
            await self._pool.disconnect()

    def rate(self, name: str, amount: int, refusal: str, *, minutes: int = 1) -> "Rate":
        return Rate(self, RateLimitItemPerMinute(amount, minutes, namespace=name), refusal)

    async def on(self, ask: Callable[[FixedWindowRateLimiter], Awaitable[T]]) -> T:
        if self._everywhere and self._breaker.lets_through():
            try:
                answer = await ask(self._everywhere)
            except RedisError as error:
                self._breaker.failed()
                self._outages.tell(True, f"rate limits are counted per process while Redis is away: {error}")
            else:
                self._breaker.answered()
                self._outages.tell(False, "rate limits are counted for all processes together again")
                return answer
        return await ask(self._here)


class Rate:
    """A limit of so many times in a fixed window, for each `who`.

    A process counts a hundredth of the limit ahead, so that many posts ask Redis once: a limit above 100 may be reached
    that much early. Whoever is above it is known until the window ends, and Redis is not asked about them again.
    """

    def __init__(self, rates: Rates, item: RateLimitItem, refusal: str) -> None:
        self._rates, self._item, self._refusal = rates, item, refusal
        self._step = max(1, item.amount // 100)
        self._ahead: TTLCache[tuple[str, ...], int] = TTLCache(AHEAD_REMEMBERED, item.get_expiry())
        self._above: TTLCache[tuple[str, ...], float] = TTLCache(AHEAD_REMEMBERED, item.get_expiry())  # until when
        self._turns: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()

    async def hit(self, *who: object) -> bool:
        """Count once more; return whether that was within the limit."""
        key = tuple(map(str, who))
        known = self._known(key)
        if known is None:
            async with self._turns.setdefault(key, asyncio.Lock()):  # of many at once one counts ahead for all
                known = self._known(key)
                if known is None:
                    known = await self._count_ahead(key)
        return known

    def _known(self, key: tuple[str, ...]) -> bool | None:
        """Count once more where Redis need not be asked, and return whether that is within the limit; else None."""
        if self._left_s(key):
            return False
        if left := self._ahead.pop(key, 0):
            self._ahead[key] = left - 1
            return True
        return None

    async def _count_ahead(self, key: tuple[str, ...]) -> bool:
        if not await self._rates.on(lambda limiter: limiter.hit(self._item, *key, cost=self._step)):
            self._above[key] = await self._end_s(key)
            return False
        if self._step > 1:
            self._ahead[key] = self._step - 1
        return True

    async def renew(self, *who: object) -> None:
        """Count once, in a window that begins now."""
        key = tuple(map(str, who))
        self._ahead.pop(key, None)
        self._above.pop(key, None)
        await self._rates.on(lambda limiter: limiter.clear(self._item, *key))
        await self.hit(*who)

    async def reached(self, *who: object) -> bool:
        key = tuple(map(str, who))
        return self._left_s(key) > 0 or not await self._rates.on(lambda limiter: limiter.test(self._item, *key))

    async def count(self, *who: object) -> None:
        """Count once more. Raises TooMany above the limit."""
        if not await self.hit(*who):
            self.refuse_known(*who)
            raise TooMany(self._refusal, 1)  # the window has just ended

    def refuse_known(self, *who: object) -> None:
        """Raise TooMany for whoever is known to be above the limit. Redis is not asked, and nothing is counted."""
        if left_s := self._left_s(tuple(map(str, who))):
            raise TooMany(self._refusal, math.ceil(left_s))

    def _left_s(self, key: tuple[str, ...]) -> float:
        """Return the seconds until whoever is known to be above the limit may go on; 0 for others."""
        return max(0.0, self._above.get(key, 0.0) - time.time())

    async def check(self, *who: object) -> None:
        """Raise TooMany where the limit is reached, and count nothing."""
        if await self.reached(*who):
            self.refuse_known(*who)
            left_s = await self._end_s(tuple(map(str, who))) - time.time()
            raise TooMany(self._refusal, max(1, math.ceil(left_s)))

    async def _end_s(self, key: tuple[str, ...]) -> float:
        """Return the end of a key's window, in seconds since the epoch."""
        stats = await self._rates.on(lambda limiter: limiter.get_window_stats(self._item, *key))
        return float(stats.reset_time)
