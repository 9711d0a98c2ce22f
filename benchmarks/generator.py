"""The load generator, a process of its own: readers who ask for their pages, at a fixed rate or one after the other.

It costs a fraction of what it measures (a protocol and a parser in C), and says how late it was itself. Every answer is
compared, by a checksum, with the page that the reader is to have.

Open loop: request k is due k / rate seconds after the start, and its latency counts from that moment; while no
connection is free it waits. `late` is by how much a generator that cannot keep up takes requests up too late.
"""

import asyncio
import json
import zlib
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import NamedTuple, Self

from app.errors import Refused
from app.servers.children import OURS

COMMAND = (*OURS, "benchmarks.load")
CHANGES = b',"cost":'  # what comes from here on is of the answer, not of the page
GIVE_UP_S = 2.0  # who has waited for so long will not be answered in time any more, and nobody behind them
ANSWER_S = 30.0  # until the last answer
GRACE_S = 10.0  # for the process beside what it was asked for
LONGEST_LINE = 64 * 1024 * 1024
WRONG_PAGE = "another page than it should be"  # among the errors
ENOUGH = b"null\n"  # instead of an offer


class Reader(NamedTuple):
    """A reader: their token, and the checksum of the page that they are to be shown."""

    token: str
    page: int


@dataclass(frozen=True)
class Asked:
    """An offer of load. `rate`: requests a second, or None for a closed loop of so many `connections` in all.

    Ports take turns. `readers` come in any order, again and again, or each `once` and no more. The `burn_in` readers
    ask before anything counts, for `burn_in_s`, as often as the others. `patient`: it never gives up.
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
    """The outcome of an offer, without its burn-in, except that `errors` count those of the burn-in too.

    `latencies`, `late` and `served` are in HdrHistogram's own form. `served`: the latencies without what each was late.
    `gave_up`: requests waited for longer than GIVE_UP_S, and the rest was not sent. `cpu_s`: processor seconds of the
    generator.
    """

    answered: int
    seconds: float
    latencies: str
    late: str
    served: str
    errors: dict[str, int] = field(default_factory=dict)
    gave_up: bool = False
    cpu_s: float = 0


def checksum(body: bytes) -> int:
    """Return the checksum of a page, without the part that says what it cost."""
    end = body.find(CHANGES)
    return zlib.crc32(memoryview(body)[: end if end >= 0 else len(body)])


class GeneratorFailed(Refused):
    """The generator failed, and nothing was measured."""


class Generator:
    """A running process, which takes one offer after the other."""

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self._stdin, self._stdout = stdin, stdout

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        """Run the process until the block ends. It ends with its standard input, and so with us, however we end."""
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
        """Make an offer and return its outcome. `enough` ends it early. Raises GeneratorFailed."""
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
    """Make an offer by a process for this alone. Raises GeneratorFailed."""
    async with Generator.running() as generator:
        return await generator.offer(asked, enough)
