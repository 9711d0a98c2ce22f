"""Redis sorted sets as timelines need them: one set per reader, whose members are 12-byte ids and a trailer.

All scores are 0, so Redis orders the members by their bytes. The trailer begins like the last id there could be and is
longer, so it sorts above every id: a read from the top finds it first. It says from where on the set is complete and
until when. A set without it is no timeline: nobody delivers to it, and whoever finds it asks.

    | twelve bytes ff | state 1 | floor 12 | token 12 | expires_at_ms, 15 digits |

Every step is one script, so nobody sees half of it. Two backends, one behaviour: Redis, and a stand-in inside the
process. Keys name the run of the Redis they are in: what comes back with a snapshot, an append-only file or a failover
has missed deliveries, and nobody asks for it under the old name.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bson import ObjectId
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError

from app.stack.cost import count_redis
from app.stack.redis_pool import RedisBreaker, redis_pool

CONNECTIONS = 8
DELIVERING = CONNECTIONS // 2  # scripts that deliver at once: the other connections are left to readers
AT_ONCE = 500  # sets that one script delivers to: nobody else is served meanwhile
SWEPT = 500  # keys of Redis, anybody's, that are looked at in one sweep
SURPLUS = 1.2  # times the cap: a longer set is cut. A cap of 800 stays below 1,000, where Redis may pack a set tightly

ID_BYTES = 12
MARK = b"\xff" * ID_BYTES
LIST, PLACEHOLDER = b"L", b"P"
RUN_ID = re.compile(rb"^run_id:(\w{16})", re.MULTILINE)


Over = Callable[[Collection[str]], Awaitable[Collection[str]]]  # which of these containers, by name, are over for ever


class SetsDown(Exception):
    """Redis did not answer; what it keeps of timelines is derived, so a caller may always do without."""


class Trailer(NamedTuple):
    """The last member of a set.

    `floor`: from where on the set is complete; of a placeholder, where it has been cut. `token`: which attempt to fill
    the set put it there.
    """

    state: bytes
    floor: bytes
    token: bytes
    expires_at_ms: int

    def packed(self) -> bytes:
        return b"".join((MARK, self.state, self.floor, self.token, b"%015d" % self.expires_at_ms))

    @classmethod
    def unpacked(cls, raw: bytes) -> "Trailer":
        return cls(raw[12:13], raw[13:25], raw[25:37], int(raw[37:]))


class Found(NamedTuple):
    """A set that was read. `ids`: those that were asked for, newest first."""

    trailer: Trailer
    ids: list[bytes]


# What the scripts share. Lua compares strings by the server's locale, so ids are compared byte by byte.
SHARED = """
local MARK = string.rep('\\255', 12)

local function trailer(key)
    local top = redis.call('ZREVRANGEBYLEX', key, '+', '-', 'LIMIT', 0, 1)[1]
    return top and #top > 12 and top
end

local function replace(key, old, new)
    if new ~= old then
        redis.call('ZADD', key, 0, new)
        redis.call('ZREM', key, old)
    end
    return new
end

local function higher(one, other)
    for at = 1, 12 do
        local a, b = string.byte(one, at), string.byte(other, at)
        if a ~= b then return a > b and one or other end
    end
    return one
end

local function raise(key, top, floor)
    return replace(key, top, string.sub(top, 1, 13) .. higher(string.sub(top, 14, 25), floor) .. string.sub(top, 26))
end

local function cut(key, top, cap)
    local below = redis.call('ZCARD', key) - 1 - cap
    if below > 0 then
        raise(key, top, redis.call('ZRANGE', key, below, below)[1])
        redis.call('ZREMRANGEBYRANK', key, 0, below - 1)
    end
end

local function add(key, first)
    for from = first, #ARGV, 1000 do
        local members = {}
        for at = from, math.min(from + 999, #ARGV) do
            members[#members + 1] = 0
            members[#members + 1] = ARGV[at]
        end
        redis.call('ZADD', key, unpack(members))
    end
end
"""

# id, the most members there may be, how many ids are left then, readers: their ids, which end their keys, in a row.
# (Each key for itself takes longer to pack and to read than to add to.) A set that the id is alone in was not there: it
# is gone before anybody sees it. (To look for the trailer of each first is a command more.) The score is text: Redis
# prints every number that it is handed.
DELIVER = """
local call, sub = redis.call, string.sub
local head, id, most, readers = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[4]
for at = 1, #readers, 12 do
    local key = head .. sub(readers, at, at + 11)
    call('ZADD', key, '0', id)
    local members = call('ZCARD', key)
    if members == 1 then
        call('DEL', key)
    elseif members > most then
        cut(key, trailer(key), tonumber(ARGV[3]))
    end
end
"""
# from where down, how many. Who may not write may not answer: a replica has missed what it was not told. (To delete
# what is not there changes nothing.)
READ = """
redis.call('DEL', KEYS[1] .. ':')
local top = trailer(KEYS[1])
return top and {top, redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[1], '-', 'LIMIT', 0, ARGV[2])}
"""
# a placeholder's trailer, its milliseconds, now
LEASE = """
local top = trailer(KEYS[1])
if top and tonumber(string.sub(top, 38)) > tonumber(ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
# the trailer of what it is to be, its milliseconds, the cap, ids
FILL = """
local top = trailer(KEYS[1])
if not top or string.sub(top, 13, 13) ~= 'P' or string.sub(top, 26, 37) ~= string.sub(ARGV[1], 26, 37) then return 0 end
add(KEYS[1], 4)
top = raise(KEYS[1], replace(KEYS[1], top, ARGV[1]), string.sub(top, 14, 25))
cut(KEYS[1], top, tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
# a floor, the cap, ids
MERGE = """
local top = trailer(KEYS[1])
if top and string.sub(top, 13, 13) == 'L' then
    add(KEYS[1], 3)
    cut(KEYS[1], raise(KEYS[1], top, ARGV[1]), tonumber(ARGV[2]))
end
"""
# the trailer that was read, the one it is to be, its milliseconds
RENEW = """
if trailer(KEYS[1]) == ARGV[1] then
    replace(KEYS[1], ARGV[1], ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
"""
# a number, its seconds
NOTE = """
local key = KEYS[1] .. 'counted'
if tonumber(ARGV[1]) > tonumber(redis.call('GET', key) or 0) then
    redis.call('SET', key, ARGV[1], 'EX', ARGV[2])
end
"""
SCRIPTS = {
    name: SHARED + text
    for name, text in {
        "deliver": DELIVER, "read": READ, "lease": LEASE, "fill": FILL, "merge": MERGE, "renew": RENEW,
        "note": NOTE,
    }.items()
}  # fmt: skip
DIGESTS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}


class _Connection(AbstractConnection):
    """A connection that knows the run of Redis it leads to, and has loaded our scripts there.

    It is mixed in before the class of the URL's scheme.
    """

    run_id: bytes

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        run = RUN_ID.search(await self.ask("INFO", "server"))
        if run is None:
            raise ConnectionError("it does not say which run of Redis it is")
        self.run_id = run[1]
        for text in SCRIPTS.values():
            await self.ask("SCRIPT", "LOAD", text)

    async def ask(self, *command: Any) -> Any:
        await self.send_command(*command)
        return await self.read_response()


class RedisSets:
    """The sets of timelines in Redis.

    `prefix` stands before each key. Methods raise SetsDown when Redis does not answer.

    `at` names a container. Times to live are measured by Redis; `expires_at_ms` is set by the writer and judged by the
    reader.
    """

    def __init__(self, url: str, prefix: str, timeout_s: float) -> None:
        self._prefix = f"{prefix}:set:".encode()
        self._breaker = RedisBreaker(SetsDown)
        self._swept_to = 0
        self._delivering = asyncio.Semaphore(DELIVERING)
        self._pool = redis_pool(url, CONNECTIONS, timeout_s)
        self._pool.connection_class = type("Connection", (_Connection, self._pool.connection_class), {})

    async def close(self) -> None:
        await self._pool.disconnect()

    async def deliver(self, at: str, readers: Sequence[ObjectId], id: ObjectId, cap: int) -> None:
        """Add the id to the sets that exist. A set that becomes too long is cut, and its floor raised."""
        ids = [reader.binary for reader in readers]
        parts = [b"".join(ids[first : first + AT_ONCE]) for first in range(0, len(ids), AT_ONCE)]
        arguments = id.binary, int(cap * SURPLUS) + 1, cap

        async def one(part: bytes) -> None:
            async with self._delivering:
                await self._run("deliver", at, None, *arguments, part)

        await asyncio.gather(*map(one, parts))

    async def read(self, at: str, reader: ObjectId, before: ObjectId, n: int) -> Found | None:
        """Return the newest `n` ids below `before`; None where there is no trailer."""
        found = await self._run("read", at, reader, b"(" + before.binary, n)
        return Found(Trailer.unpacked(found[0]), found[1]) if found else None

    async def lease(self, at: str, reader: ObjectId, placeholder: Trailer, ttl_ms: int, now_ms: int) -> bool:
        """Put a placeholder where nothing is, or what is there has expired; return whether it was put."""
        return bool(await self._run("lease", at, reader, placeholder.packed(), ttl_ms, now_ms))

    async def fill(
        self, at: str, reader: ObjectId, trailer: Trailer, ttl_ms: int, ids: Sequence[bytes], cap: int
    ) -> bool:
        """Make a timeline of a placeholder with the same token and what has collected there. False: it is gone."""
        return bool(await self._run("fill", at, reader, trailer.packed(), ttl_ms, cap, *ids))

    async def merge(self, at: str, reader: ObjectId, ids: Sequence[bytes], floor: bytes, cap: int) -> None:
        """Add ids to a timeline, and raise its floor to this one at least."""
        await self._run("merge", at, reader, floor, cap, *ids)

    async def renew(self, at: str, reader: ObjectId, old: Trailer, new: Trailer, ttl_ms: int) -> None:
        """Replace the trailer, unless it has changed meanwhile."""
        await self._run("renew", at, reader, old.packed(), new.packed(), ttl_ms)

    async def forget(self, at: str, reader: ObjectId) -> None:
        await self._ask(lambda run: ("DEL", self._key(run, at, reader)))

    async def highest(self, at: str) -> int:
        """Return the highest number that was noted beside a container, 0 for none."""
        return int(await self._ask(lambda run: ("GET", self._pulse(run, at))) or 0)

    async def note(self, at: str, number: int, ttl_s: int) -> None:
        """Note a number beside a container, unless one as high is noted."""
        await self._run("note", at, None, number, ttl_s)

    async def sweep(self, over: Over) -> None:
        """Drop some sets of containers that are over, and of other runs: Redis evicts nothing by itself."""
        runs: list[bytes] = []

        def scan(run: bytes) -> tuple[Any, ...]:
            runs.append(run)
            return "SCAN", self._swept_to, "MATCH", self._prefix + b"*", "COUNT", SWEPT

        cursor, keys = await self._ask(scan)
        self._swept_to = int(cursor)
        ours = b"%b%b:" % (self._prefix, runs[0])
        there = {key.removeprefix(ours).partition(b":")[0].decode() for key in keys if key.startswith(ours)}
        heads = tuple([self._head(runs[0], at) for at in await over(there)])
        if dead := [key for key in keys if not key.startswith(ours) or key.startswith(heads)]:
            await self._ask(lambda run: ("UNLINK", *dead))

    async def bytes_of(self, at: str, reader: ObjectId) -> int:
        """Return the bytes that a set takes in memory, its key included."""
        return int(await self._ask(lambda run: ("MEMORY", "USAGE", self._key(run, at, reader), "SAMPLES", 0)) or 0)

    def _key(self, run: bytes, at: str, reader: ObjectId) -> bytes:
        return self._head(run, at) + reader.binary

    def _head(self, run: bytes, at: str) -> bytes:
        return b"%b%b:%b:" % (self._prefix, run, at.encode())

    def _pulse(self, run: bytes, at: str) -> bytes:
        return self._head(run, at) + b"counted"

    async def _run(self, script: str, at: str, reader: ObjectId | None, *arguments: Any) -> Any:
        """Run a script on one reader's set, or on a container's head."""

        def command(run: bytes) -> tuple[Any, ...]:
            key = self._key(run, at, reader) if reader else self._head(run, at)
            return "EVALSHA", DIGESTS[script], 1, key, *arguments

        return await self._ask(command)

    async def _ask(self, command: Callable[[bytes], tuple[Any, ...]]) -> Any:
        """Send one command, made for the run of Redis that the connection leads to.

        A connection that was not used to the end is closed: whatever is on its way belongs to nobody. Its scripts are
        loaded again by the next one.
        """
        with self._breaker.asking():
            count_redis()
            connection: Any = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                return await connection.ask(*command(connection.run_id))
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)


@dataclass
class _Set:
    trailer: Trailer
    ids: frozenset[bytes]
    gone_at_s: float

    def with_ids(self, ids: Sequence[bytes], floor: bytes, cap: int) -> "_Set":
        """Return the set with these ids, cut to the newest `cap`; what is cut off raises the floor."""
        newest = sorted(self.ids.union(ids), reverse=True)
        floor = max(self.trailer.floor, floor, newest[cap - 1] if len(newest) > cap else b"")
        return replace(self, trailer=self.trailer._replace(floor=floor), ids=frozenset(newest[:cap]))


class SetsStandIn:
    """A stand-in for RedisSets in a dictionary, step by step as the scripts do it.

    `now_s`: what times to live are measured in. Nobody may rely on it alone, since it may stand still while a machine
    sleeps.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._sets: dict[tuple[str, ObjectId], _Set] = {}
        self._pulses: dict[str, tuple[int, float]] = {}

    def _live(self, at: str, reader: ObjectId) -> _Set | None:
        found = self._sets.get((at, reader))
        if found and found.gone_at_s <= self._now_s():
            del self._sets[at, reader]
            return None
        return found

    async def close(self) -> None:
        pass

    async def deliver(self, at: str, readers: Sequence[ObjectId], id: ObjectId, cap: int) -> None:
        for first in range(0, len(readers), AT_ONCE):
            count_redis()
            for reader in readers[first : first + AT_ONCE]:
                if found := self._live(at, reader):
                    surplus = len(found.ids | {id.binary}) > int(cap * SURPLUS)
                    self._sets[at, reader] = found.with_ids([id.binary], b"", cap if surplus else len(found.ids) + 1)

    async def read(self, at: str, reader: ObjectId, before: ObjectId, n: int) -> Found | None:
        count_redis()
        if found := self._live(at, reader):
            return Found(found.trailer, sorted((id for id in found.ids if id < before.binary), reverse=True)[:n])
        return None

    async def lease(self, at: str, reader: ObjectId, placeholder: Trailer, ttl_ms: int, now_ms: int) -> bool:
        count_redis()
        if (found := self._live(at, reader)) and found.trailer.expires_at_ms > now_ms:
            return False
        self._sets[at, reader] = _Set(placeholder, frozenset(), self._now_s() + ttl_ms / 1000)
        return True

    async def fill(
        self, at: str, reader: ObjectId, trailer: Trailer, ttl_ms: int, ids: Sequence[bytes], cap: int
    ) -> bool:
        count_redis()
        found = self._live(at, reader)
        if found is None or (found.trailer.state, found.trailer.token) != (PLACEHOLDER, trailer.token):
            return False
        filled = replace(found, trailer=trailer, gone_at_s=self._now_s() + ttl_ms / 1000)
        self._sets[at, reader] = filled.with_ids(ids, found.trailer.floor, cap)
        return True

    async def merge(self, at: str, reader: ObjectId, ids: Sequence[bytes], floor: bytes, cap: int) -> None:
        count_redis()
        if (found := self._live(at, reader)) and found.trailer.state == LIST:
            self._sets[at, reader] = found.with_ids(ids, floor, cap)

    async def renew(self, at: str, reader: ObjectId, old: Trailer, new: Trailer, ttl_ms: int) -> None:
        count_redis()
        if (found := self._live(at, reader)) and found.trailer == old:
            self._sets[at, reader] = replace(found, trailer=new, gone_at_s=self._now_s() + ttl_ms / 1000)

    async def forget(self, at: str, reader: ObjectId) -> None:
        count_redis()
        self._sets.pop((at, reader), None)

    async def highest(self, at: str) -> int:
        count_redis()
        return self._highest(at)

    async def note(self, at: str, number: int, ttl_s: int) -> None:
        count_redis()
        if number > self._highest(at):
            self._pulses[at] = (number, self._now_s() + ttl_s)

    def _highest(self, at: str) -> int:
        number, gone_at_s = self._pulses.get(at, (0, 0.0))
        return number if self._now_s() < gone_at_s else 0

    async def sweep(self, over: Over) -> None:
        count_redis()
        gone = await over({at for at, _ in self._sets} | self._pulses.keys())
        self._sets = {(at, reader): kept for (at, reader), kept in self._sets.items() if at not in gone}
        self._pulses = {at: pulse for at, pulse in self._pulses.items() if at not in gone}

    async def bytes_of(self, at: str, reader: ObjectId) -> int:
        count_redis()
        found = self._live(at, reader)
        return len(found.trailer.packed()) + len(found.ids) * ID_BYTES if found else 0


Sets = RedisSets | SetsStandIn
