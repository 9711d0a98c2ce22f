"""The load generator: what it says of a server of known latency, and that nothing passes for an answer that is none."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.generator import WRONG_PAGE, Answered, Asked, Reader, checksum, offer
from benchmarks.load import Load
from benchmarks.measure import Latencies
from tests.benchmarks.virtual import VirtualLoop, run

Serve = Callable[[int, str], Awaitable[tuple[int, str]]]  # number of the request, token -> status, page
READERS = [Reader(f"r{number}", checksum(f'{{"statuses":["r{number}"]'.encode())) for number in range(40)]
ASKED = Asked(ports=[], path="/p", readers=READERS, seconds=9, rate=100, burn_in=READERS[:5], burn_in_s=1)


class Server:
    """Answers as told, on a port of its own; `tokens`: who has asked, in order."""

    def __init__(self, serve: Serve) -> None:
        self.serve, self.tokens = serve, list[str]()
        self._tasks: set[asyncio.Task[Any] | None] = set()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                token = head.partition(b"Bearer ")[2].split(b"\r\n")[0].decode()
                self.tokens.append(token)
                status, page = await self.serve(len(self.tokens) - 1, token)
                body = f'{page},"cost":{{"elapsed_ms":{len(self.tokens)}}}}}'.encode() if page else b""
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        except asyncio.IncompleteReadError:
            pass  # the client has gone
        finally:
            writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        async with await asyncio.start_server(self._connection, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            yield port
            last, to_it = await asyncio.open_connection("127.0.0.1", port)
            to_it.write_eof()
            await last.read()  # whoever came before has been accepted, too: asyncio forgets a socket of a closed server
            to_it.close()
        await asyncio.gather(*filter(None, self._tasks))


def one_at_a_time(takes_s: float, stalls_at: int | None = None) -> Serve:
    turn = asyncio.Lock()

    async def serve(number: int, token: str) -> tuple[int, str]:
        async with turn:
            await asyncio.sleep(1.0 if number == stalls_at else takes_s)
        return 200, f'{{"statuses":["{token}"]'

    return serve


def offered(make: Callable[[], Serve], **changes: Any) -> tuple[Answered, list[str]]:
    """On virtual time: every latency is exact."""

    async def work() -> tuple[Answered, list[str]]:
        server = Server(make())
        async with server.listening() as port:
            answered = await Load(replace(ASKED, **{"ports": [port]} | changes)).run()
        return answered, server.tokens

    return run(work())


def test_a_stall_is_charged_to_everybody_who_waits_for_it() -> None:
    answered, _ = offered(lambda: one_at_a_time(0.001, stalls_at=500))
    latencies, late = Latencies.decoded(answered.latencies), Latencies.decoded(answered.late)
    assert answered.answered == late.count == 900
    assert latencies.ms(50) == pytest.approx(1, rel=0.01)
    assert latencies.ms(99) == pytest.approx(930, rel=0.05)
    assert late.ms(100) < 1, "it was not the generator that stood still"
    assert Latencies.decoded(answered.served).ms(99) == pytest.approx(latencies.ms(99), rel=0.01)
    assert not answered.errors
    assert not answered.gave_up


def test_a_generator_that_stands_still_says_so() -> None:
    def make() -> Serve:
        serve, loop = one_at_a_time(0.001), asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        async def stands_still(number: int, token: str) -> tuple[int, str]:
            if number == 500:
                loop.pass_time(0.5)  # nobody's sleep: the whole process
            return await serve(number, token)

        return stands_still

    answered, _ = offered(make)
    late = Latencies.decoded(answered.late)
    assert answered.answered == late.count == 900
    assert late.ms(100) == pytest.approx(500, rel=0.05)
    latencies = Latencies.decoded(answered.latencies)
    assert latencies.ms(99) >= late.ms(99) > 400, "and it is in the latencies, which count from when requests were due"
    served = Latencies.decoded(answered.served)
    assert served.count == 900
    assert served.ms(99) < 100, "who were taken up late were answered at once, one after the other"


def test_who_waits_for_too_long_ends_a_step_but_not_a_patient_one() -> None:
    answered, tokens = offered(lambda: one_at_a_time(0.020))
    assert answered.gave_up
    assert len(tokens) < 1_000
    patient, tokens = offered(lambda: one_at_a_time(0.020), patient=True)
    assert not patient.gave_up
    assert patient.answered == 900
    assert len(tokens) == 1_000


def test_a_closed_loop_asks_when_it_is_answered() -> None:
    def make() -> Serve:
        async def serve(_: int, token: str) -> tuple[int, str]:
            await asyncio.sleep(0.010)
            return 200, f'{{"statuses":["{token}"]'

        return serve

    answered, _ = offered(make, rate=None, connections=4)
    assert answered.answered / answered.seconds == pytest.approx(400, rel=0.01)


def test_however_slow_the_answers_are_one_of_a_closed_loop_counts() -> None:
    answered, _ = offered(lambda: one_at_a_time(5), rate=None, connections=4, seconds=0.5)
    assert answered.answered >= 1
    assert not answered.errors


def test_a_stranger_comes_once_and_never_before() -> None:
    some, others = READERS[5:], READERS[:5]
    answered, tokens = offered(lambda: one_at_a_time(0.001), readers=some, burn_in=others, once=True)
    assert answered.answered == len(some)
    assert set(tokens[:100]) == {reader.token for reader in others}
    assert Counter(tokens[100:]) == {reader.token: 1 for reader in some}


def test_two_processes_take_turns() -> None:
    async def work() -> list[int]:
        one, two = Server(one_at_a_time(0.001)), Server(one_at_a_time(0.001))
        async with one.listening() as first, two.listening() as second:
            await Load(replace(ASKED, ports=[first, second], seconds=1)).run()
        return [len(one.tokens), len(two.tokens)]

    assert run(work()) == [100, 100]


async def refuses(number: int, token: str) -> tuple[int, str]:
    return (503 if number == 300 else 200), f'{{"statuses":["{token}"]'


async def shows_somebody_elses(number: int, token: str) -> tuple[int, str]:
    return 200, f'{{"statuses":["{"r0" if number == 300 else token}"]'


async def dies(number: int, token: str) -> tuple[int, str]:
    if number == 300:
        raise asyncio.IncompleteReadError(b"", None)
    return 200, f'{{"statuses":["{token}"]'


@pytest.mark.parametrize(
    ("serve", "said"), [(refuses, "HTTP 503"), (shows_somebody_elses, WRONG_PAGE), (dies, "lost: closed")]
)
@pytest.mark.parametrize("rate", [100, None])
def test_what_is_no_answer_is_an_error_and_the_end(serve: Serve, said: str, rate: float | None) -> None:
    answered, tokens = offered(lambda: serve, rate=rate, connections=4)
    assert answered.errors == {said: 1}
    assert len(tokens) < 320, "hardly more than was under way"


def test_nobody_listens() -> None:
    async def work() -> Answered:
        async with Server(refuses).listening() as port:
            pass
        return await Load(replace(ASKED, ports=[port])).run()

    assert run(work()).errors == {"no connection: ConnectionRefusedError": 1}


@pytest.mark.parametrize("seconds", [0.3, 600.0])
def test_in_a_process_of_its_own(seconds: float) -> None:
    """And `enough` ends it before its time."""

    async def work() -> Answered:
        server, enough = Server(one_at_a_time(0.0)), asyncio.Event()

        async def serve(number: int, token: str) -> tuple[int, str]:
            if number == 50:
                enough.set()
            return 200, f'{{"statuses":["{token}"]'

        server.serve = serve
        async with server.listening() as port:
            return await offer(replace(ASKED, ports=[port], seconds=seconds, burn_in_s=0.1), enough)

    answered = asyncio.run(work())
    assert not answered.errors
    assert answered.answered == Latencies.decoded(answered.latencies).count > 0
    assert answered.cpu_s > 0
