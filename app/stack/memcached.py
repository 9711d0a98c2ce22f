"""Memcached as the timeline lists need it: gets, add, put, cas, delete, a pipelined `prepend` that reports what failed,
and numbers that every node knows.

It has two backends with one behaviour: a stand-in inside the process, and real nodes through pymemcache, except for
what every page waits for (`memcached_reads`). Nodes are chosen by rendezvous hashing and never fail over: a key that
moved to another node while its own was away would come back stale with it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import count
from typing import TypeVar

from pymemcache.client.base import Client, PooledClient
from pymemcache.client.rendezvous import RendezvousHash
from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnexpectedCloseError

from app.stack.breaker import Breaker
from app.stack.cost import count_memcached
from app.stack.memcached_node import Node
from app.stack.memcached_reads import Reads

T = TypeVar("T")

POOL_SIZE = 8  # connections per node, and threads that use them
RETRY_AFTER_S = 1.0  # a node that failed is not asked again for so long
ITEM_LIMIT = 1024 * 1024  # Memcached's own default
PIPELINED = 1_000  # commands in one round trip: their answers fit into a socket's buffer while nobody reads
RECEIVE_BYTES = 65_536
# In one round trip over TLS: Memcached 1.6.18 reads 16 KB at a time and then waits for the socket, though what is left
# of a record has been taken from it already. A thousand prepends of 100 bytes are never answered.
TLS_BYTES = 8_192


class MemcachedDown(Exception):
    """A node did not answer; what it keeps is derived, so a caller may always do without."""


@dataclass(frozen=True)
class Stats:
    """Statistics of all nodes together, since each of them was started."""

    hits: int
    misses: int
    items: int
    bytes: int


class _Client(Client):  # type: ignore[misc]
    """The client of pymemcache, with pipelined prepends."""

    def prepend_all(self, keys: Sequence[str], value: bytes) -> int:
        """Prepend the value to each list that exists; return how many took it.

        Quiet meta commands go out in few round trips: silence is success, and `NS`
        names a key that did not take the value. `NS` says "absent" and "too large" with
        the same two letters, so a key that said it is deleted, to be sure. Source:
        memcached/doc/protocol.txt, "Meta Set" (`MP` prepend, `q` quiet, `k` return the
        key), "Meta No-Op".
        """
        # Text joins faster, and Latin-1 is byte for byte.
        head = f" {len(value)} MP q k\r\n{value.decode('latin-1')}\r\n"
        taken, prefix = len(keys), self.key_prefix.decode()
        at_once = self._at_once(keys, len(head))
        for at in range(0, len(keys), at_once):
            some = keys[at : at + at_once]
            commands = "".join([f"ms {prefix}{key}{head}" for key in some])
            refused = self._pipelined(commands.encode("latin-1"), b"NS k")
            if refused:
                deletions = b"".join(b"md %s q\r\n" % key for key in refused)
                self._pipelined(deletions, b"NF")
            taken -= len(refused)
        return taken

    def _at_once(self, keys: Sequence[str], beside: int) -> int:
        """Return how many commands go out together, where each has a key and so many other bytes."""
        if self.tls_context is None:
            return PIPELINED
        longest = len("ms ") + len(self.key_prefix) + max(map(len, keys), default=0) + beside
        return max(1, min(PIPELINED, TLS_BYTES // longest))

    def _pipelined(self, commands: bytes, expected: bytes) -> list[bytes]:
        """Send the commands and read the answers to their end; return what each line says after `expected`.

        Each line must begin with `expected`. `raw_command` would not do: pymemcache 4.0 drops what it has received when
        an answer arrives in pieces.
        """
        try:
            if self.sock is None:
                self._connect()
            self.sock.sendall(commands + b"mn\r\n")
            answer = b""
            while not answer.endswith(b"MN\r\n"):
                received = self.sock.recv(RECEIVE_BYTES)
                if not received:
                    raise MemcacheUnexpectedCloseError
                answer += received
            lines = answer.split(b"\r\n")[:-2]
            if strange := [line for line in lines if not line.startswith(expected)]:
                raise MemcacheServerError(strange[0][:100])
        except Exception:
            self.close()  # whatever else is on its way belongs to nobody
            raise
        return [line.removeprefix(expected) for line in lines]


class _Pool(PooledClient):  # type: ignore[misc]
    client_class = _Client

    def prepend_all(self, keys: Sequence[str], value: bytes) -> int:
        with self.client_pool.get_and_release(destroy_on_fail=True) as client:
            taken: int = client.prepend_all(keys, value)
            return taken

    def let_go(self) -> None:
        """Close the connections that nobody uses. A server that was restarted has ended all of them."""
        for _ in self.client_pool.free:
            self.client_pool.destroy(self.client_pool.get())

    def raise_to(self, key: str, number: int, ttl_s: int) -> None:
        """Raise a number to at least `number`.

        It takes two commands, and two more each time that another process was between them.
        """
        while (found := self.gets(key))[0] is None or number > int(found[0]):
            if found[0] is None:
                done = self.add(key, str(number), expire=ttl_s)
            else:
                done = self.cas(key, str(number), found[1], expire=ttl_s)
            if done:
                return


class MemcachedNodes:
    """Real nodes of Memcached, through pymemcache in a thread pool of its own.

    `prefix` stands before each key. Values are bytes; `ttl_s` is at most 30 days; a version is opaque and belongs to
    the value it came with. Every method raises MemcachedDown when the key's node does not answer.
    """

    def __init__(self, nodes: Sequence[str], timeout_s: float, prefix: str = "") -> None:
        assert nodes
        self.nodes = tuple(nodes)
        places, threads = {node: Node.of(node) for node in self.nodes}, POOL_SIZE * len(self.nodes)
        self._clients = {
            node: _Pool(
                where.address,
                tls_context=where.tls,
                connect_timeout=timeout_s,
                timeout=timeout_s,
                no_delay=True,
                default_noreply=False,
                max_pool_size=threads + 1,  # and who lets others go takes one
                key_prefix=prefix,
            )
            for node, where in places.items()
        }
        self._reads = {node: Reads(*where, timeout_s=timeout_s) for node, where in places.items()}
        self.prefix = prefix
        self._breakers = {node: Breaker(RETRY_AFTER_S) for node in self.nodes}
        self._ring = RendezvousHash(list(self.nodes), hash_function=_score)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="memcached")

    def _node(self, key: str) -> str:
        """Return the node of a key; one that names another key in braces is on the node of that."""
        return self.nodes[0] if len(self.nodes) == 1 else self._ring.get_node(key.partition("{")[2][:-1] or key)

    async def _call(self, node: str, call: Callable[[_Pool], T], commands: int = 1) -> T:
        breaker = self._breakers[node]
        if breaker.is_open:
            raise _failed_before(node)
        count_memcached(commands)
        context = copy_context()

        def guarded() -> T:
            # Only now: of many that wait for a thread while it hangs, only the first find that out.
            if not breaker.lets_through():
                raise _failed_before(node)
            try:
                answer = context.run(call, self._clients[node])
            except (OSError, MemcacheError) as error:
                raise self._fell(node, error) from error
            breaker.answered()
            return answer

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)

    def _fell(self, node: str, error: Exception) -> MemcachedDown:
        """Ask the node no more for a moment, and then over new connections: of others each would fail anew."""
        self._breakers[node].failed()
        self._clients[node].let_go()
        return MemcachedDown(f"memcached {node}: {str(error) or type(error).__name__}")

    async def gets(self, key: str) -> tuple[bytes, object] | None:
        node = self._node(key)
        if not self._breakers[node].lets_through():
            raise _failed_before(node)
        count_memcached()
        try:
            found = await self._reads[node].gets(f"{self.prefix}{key}".encode())
        except OSError as error:
            raise self._fell(node, error) from error
        self._breakers[node].answered()
        return found

    async def add(self, key: str, value: bytes, ttl_s: int) -> tuple[bytes, object] | None:
        """Store a value where there is none, and return what `gets` then finds.

        None where something was there already, or is gone again. It takes one visit to a thread, of two commands.
        """

        def add_and_get(client: _Pool) -> tuple[bytes | None, object]:
            if not client.add(key, value, expire=ttl_s):
                return None, None
            count_memcached()
            found: tuple[bytes | None, object] = client.gets(key)
            return found

        found, version = await self._call(self._node(key), add_and_get)
        return None if found is None else (found, version)

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        """Store a value, whatever is there."""
        await self._call(self._node(key), lambda client: client.set(key, value, expire=ttl_s))

    async def cas(self, key: str, value: bytes, version: object, ttl_s: int) -> bool:
        return bool(await self._call(self._node(key), lambda client: client.cas(key, value, version, expire=ttl_s)))

    async def delete(self, key: str) -> None:
        await self._call(self._node(key), lambda client: client.delete(key))

    async def prepend(self, keys: Sequence[str], value: bytes) -> int:
        """Put `value` in front of every list that exists; absent keys are skipped. Returns how many took it.

        A list that cannot take it is deleted: a missing list is right, an incomplete one is not.

        Nodes that failed are asked first, the last of them before the others. Whoever prepends tries again, and while
        one node is away, each time would leave the value once more on the rest.
        """
        by_node: dict[str, list[str]] = {self.nodes[0]: list(keys)} if len(self.nodes) == 1 else {}
        for key in keys if not by_node else ():
            by_node.setdefault(self._node(key), []).append(key)
        taken = 0
        for node, mine in sorted(by_node.items(), key=lambda each: -self._breakers[each[0]].open_until_s):
            taken += await self._call(node, partial(_Pool.prepend_all, keys=mine, value=value), len(mine))
        return taken

    async def highest(self, key: str) -> int | None:
        """Return the highest number that was noted under the key on any node that answers, 0 where none was on any
        node. None where a silent one may be the only one to know.
        """
        answers = await self._wherever_it_answers(lambda client: client.get(key))
        noted = [int(raw) for raw in answers if raw is not None]
        return max(noted, default=0) if noted or len(answers) == len(self.nodes) else None

    async def note(self, key: str, number: int, ttl_s: int) -> None:
        """Note a number on every node that answers, unless one as high is noted there.

        What one node forgets, with all its lists, the others still know, though they may be silent when they are asked.
        """
        await self._wherever_it_answers(lambda client: client.raise_to(key, number, ttl_s))

    async def _wherever_it_answers(self, call: Callable[[_Pool], T]) -> list[T]:
        """Return the answers of the nodes that do answer. Raises MemcachedDown when none does."""
        answers = []
        for node in self.nodes:
            with suppress(MemcachedDown):
                answers.append(await self._call(node, call))
        if not answers:
            raise MemcachedDown("no node answers")
        return answers

    async def _everywhere(self, call: Callable[[_Pool], T]) -> dict[str, T]:
        return {node: await self._call(node, call) for node in self.nodes}

    async def versions(self) -> Mapping[str, str]:
        return {node: raw.decode() for node, raw in (await self._everywhere(lambda client: client.version())).items()}

    async def stats(self) -> Stats:
        found = (await self._everywhere(lambda client: client.stats())).values()
        names = (b"get_hits", b"get_misses", b"curr_items", b"bytes")
        return Stats(*(sum(int(stats[name]) for stats in found) for name in names))

    async def close(self) -> None:
        for reads in self._reads.values():
            await reads.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for client in self._clients.values():
            client.close()


def _failed_before(node: str) -> MemcachedDown:
    return MemcachedDown(f"memcached {node} failed less than {RETRY_AFTER_S} s ago")


def _score(text: str, seed: int) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(8, "big")).digest(), "big")


class MemcachedStandIn:
    """A stand-in for MemcachedNodes, in a dictionary. `now_s` tells the seconds its TTLs are measured in."""

    nodes, prefix = ("stand-in",), ""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._items: dict[str, tuple[bytes, int, float]] = {}  # value, version, expiry
        self._versions = count(1)
        self._hits = self._misses = 0

    def _live(self, key: str) -> tuple[bytes, int, float] | None:
        item = self._items.get(key)
        if item and item[2] <= self._now_s():
            del self._items[key]
            return None
        return item

    def _store(self, key: str, value: bytes, expiry: float) -> None:
        self._items[key] = (value, next(self._versions), expiry)

    async def gets(self, key: str) -> tuple[bytes, object] | None:
        count_memcached()
        item = self._live(key)
        if item is None:
            self._misses += 1
            return None
        self._hits += 1
        return item[:2]

    async def add(self, key: str, value: bytes, ttl_s: int) -> tuple[bytes, object] | None:
        count_memcached()
        if self._live(key):
            return None
        count_memcached()
        self._store(key, value, self._now_s() + ttl_s)
        return self._items[key][:2]

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        count_memcached()
        self._store(key, value, self._now_s() + ttl_s)

    async def cas(self, key: str, value: bytes, version: object, ttl_s: int) -> bool:
        count_memcached()
        item = self._live(key)
        if item is None or item[1] != version:
            return False
        self._store(key, value, self._now_s() + ttl_s)
        return True

    async def delete(self, key: str) -> None:
        count_memcached()
        self._items.pop(key, None)

    async def prepend(self, keys: Sequence[str], value: bytes) -> int:
        count_memcached(len(keys))
        taken = 0
        for key in keys:
            if item := self._live(key):
                if len(item[0]) + len(value) > ITEM_LIMIT:
                    del self._items[key]
                    continue
                self._store(key, value + item[0], item[2])
                taken += 1
        return taken

    async def highest(self, key: str) -> int:
        count_memcached()
        return self._highest(key)

    async def note(self, key: str, number: int, ttl_s: int) -> None:
        count_memcached()
        if number > self._highest(key):
            self._store(key, str(number).encode(), self._now_s() + ttl_s)

    def _highest(self, key: str) -> int:
        item = self._live(key)
        return int(item[0]) if item else 0

    async def versions(self) -> Mapping[str, str]:
        return {"stand-in": "in-process"}

    async def stats(self) -> Stats:
        live = [item for key in list(self._items) if (item := self._live(key))]
        return Stats(self._hits, self._misses, len(live), sum(len(value) for value, _, _ in live))

    async def close(self) -> None:
        pass


Memcached = MemcachedNodes | MemcachedStandIn
