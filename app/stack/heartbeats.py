"""Who is connected: heartbeats in Redis that end by themselves, and a stand-in inside the process.

    | <prefix>:here:<person> | sorted set: a member for each connection, its score when it ends, in ms of Redis' clock |
    | <prefix>:heres         | sorted set: the people who are taken to be here, with the end of their last connection  |

A connection that nobody renews ends, whoever was killed. There is one set for each person and no key for each
connection, since a look-up of people who may have several would be a scan. Who has lapsed is taken out of `heres` in
the script that finds them, so one process alone hears of it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis.asyncio as redis
from bson import ObjectId

from app.batched import batched
from app.stack.cost import count_redis
from app.stack.redis_pool import RedisBreaker, redis_pool

CONNECTIONS = 4
AT_ONCE = 500  # people or connections of one script: nobody else is served meanwhile

Connection = tuple[ObjectId, str]  # whose, and its own id


class HeartbeatsDown(Exception):
    """Redis did not answer: nobody knows who is here."""


class Full(Exception):
    """A person has as many connections as they may have."""


TTL_S = 35.0  # how long a connection lasts that nobody renews: one renewal may be missed
TTL_MS = int(TTL_S * 1000)

# Nothing ends after `last`, unless Redis' clock has been set back since it was written: then it is over.
NOW = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = now + {TTL_MS}
"""
BEAT = (
    NOW
    + """
local most, came = tonumber(ARGV[1]), {}
for n = 3, #ARGV, 2 do
    redis.call('ZREMRANGEBYSCORE', KEYS[1] .. ARGV[n], '-inf', now)
    redis.call('ZREMRANGEBYSCORE', KEYS[1] .. ARGV[n], '(' .. last, '+inf')
    if most > 0 and redis.call('ZCOUNT', KEYS[1] .. ARGV[n], '(' .. now + ARGV[2], '+inf') >= most then
        return false
    end
    local ends = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[n]) or now)
    if ends <= now or ends > last then came[#came + 1] = ARGV[n] end
    redis.call('ZADD', KEYS[1] .. ARGV[n], last, ARGV[n + 1])
    redis.call('PEXPIREAT', KEYS[1] .. ARGV[n], last)
    redis.call('ZADD', KEYS[2], last, ARGV[n])
end
return came
"""
)
LEAVE = (
    NOW
    + """
local key, ends = KEYS[1] .. ARGV[2], redis.call('ZSCORE', KEYS[1] .. ARGV[2], ARGV[3])
if ends then
    redis.call('ZADD', key, math.min(tonumber(ends), now + ARGV[1]), ARGV[3])
    redis.call('ZADD', KEYS[2], redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2], ARGV[2])
end
"""
)
AMONG = (
    NOW
    + """
local here = {}
for _, person in ipairs(ARGV) do
    here[#here + 1] = redis.call('ZCOUNT', KEYS[1] .. person, '(' .. now, last)
end
return here
"""
)
LAPSED = (
    NOW
    + """
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
if #gone == 0 then gone = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. last, '+inf', 'LIMIT', 0, ARGV[1]) end
for _, person in ipairs(gone) do
    redis.call('ZREM', KEYS[2], person)
    redis.call('DEL', KEYS[1] .. person)
end
return gone
"""
)


class RedisHeartbeats:
    """Heartbeats in Redis. `prefix` stands before each key.

    Every method raises HeartbeatsDown when Redis does not answer.
    """

    def __init__(self, url: str, prefix: str, timeout_s: float) -> None:
        self._keys = f"{prefix}:here:".encode(), f"{prefix}:heres".encode()
        self._breaker = RedisBreaker(HeartbeatsDown)
        self._redis = redis.Redis(connection_pool=redis_pool(url, CONNECTIONS, timeout_s))

    async def close(self) -> None:
        await self._redis.connection_pool.disconnect()

    async def beat(self, connections: Iterable[Connection], most: int = 0, lasting_ms: int = 0) -> list[ObjectId]:
        """Let these connections last for TTL_S from now on, in one round trip.

        Returns the people who were not here before; one process alone gets each of them. Raises Full for a person of
        whom `most` connections last longer than `lasting_ms`.
        """
        scripts = [
            (BEAT, (most, lasting_ms, *(part for person, id in some for part in (person.binary, id))))
            for some in _cut(connections)
        ]
        answers = await self._run(scripts)
        if None in answers:
            raise Full
        return [ObjectId(person) for came in answers for person in came]

    async def leave(self, person: ObjectId, connection: str, grace_ms: int) -> None:
        """End the connection after the grace, unless somebody beats for it."""
        await self._run([(LEAVE, (grace_ms, person.binary, connection))])

    async def among(self, people: Sequence[ObjectId]) -> set[ObjectId]:
        """Return those of these people who have a connection, in one round trip."""
        scripts = [(AMONG, tuple(person.binary for person in some)) for some in _cut(people)]
        counted = [number for numbers in await self._run(scripts) for number in numbers]
        return {person for person, number in zip(people, counted, strict=True) if number}

    async def lapsed(self) -> list[ObjectId]:
        """Return people whose last connection has ended, at most AT_ONCE of them.

        Each is told once, to whoever asks first.
        """
        (gone,) = await self._run([(LAPSED, (AT_ONCE,))])
        return [ObjectId(person) for person in gone]

    async def _run(self, scripts: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        with self._breaker.asking():
            count_redis(len(scripts))
            async with self._redis.pipeline(transaction=False) as pipeline:
                for script, arguments in scripts:
                    pipeline.eval(script, 2, *self._keys, *arguments)
                return await pipeline.execute()


class HeartbeatsStandIn:
    """Heartbeats in dictionaries. `now_s`: the clock that connections end by."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._ends_s: dict[Connection, float] = {}
        self._heres: set[ObjectId] = set()

    async def close(self) -> None:
        pass

    async def beat(self, connections: Iterable[Connection], most: int = 0, lasting_ms: int = 0) -> list[ObjectId]:
        beating, lasting_s = list(connections), self._now_s() + lasting_ms / 1000
        count_redis(len(_cut(beating)))
        lasting = Counter(person for (person, _), ends_s in self._ends_s.items() if ends_s > lasting_s)
        if most and any(lasting[person] >= most for person, _ in beating):
            raise Full
        here = self._heres & {person for person, _ in self._live()}
        came = {person: None for person, _ in beating if person not in here}
        self._ends_s |= dict.fromkeys(beating, self._now_s() + TTL_S)
        self._heres.update(came)
        return list(came)

    async def leave(self, person: ObjectId, connection: str, grace_ms: int) -> None:
        count_redis()
        if (ends_s := self._ends_s.get((person, connection))) is not None:
            self._ends_s[person, connection] = min(ends_s, self._now_s() + grace_ms / 1000)

    async def among(self, people: Sequence[ObjectId]) -> set[ObjectId]:
        count_redis(len(_cut(people)))
        return {person for person, _ in self._live()} & {*people}

    async def lapsed(self) -> list[ObjectId]:
        count_redis()
        gone = sorted(self._heres - {person for person, _ in self._live()})[:AT_ONCE]
        self._heres.difference_update(gone)
        self._ends_s = self._live()
        return gone

    def _live(self) -> dict[Connection, float]:
        return {one: ends_s for one, ends_s in self._ends_s.items() if ends_s > self._now_s()}


def _cut(items: Iterable[Any]) -> list[list[Any]]:
    """Cut the items into lists of at most AT_ONCE. There is at least one, which may be empty."""
    return list(batched(items, AT_ONCE)) or [[]]


Heartbeats = RedisHeartbeats | HeartbeatsStandIn
