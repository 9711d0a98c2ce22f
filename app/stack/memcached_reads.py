"""The one command to Memcached that every page waits for, `gets`, on the event loop.

To hand it to a thread takes longer than the command. Everything else goes through pymemcache, which blocks. Both report
alike: OSError for a node that is away, is silent, or answers nonsense.
"""

import asyncio
import ssl
from collections import deque
from typing import NamedTuple, cast

from app.stack.waiting import take_error

Found = tuple[bytes, bytes]  # value, version


class _Asked(NamedTuple):
    key: bytes
    answer: "asyncio.Future[Found | None]"
    until_s: float


class _Connection(asyncio.Protocol):
    """A connection to a node, which answers in the order of the questions.

    Source: memcached/doc/protocol.txt, "Retrieval commands".
    """

    def __init__(self, timeout_s: float) -> None:
        self._loop, self._timeout_s = asyncio.get_running_loop(), timeout_s
        self._waiting: deque[_Asked] = deque()
        self._came = b""
        self._watch: asyncio.TimerHandle | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.is_open = cast(asyncio.Transport, transport), True  # uvloop's says that it is none

    def ask(self, key: bytes) -> "asyncio.Future[Found | None]":
        if not self.is_open:
            raise ConnectionError("it has just closed the connection")
        asked = _Asked(key, self._loop.create_future(), self._loop.time() + self._timeout_s)
        self._waiting.append(asked)
        self._transport.write(b"gets %b\r\n" % key)
        if self._watch is None:
            self._watch = self._loop.call_at(asked.until_s, self._look)
        return asked.answer

    def data_received(self, data: bytes) -> None:
        self._came += data
        try:
            while self._waiting and self._answered(self._waiting[0]):
                self._waiting.popleft()
            if self._came and not self._waiting:
                raise ValueError(self._came[:100])
        except ValueError as error:
            self.fail(ConnectionError(f"it says {error}"))

    def _answered(self, asked: _Asked) -> bool:
        """Hand on the first answer if all of it has come; return whether it has."""
        head, ended, _ = self._came.partition(b"\r\n")
        if not ended:
            return False
        found, end = None, len(head) + 2
        if head != b"END":
            words = head.split(b" ")
            if words[:2] != [b"VALUE", asked.key]:
                raise ValueError(head[:100])
            _, _, _, length, version = words
            begin, end = end, end + int(length) + len(b"\r\nEND\r\n")
            if len(self._came) < end:
                return False
            found = self._came[begin : begin + int(length)], version
        self._came = self._came[end:]
        if not asked.answer.done():  # else whoever asked has gone
            asked.answer.set_result(found)
        return True

    def _look(self) -> None:
        """Fail if the first who waits has waited too long, else look again then: one timer for all who wait."""
        self._watch = None
        if not self._waiting:
            return
        if self._waiting[0].until_s > self._loop.time():
            self._watch = self._loop.call_at(self._waiting[0].until_s, self._look)
        else:
            self.fail(TimeoutError(f"no answer in {self._timeout_s} s"))

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(error or ConnectionError("it has closed the connection"))

    def fail(self, error: Exception) -> None:
        """Close the connection, and raise the error in all who wait: what else may come belongs to nobody."""
        self.is_open = False
        self._transport.abort()
        if self._watch:
            self._watch.cancel()
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            if not asked.answer.done():
                asked.answer.set_exception(error)


class Reads:
    """Reads from one node, over a connection made when it is first needed, and anew after it has failed."""

    def __init__(self, address: tuple[str, int] | str, tls: ssl.SSLContext | None, *, timeout_s: float) -> None:
        self._address, self._tls, self._timeout_s = address, tls, timeout_s
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def gets(self, key: bytes) -> Found | None:
        """Return what is stored under the key; None where nothing is. Raises OSError."""
        connection = self._connection
        if connection is None or not connection.is_open:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
                self._connecting.add_done_callback(take_error)
            connection = await asyncio.shield(self._connecting)
        return await connection.ask(key)

    async def _connect(self) -> _Connection:
        """Connect. Whoever wanted it may have gone by then: the connection is there for the next, and to be closed."""
        loop, made = asyncio.get_running_loop(), lambda: _Connection(self._timeout_s)
        async with asyncio.timeout(self._timeout_s):
            if isinstance(self._address, str):
                _, self._connection = await loop.create_unix_connection(made, self._address)
            else:
                _, self._connection = await loop.create_connection(made, *self._address, ssl=self._tls)
        return self._connection

    async def close(self) -> None:
        if self._connecting:
            await asyncio.wait([self._connecting])
        if self._connection:
            self._connection.fail(ConnectionError("closed"))
