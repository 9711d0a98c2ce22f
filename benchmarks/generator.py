"""The load generator, a process of its own: readers who ask for their pages, at a fixed rate or one after the other.

It costs a fraction of what it measures (a protocol and a parser in C), and says how late it was itself. Every answer
is compared, by a checksum, with the page that the reader is to have.

Open loop: request k is due k / rate seconds after the start, and its latency counts from that moment; while no
connection is free it waits. A generator that cannot keep up is late in taking requests up: that is `late`.
"""

import asyncio
import gc
import json
import random
import sys
import time
import zlib
from asyncio.subprocess import PIPE
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from typing import Any, NamedTuple, Self

import httptools
import uvicorn

from app.errors import Refused
from benchmarks.measure import Latencies

COMMAND = (sys.executable, "-m", "benchmarks.generator")
CHANGES = b',"cost":'  # what comes from here on is of the answer, not of the page
IDLE_S = 2.0  # an idle connection is not used again after so long: the server closes it after five
GIVE_UP_S = 2.0  # who has waited for so long will not be answered in time any more, and nobody behind them
ANSWER_S = 30.0  # until the last answer
GRACE_S = 10.0  # for the process beside what it was asked for
LONGEST_LINE = 64 * 1024 * 1024
ENOUGH = b"null\n"  # instead of an offer


class Reader(NamedTuple):
    """A token, and the checksum of the page that it is to be shown."""

    token: str
    page: int


@dataclass(frozen=True)
class Asked:
    """`rate`: requests a second, or None for a closed loop of so many `connections` in all. Ports take turns.

    `readers` come in any order, again and again, or each `once` and no more. The `burn_in` readers ask before anything
    counts, for `burn_in_s`, as often as the others. `patient`: it never gives up.
    """

    ports: Sequence[int]
    path: str
    readers: Sequence[Reader]
    seconds: float
    rate: float | None
    burn_in: Sequence[Reader] = ()
    burn_in_s: float = 0
    once: bool = False
    patient: bool = False
    connections: int = 64
    seed: int = 1


@dataclass
class Answered:
    """What counts. `latencies` and `late`: HdrHistogram's own form. `errors`: also of the burn-in.

    `gave_up`: requests waited for longer than GIVE_UP_S, and the rest was not sent. `cpu_s`: of this process.
    """

    answered: int
    seconds: float
    latencies: str
    late: str
    errors: dict[str, int] = field(default_factory=dict)
    gave_up: bool = False
    cpu_s: float = 0


WRONG_PAGE = "another page than it should be"


def checksum(body: bytes) -> int:
    """Of a page without what it took to make it."""
    end = body.find(CHANGES)
    return zlib.crc32(memoryview(body)[: end if end >= 0 else len(body)])


class GeneratorFailed(Refused):
    """Nothing was measured."""


class Generator:
    """The process, for one offer after the other."""

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self._stdin, self._stdout = stdin, stdout

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        """It ends with its standard input, and so with us, however we end."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=PIPE, stdout=PIPE, limit=LONGEST_LINE, start_new_session=True
        )
        assert process.stdin
        assert process.stdout
        try:
            await process.stdout.readline()  # it is there
            yield cls(process.stdin, process.stdout)
        finally:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), GRACE_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def offer(self, asked: Asked, enough: asyncio.Event | None = None) -> Answered:
        """`enough` ends it early. Raises GeneratorFailed."""
        ending = asyncio.create_task(self._end(enough)) if enough else None
        try:
            self._stdin.write(json.dumps(asdict(asked)).encode() + b"\n")
            async with asyncio.timeout(asked.burn_in_s + asked.seconds + ANSWER_S + GRACE_S):
                return Answered(**json.loads(await self._stdout.readline()))
        except (ValueError, TimeoutError, OSError) as error:
            raise GeneratorFailed(f"the load generator has failed: {error!r}") from error
        finally:
            if ending:
                ending.cancel()

    async def _end(self, enough: asyncio.Event) -> None:
        await enough.wait()
        self._stdin.write(ENOUGH)


async def offer(asked: Asked, enough: asyncio.Event | None = None) -> Answered:
    """By a process for this alone. Raises GeneratorFailed."""
    async with Generator.running() as generator:
        return await generator.offer(asked, enough)


class _Request(NamedTuple):
    due: float
    counts: bool
    port: int
    reader: Reader


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
        self._latencies, self._late, self._errors = Latencies(), Latencies(), Counter[str]()
        self._idle: dict[int, list[_Connection]] = {port: [] for port in asked.ports}
        self._open = Counter[int]()
        self._connections: set[_Connection] = set()
        self._waiting: dict[int, deque[_Request]] = {port: deque() for port in asked.ports}
        self._most = max(1, asked.connections // len(asked.ports))
        self._under_way = 0
        self._over = self._gave_up = False
        self._done = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()
        self._end = 0.0
        self._ports = cycle(asked.ports)
        self._requests = self._in_order()

    def _in_order(self) -> Iterator[tuple[Reader, bool]]:
        """(who asks, whether it counts)"""
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
            self._gap, self._number = 1 / self._asked.rate, 0
            self._tick()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), self._asked.burn_in_s + self._asked.seconds + ANSWER_S)
        if self._under_way:
            self._errors[f"no answer within {ANSWER_S:.0f} s"] += self._under_way
        seconds = self._loop.time() - self._start - self._asked.burn_in_s
        for connection in self._connections:
            connection.transport.close()
        return Answered(
            answered=self._latencies.count,
            seconds=seconds,
            latencies=self._latencies.encoded(),
            late=self._late.encoded(),
            errors=dict(self._errors),
            gave_up=self._gave_up,
            cpu_s=time.process_time() - self._cpu_s,
        )

    def stop(self) -> None:
        """Nothing more is sent."""
        self._over = True
        self._look_whether_done()

    # Open loop

    def _tick(self) -> None:
        """Take up what is due."""
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
            self._take_up(_Request(due, counts, next(self._ports), reader))
            oldest = min((line[0].due for line in self._waiting.values() if line), default=now)
            if now - oldest > GIVE_UP_S and not self._asked.patient:
                self._gave_up = self._over = True
                for line in self._waiting.values():
                    self._under_way -= len(line)
                    line.clear()
        self._look_whether_done()

    # Closed loop

    def _next_of_closed_loop(self, port: int) -> None:
        now = self._loop.time()
        if self._over or now >= self._end or (following := next(self._requests, None)) is None:
            self._over = True
            return
        self._take_up(_Request(now, now >= self._start + self._asked.burn_in_s, port, following[0]))

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
        """One is enough: the run has failed."""
        self._errors[what] += 1
        self._over = True
        for line in self._waiting.values():
            self._under_way -= len(line)
            line.clear()
        self._look_whether_done()

    def _look_whether_done(self) -> None:
        if self._over and not self._under_way:
            self._done.set()


async def _serve() -> None:
    """A line of JSON for each offer, and one for what came of it; until the end of the input."""
    lines = asyncio.StreamReader(limit=LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    load: Load | None = None
    answering: asyncio.Task[None] | None = None
    _say("ready")
    while line := await lines.readline():
        if line == ENOUGH:
            if load:
                load.stop()
            continue
        given = json.loads(line)
        readers, burn_in = ([Reader(*each) for each in given.pop(name)] for name in ("readers", "burn_in"))
        load = Load(Asked(**given, readers=readers, burn_in=burn_in))
        answering = asyncio.create_task(_answer(load))
    if answering:
        answering.cancel()


async def _answer(load: Load) -> None:
    _say(asdict(await load.run()))


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.freeze()
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(_serve())
