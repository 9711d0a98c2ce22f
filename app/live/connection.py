"""One live stream of one person: what waits to be sent on it, and why it ends."""

import asyncio
import secrets
from typing import NamedTuple

from bson import ObjectId

EACH = 10  # connections of one person
MOST_QUEUED = 500  # events that a client has not taken

LEFT, STOPPED, OVER, SLOW = 1000, 1012, 1008, 1013  # closing codes of WebSockets (RFC 6455, 7.4.1; IANA's registry)


class StreamEvent(NamedTuple):
    """An event of a live stream. `id`: the position after it. `data`: JSON."""

    id: str
    name: str
    data: str


STILL_HERE = StreamEvent("", "", "")  # nothing has happened, and the stream lives


class Connection:
    """A live stream that is open, with the events that its client has not taken.

    `token`: the digest of the token that it was opened with. `end`: the code that it is closed with, None while it is
    open. `is_quiet`: nothing has come since the last turn of the hub. `name`: an id that no other connection has, in
    any process.
    """

    __slots__ = ("_begun", "_queue", "_waiting", "end", "is_quiet", "me", "name", "token")

    def __init__(self, me: ObjectId, token: bytes) -> None:
        self.me, self.token, self.name = me, token, secrets.token_hex(8)
        self.end: int | None = None
        self.is_quiet = False
        self._queue: list[StreamEvent] = []
        self._begun = 0  # how many of the queue's events were there at the beginning
        self._waiting: asyncio.Future[None] | None = None  # what `take` waits for

    def put(self, *events: StreamEvent) -> None:
        """Queue these events. The connection is closed if more than MOST_QUEUED come while its client takes none. The
        client gets what is left when it comes back.
        """
        if self.end is None:
            self._queue.extend(events)
            self.is_quiet = False
            self._wake()
            if len(self._queue) - self._begun > MOST_QUEUED:
                self.close(SLOW)

    def begin(self, *events: StreamEvent) -> None:
        """Queue the first events, those behind a position: they may be as many, and count for no limit."""
        self._queue.extend(events)
        self._begun = len(self._queue)
        self._wake()

    def close(self, code: int) -> None:
        if self.end is None:
            self.end = code
            self._queue.clear()
            self._wake()

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    async def take(self) -> list[StreamEvent]:
        """Wait for events and return them; an empty list once the connection has ended."""
        while not self._queue and self.end is None:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self.taken()

    def taken(self) -> list[StreamEvent]:
        """Return the events that have come by now, without waiting."""
        events, self._queue, self._begun = self._queue, [], 0
        return events
