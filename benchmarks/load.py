"""The load generator's process: a protocol and a parser in C, and a clock. `benchmarks/generator.py` speaks to it."""

import asyncio
import gc
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import cycle, islice
from typing import Any, NamedTuple

import httptools

from benchmarks.generator import (
    ANSWER_S,
    ENOUGH,
    GIVE_UP_S,
    LONGEST_LINE,
    WRONG_PAGE,
    Answered,
    Asked,
    Reader,
    checksum,
)
from benchmarks.measure import Latencies, measuring_loop

IDLE_S = 2.0  # an idle connection is not used again after so long: the server closes it after five


class _Request(NamedTuple):
    due: float
    counts: bool
    port: int
    reader: Reader
    late: float = 0


class _Connection(asyncio.Protocol):
    def __init__(self, load: "Load", port: int) -> None:
        self.port, self.idle_since = port, 0.0
        self.request: _Request | None = None
        self._load, self._body = load, bytearray()
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: _Request, head: bytes) -> None:
        self.request = request
        self.transport.write(head)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()  # counted as lost

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        request, body = self.request, bytes(self._body)
        self.request = None
        self._body.clear()
        assert request, "nobody answers who was not asked"
        self._load.answered(self, request, self._parser.get_status_code(), body)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self, error)


class Load:
    """One offer of load, in this process."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._loop, self._cpu_s = asked, asyncio.get_running_loop(), time.process_time()
        self._latencies, self._late, self._served = Latencies(), Latencies(), Latencies()
        self._errors = Counter[str]()
        self._idle: dict[int, list[_Connection]] = {port: [] for port in asked.ports}
        self._open = Counter[int]()
        self._connections: set[_Connection] = set()
        self._waiting: dict[int, deque[_Request]] = {port: deque() for port in asked.ports}
        self._most = max(1, asked.connections // len(asked.ports))
        self._under_way = self._number = 0  # begun: all of an open loop, those that count of a closed one
        self._over = self._gave_up = False
        self._done = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()
        self._end = 0.0
        self._ports = cycle(asked.ports)
        self._requests = self._in_order()

    def _in_order(self) -> Iterator[tuple[Reader, bool]]:
        """Yield (who asks, whether it counts), in the order of the requests."""
        asked, draw = self._asked, random.Random(self._asked.seed)
        if asked.rate is not None and asked.burn_in:
            yield from ((reader, False) for reader in islice(cycle(asked.burn_in), round(asked.burn_in_s * asked.rate)))
        if asked.once:
            yield from ((reader, True) for reader in asked.readers)
        else:
            while True:
                yield draw.choice(asked.readers), True

    async def run(self) -> Answered:
        self._start = self._loop.time()
        self._end = self._start + self._asked.burn_in_s + self._asked.seconds
        if self._asked.rate is None:
            for port in islice(self._ports, self._most * len(self._asked.ports)):
                self._next_of_closed_loop(port)
        else:
            self._gap = 1 / self._asked.rate
            self._tick()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), self._asked.burn_in_s + self._asked.seconds + ANSWER_S)
        if self._under_way:
            self._errors[f"no answer within {ANSWER_S:.0f} s"] += self._under_way
        seconds = self._loop.time() - self._start - self._asked.burn_in_s
        for opening in self._opening:
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in self._connections:
            connection.transport.close()
        return Answered(
            answered=self._latencies.count,
            seconds=seconds,
            latencies=self._latencies.encoded(),
            late=self._late.encoded(),
            served=self._served.encoded(),
            errors=dict(self._errors),
            gave_up=self._gave_up,
            cpu_s=time.process_time() - self._cpu_s,
        )

    def stop(self) -> None:
        """Send no further requests."""
        self._over = True
        self._look_whether_done()

    # Open loop

    def _tick(self) -> None:
        """Take up the requests that are due."""
        now = self._loop.time()
        while not self._over:
            due = self._start + self._number * self._gap
            if due > now:
                self._loop.call_at(due, self._tick)
                break
            if due >= self._end or (following := next(self._requests, None)) is None:
                self._over = True
                break
            self._number += 1
            reader, counts = following
            if counts:
                self._late.record(now - due)
            self._take_up(_Request(due, counts, next(self._ports), reader, now - due))
            oldest = min((line[0].due for line in self._waiting.values() if line), default=now)
            if now - oldest > GIVE_UP_S and not self._asked.patient:
                self._gave_up = True
                self._end_early()
        self._look_whether_done()

    # Closed loop

    def _next_of_closed_loop(self, port: int) -> None:
        """Begin the next request of a closed loop. At least one of them counts, however long the others take."""
        now = self._loop.time()
        counts = now >= self._start + self._asked.burn_in_s
        if self._over or (now >= self._end and self._number) or (following := next(self._requests, None)) is None:
            self._over = True
            return
        self._number += counts
        self._take_up(_Request(now, counts, port, following[0]))

    # Both

    def _take_up(self, request: _Request) -> None:
        self._under_way += 1
        idle, now = self._idle[request.port], self._loop.time()
        while idle:
            connection = idle.pop()
            if connection.idle_since > now - IDLE_S:
                connection.ask(request, self._head(request))
                return
            connection.transport.close()
        self._waiting[request.port].append(request)
        if self._open[request.port] < self._most:
            self._open[request.port] += 1
            task = self._loop.create_task(self._connect(request.port))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self, port: int) -> None:
        try:
            _, connection = await self._loop.create_connection(lambda: _Connection(self, port), "127.0.0.1", port)
        except OSError as error:
            self._open[port] -= 1
            self._failed(f"no connection: {type(error).__name__}")
            return
        self._connections.add(connection)
        self._free(connection)

    def _head(self, request: _Request) -> bytes:
        return (
            f"GET {self._asked.path} HTTP/1.1\r\nHost: 127.0.0.1:{request.port}\r\n"
            f"Authorization: Bearer {request.reader.token}\r\n\r\n"
        ).encode()

    def _free(self, connection: _Connection) -> None:
        if line := self._waiting[connection.port]:
            request = line.popleft()
            connection.ask(request, self._head(request))
        else:
            connection.idle_since = self._loop.time()
            self._idle[connection.port].append(connection)

    def answered(self, connection: _Connection, request: _Request, status: int, body: bytes) -> None:
        now = self._loop.time()
        self._under_way -= 1
        if status != 200:
            self._failed(f"HTTP {status}")
        elif checksum(body) != request.reader.page:
            self._failed(WRONG_PAGE)
        elif request.counts:
            self._latencies.record(now - request.due)
            self._served.record(now - request.due - request.late)
        self._free(connection)
        if self._asked.rate is None:
            self._next_of_closed_loop(connection.port)
        self._look_whether_done()

    def lost(self, connection: _Connection, error: Exception | None) -> None:
        self._open[connection.port] -= 1
        self._connections.discard(connection)
        if connection in self._idle[connection.port]:
            self._idle[connection.port].remove(connection)
        if connection.request:
            self._under_way -= 1
            self._failed(f"lost: {type(error).__name__ if error else 'closed'}")

    def _failed(self, what: str) -> None:
        """Count an error and end the load: after one error the run has failed."""
        self._errors[what] += 1
        self._end_early()
        self._look_whether_done()

    def _end_early(self) -> None:
        """Take up nothing more, and leave what waits for a connection."""
        self._over = True
        for line in self._waiting.values():
            self._under_way -= len(line)
            line.clear()

    def _look_whether_done(self) -> None:
        if self._over and not self._under_way:
            self._done.set()


async def _serve() -> None:
    """Read a line of JSON for each offer, and write one with its outcome, until the end of the input, or an error."""
    lines = asyncio.StreamReader(limit=LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    load: Load | None = None
    answering: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as tasks:
        _say("ready")
        while line := await lines.readline():
            if line == ENOUGH:
                if load:
                    load.stop()
                continue
            given = json.loads(line)
            readers, burn_in = ([Reader(*each) for each in given.pop(name)] for name in ("readers", "burn_in"))
            load = Load(Asked(**given, readers=readers, burn_in=burn_in))
            answering = tasks.create_task(_answer(load))
        if answering:
            answering.cancel()


async def _answer(load: Load) -> None:
    _say(asdict(await load.run()))


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.freeze()
    with asyncio.Runner(loop_factory=measuring_loop) as runner:
        runner.run(_serve())
