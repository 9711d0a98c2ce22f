"""Clients of a fault run that hang up: only while they wait for the answer, as if that had been lost."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from benchmarks.faults.client import Client
from benchmarks.faults.outcome import Outcome, Plan

pytestmark = pytest.mark.anyio
LATE_S = 0.05  # what an answer, or a TLS handshake, takes here
SHORT_S = 0.01


@asynccontextmanager
async def listening(answer: Callable[[asyncio.StreamReader], Awaitable[bytes]]) -> AsyncIterator[int]:
    """Yield the port of a server, and return when all of its connections are closed."""
    answering: list[asyncio.Event] = []

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(closed := asyncio.Event())
        with suppress(ConnectionError):
            writer.write(await answer(reader))
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for closed in answering:
            await closed.wait()


async def test_whoever_is_impatient_hangs_up_and_others_wait() -> None:
    async def late(reader: asyncio.StreamReader) -> bytes:
        asked = await reader.readuntil(b"\r\n\r\n")
        await (reader.read() if b"/never" in asked else asyncio.sleep(LATE_S))
        return b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"

    outcome = Outcome(plan=Plan(0, 0, 1))
    async with listening(late) as port, httpx.AsyncClient(timeout=None, trust_env=False) as http:
        client, url = Client(http, outcome), f"http://127.0.0.1:{port}/"
        assert await client.call("", "wait", "GET", url, 204)
        assert await client.call("", "hang up", "GET", f"{url}never", 204, patience_s=SHORT_S) is None
    assert (outcome.errors["hung up by the client"], outcome.unclean) == (1, [])


async def test_nobody_hangs_up_in_a_handshake() -> None:
    """Cancelled in there, httpx leaves its socket open."""

    async def no_tls(reader: asyncio.StreamReader) -> bytes:
        await reader.read(1)
        await asyncio.sleep(LATE_S)
        return b"no TLS here"

    outcome, context = Outcome(plan=Plan(0, 0, 1)), ssl.create_default_context()
    async with listening(no_tls) as port, httpx.AsyncClient(verify=context, timeout=None, trust_env=False) as http:
        url = f"https://127.0.0.1:{port}/"
        assert await Client(http, outcome).call("", "hang up", "GET", url, 204, patience_s=SHORT_S) is None
    assert set(outcome.errors) == {"connection refused"}, "the handshake was waited for, and failed"


async def test_who_never_gets_to_wait_for_an_answer_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an impatient client, too: here another request has the only connection."""
    monkeypatch.setattr(sys.modules[Client.__module__], "ANSWER_DEADLINE_S", LATE_S)

    async def frozen(reader: asyncio.StreamReader) -> bytes:
        await reader.read()
        return b""

    outcome, one = Outcome(plan=Plan(0, 0, 1)), httpx.Limits(max_connections=1)
    async with listening(frozen) as port, httpx.AsyncClient(limits=one, timeout=None, trust_env=False) as http:
        client, url = Client(http, outcome), f"http://127.0.0.1:{port}/"
        first = client.call("", "wait", "GET", url, 204)
        await asyncio.gather(first, client.call("", "hang up", "GET", url, 204, patience_s=SHORT_S))
    assert (outcome.errors["hung up by the client"], len(outcome.unclean)) == (0, 2)
