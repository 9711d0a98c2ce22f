"""Live streams over a real uvicorn: server-sent events by httpx, WebSockets by a raw socket."""

import asyncio
import base64
import gc
import inspect
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import websockets.http11
from starlette.websockets import WebSocket

from app.config import Config
from app.live.connection import EACH, Connection, StreamEvent
from app.live.hub import READS_AT_ONCE
from app.serve import _uvicorn
from app.stack import connected
from app.web import api, create_app, protocol
from app.web.api import PREFIX, SOCKET
from app.web.guard import SECURITY_HEADERS
from app.web.live_stream import converse
from phases.timelines import Timelines
from tests.world import STAND_INS

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0


@dataclass
class Site:
    port: int
    http: httpx.AsyncClient
    app: Any
    server: Any
    sockets: "list[Socket]" = field(default_factory=list)

    async def until_nobody_is_here(self) -> None:
        await self.until(lambda: not self.app.state.services.hub.connections)

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not happened():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)

    async def person(self, handle: str) -> dict[str, str]:
        """Headers of somebody new."""
        credentials = {"handle": handle, "password": "correct horse"}
        assert (await self.http.post("/users", json=credentials)).status_code == 201
        return await self.signed_in(handle)

    async def signed_in(self, handle: str) -> dict[str, str]:
        token = (await self.http.post("/tokens", json={"handle": handle, "password": "correct horse"})).json()["token"]
        return {"Authorization": f"Bearer {token}"}

    async def ticket(self, headers: dict[str, str]) -> str:
        answer = await self.http.post("/live/tickets", headers=headers)
        assert answer.status_code == 201
        return str(answer.json()["ticket"])


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


@asynccontextmanager
async def running(send_buffer: int = 0, **settings: Any) -> AsyncIterator[Site]:
    """`send_buffer`: bytes that the system takes of an answer before its client reads them; 0: as it likes."""
    config = Config(sign_ins_per_minute=10_000, sign_ups_per_minute=10_000, **settings)
    async with connected(STAND_INS, config) as stack:
        app = create_app(stack, await Timelines.open(stack))
        server = _uvicorn(app, config)
        listening = socket.create_server(("127.0.0.1", 0))
        if send_buffer:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        port = listening.getsockname()[1]
        serving = asyncio.create_task(server.serve([listening]))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}{PREFIX}", timeout=PATIENCE_S) as http:
            site = Site(port, http, app, server)
            yield site
        for one in site.sockets:
            one.writer.close()
        await site.until_nobody_is_here()
        server.should_exit = True
        await serving
        assert not site.server.server_state.held, "who has gone is counted no more"


class Events:
    """Of a response, one after another."""

    def __init__(self, response: httpx.Response) -> None:
        self.response, self._lines = response, response.aiter_lines()

    async def next(self) -> tuple[str, str, Any]:
        """Id, name and data; comments are passed over."""
        found: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE_S):
            async for line in self._lines:
                if not line and "event" in found:
                    return found["id"], found["event"], json.loads(found["data"])
                name, _, value = line.partition(": ")
                found[name] = value
        raise EOFError


@asynccontextmanager
async def events(site: Site, path: str = "/live", **given: Any) -> AsyncIterator[Events]:
    async with site.http.stream("GET", path, **given) as response:
        yield Events(response)


class Socket:
    """A WebSocket by hand (RFC 6455)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status, self.body = 0, b""

    @classmethod
    async def open(cls, site: Site, query: str = "", headers: dict[str, str] | None = None) -> "Socket":
        one = cls(*await asyncio.open_connection("127.0.0.1", site.port))
        site.sockets.append(one)
        key = base64.b64encode(os.urandom(16)).decode()
        asked = {"Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade"}
        asked |= {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13", **(headers or {})}
        asked |= {"Sec-WebSocket-Extensions": "permessage-deflate"}
        head = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
        one.writer.write(f"GET {SOCKET}{query} HTTP/1.1\r\n{head}\r\n".encode())
        answer = (await asyncio.wait_for(one.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).decode()
        one.status = int(answer.split()[1])
        assert "permessage-deflate" not in answer
        return one

    async def frame(self) -> tuple[int, bytes]:
        first, second = await asyncio.wait_for(self.reader.readexactly(2), PATIENCE_S)
        length = second & 127
        assert not second & 128, "a server does not mask"
        assert length != 127, "longer than anything that is said"
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        return first & 15, await self.reader.readexactly(length)

    async def next(self) -> tuple[str, str, Any]:
        opcode, payload = await self.frame()
        assert opcode == 1, (opcode, payload)
        said = json.loads(payload)
        return said["id"], said["event"], said["data"]

    def send(self, payload: bytes, opcode: int = 1) -> None:
        mask = os.urandom(4)
        length = struct.pack("!BH", 128 | 126, len(payload)) if len(payload) > 125 else bytes([128 | len(payload)])
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
        self.writer.write(bytes([128 | opcode]) + length + mask + masked)

    async def closed(self) -> int:
        """The code that it is closed with."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big")


async def test_both_say_the_same_and_go_on_where_they_were(site: Site) -> None:
    ann, bob = await site.person("ann"), await site.person("bob")
    assert (await site.http.put("/follows/bob", headers=ann)).status_code == 204
    web = await Socket.open(site, f"?ticket={await site.ticket(ann)}")
    async with events(site, headers=ann) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        first = await stream.next()
        assert first[1:] == ("ready", {"unread": 0, "messages_unread": 0})
        assert await web.next() == first
        posted = (await site.http.post("/statuses", json={"text": "hello"}, headers=bob)).json()
        last, name, status = await stream.next()
        assert (name, status) == ("status", posted)
        assert await web.next() == (last, name, status)
    web.writer.close()
    gone = (await site.http.post("/statuses", json={"text": "gone"}, headers=bob)).json()["id"]
    await site.http.put(f"/statuses/{posted['id']}/like", headers=bob)
    await site.http.delete(f"/statuses/{gone}", headers=bob)
    for given in ({"headers": {**ann, "Last-Event-ID": last}}, {"headers": ann, "params": {"after": last}}):
        async with events(site, "/live", **given) as stream:
            assert (await stream.next())[:2] == (last, "ready")
            assert (await stream.next())[1:] == ("likes", {"id": posted["id"], "likes": 1, "you_like": False})
    web = await Socket.open(site, f"?after={last}", {**ann, "Last-Event-ID": first[0]})
    assert [(await web.next())[1] for _ in range(2)] == ["ready", "status"], "the header goes before the address"
    for headers, after in ((ann, "x"), (ann, first[0][:-4] + "AAAA"), (ann, f"{last}\n"), (bob, last)):
        async with events(site, headers=headers, params={"after": after}) as stream:
            assert [(await stream.next())[1] for _ in range(2)] == ["ready", "reset"]


async def test_a_stream_keeps_nothing_of_its_request(site: Site) -> None:
    """Neither the frames of what stands before it, nor what was said: there are thousands of them."""
    ann = await site.person("ann")
    async with events(site, headers=ann) as stream:
        socket = await Socket.open(site, headers=ann)
        assert (await stream.next())[1] == (await socket.next())[1] == "ready"
        waiting = [_frames(task.get_coro()) for task in asyncio.all_tasks()]
        assert sorted(frames[1:] for frames in waiting if frames[0].endswith(".run_asgi")) == [
            ["Starlette.__call__", "Lasting.__call__", "OpenStream.last", "_say", "Connection.take"],
            ["Starlette.__call__", "Lasting.__call__", "OpenStream.last", "_send", "Connection.take"],
        ]
        requests = [one for one in gc.get_objects() if type(one) is websockets.http11.Request]
        assert [one for one in requests if ann["Authorization"] in one.headers.get_all("Authorization")] == []


def _frames(coroutine: Any) -> list[str]:
    """From the outside to what it waits for."""
    frames = []
    while inspect.iscoroutine(coroutine):
        frames.append(coroutine.cr_code.co_qualname)
        coroutine = coroutine.cr_await
    return frames


async def test_who_may_not_is_told_before_the_upgrade(site: Site) -> None:
    ann = await site.person("ann")
    ticket = await site.ticket(ann)
    used = await Socket.open(site, f"?ticket={ticket}")
    assert used.status == 101
    session = {"Cookie": f"feedlab_session_{site.port}={ann['Authorization'].split()[1]}"}
    for query, headers in ((f"?ticket={ticket}", {}), ("?ticket=x", {}), ("", {}), ("", session)):
        assert (await Socket.open(site, query, headers)).status == 401, query
        address = f"/live{query}"
        assert (await site.http.get(address, headers=headers)).status_code == 401, query
    assert (await site.http.get("/live/socket", headers=ann)).status_code == 426
    many = [await Socket.open(site, headers=ann) for _ in range(EACH - 1)]
    assert [one.status for one in many] == [101] * len(many)
    assert (await Socket.open(site, headers=ann)).status == 429
    answer = await site.http.get("/live", headers=ann)
    assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")


async def test_a_ticket_is_spent_by_the_stream_that_it_opens_alone(site: Site) -> None:
    """Neither by HEAD, nor by what is refused, for whatever reason."""
    ann = await site.person("ann")
    tickets = [await site.ticket(ann) for _ in range(2)]
    many = [await Socket.open(site, headers=ann) for _ in range(EACH)]
    for ticket in tickets:
        query = f"?ticket={ticket}"
        assert (await site.http.head(f"/live{query}")).status_code == 200
        for path, more, status in (("/live", "&after=x&after=y", 422), ("/live/socket", "", 426), ("/live", "", 429)):
            assert (await site.http.get(path + query + more)).status_code == status
        assert (await Socket.open(site, query)).status == 429
    for one in many:
        one.writer.close()
    await site.until_nobody_is_here()
    async with events(site, f"/live?ticket={tickets[0]}") as stream:
        assert (await stream.next())[1] == "ready"
    assert (await Socket.open(site, f"?ticket={tickets[1]}")).status == 101
    for ticket in tickets:
        assert (await site.http.get(f"/live?ticket={ticket}")).status_code == 401


async def test_a_person_gets_so_many_tickets_a_minute() -> None:
    """They are kept for a day after they have expired."""
    async with running(streams_per_minute=2) as site:
        ann, bob = await site.person("ann"), await site.person("bob")
        for _ in range(2):
            await site.ticket(ann)
        answer = await site.http.post("/live/tickets", headers=ann)
        assert (answer.status_code, answer.json()["detail"]) == (429, "Too many tickets in one minute.")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        await site.ticket(bob)


async def test_of_two_who_come_with_one_ticket_at_once_one_is_let_in(site: Site) -> None:
    """Both are there before either has spent it."""
    query, hub = f"?ticket={await site.ticket(await site.person('ann'))}", site.app.state.services.hub
    async with nobody_is_read(site):
        coming = [asyncio.create_task(Socket.open(site, query)) for _ in range(2)]
        await site.until(lambda: hub.connections == len(coming))
    one, other = sorted(await asyncio.gather(*coming), key=lambda socket: socket.status)
    assert (one.status, other.status, (await one.next())[1]) == (101, 401, "ready")
    assert hub.connections == 1


UPGRADE = (
    "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
MANY = "A: b\r\n" * 400


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"POST {SOCKET} HTTP/1.1\r\n{UPGRADE}Content-Length: 2\r\n\r\n{{}}", 400),
        (f"GET {SOCKET} HTTP/1.1\r\n{UPGRADE}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"GET {SOCKET} HTTP/1.1\r\n{UPGRADE}{MANY}\r\n", 431),
        (f"GET {SOCKET} HTTP/1.1\r\n{UPGRADE}A: {'b' * 20_000}\r\n\r\n", 431),
        (f"GET {SOCKET}?ticket={'a' * 20_000} HTTP/1.1\r\n{UPGRADE}\r\n", 414),
        (f"GET {SOCKET} HTTP/1.1\r\n{UPGRADE.replace('13', '99')}\r\n", 400),
        (f"PUT {SOCKET} HTTP/1.1\r\n{UPGRADE}\r\n", 405),
        (f"GET {SOCKET} HTTP/1.1\r\n{UPGRADE}\r\n", 401),
        (f"GET /people HTTP/1.1\r\n{UPGRADE}\r\n", 404),
        (f"GET /static/style.css HTTP/1.1\r\n{UPGRADE}\r\n", 404),
        (f"GET {PREFIX}/me HTTP/1.1\r\n{UPGRADE}\r\n", 404),
        (f"GET {PREFIX}/nowhere HTTP/1.1\r\n{UPGRADE}\r\n", 404),
    ],
)
async def test_a_handshake_that_is_none_is_answered_and_its_connection_closed(
    site: Site, head: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The library for WebSockets reads less than the parser before it. Nothing that a stranger sends is an error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    assert int(answer.split()[1]) == status, answer
    assert answer.lower().count(b"http/1.1 ") == 1
    head, _, body = answer.decode().partition("\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    assert headers["content-type"] == "application/problem+json"
    assert int(headers["content-length"]) == len(body)
    problem = json.loads(body)
    assert problem.keys() - {"request_id"} == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(("path", "status"), [(SOCKET, 401), (f"{PREFIX}/me", 404), ("/people", 404)])
async def test_a_refused_upgrade_is_a_problem_like_any_other(site: Site, path: str, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"GET {path} HTTP/1.1\r\n{UPGRADE}X-Request-Id: mine\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE_S)).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    problem = json.loads(body)
    assert int(first.split()[1]) == problem["status"] == status
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"] == "mine"
    assert {name.lower() for name in SECURITY_HEADERS} <= headers.keys()


async def test_who_is_refused_again_and_again_costs_no_look_up() -> None:
    """A person above their limit by any way in; and a stranger from an address that much was refused to."""
    async with running(streams_per_minute=2, refused_streams_per_minute=4) as site:
        ann, bob = await site.person("ann"), await site.person("bob")
        page = f"http://127.0.0.1:{site.port}/live"
        session = {"Cookie": f"feedlab_session_{site.port}={ann['Authorization'].split()[1]}"}
        accounts, looked_up = site.app.state.services.accounts, list[object]()

        async def tried(*, ticket: str = "", headers: dict[str, str] | None = None) -> list[int]:
            """The answers of both ways in, and how many look-ups of tokens or tickets they took."""
            looked_up.clear()
            query = f"?ticket={ticket}" if ticket else ""
            async with events(site, path=f"/live{query}", headers=headers) as stream:
                status = stream.response.status_code
            return [status, (await Socket.open(site, query, headers)).status, len(looked_up)]

        with (
            patch.object(accounts, "_holder", _spied(accounts._holder, looked_up)),
            patch.object(accounts, "holder_of", _spied(accounts.holder_of, looked_up)),
        ):
            for _ in range(2):
                async with events(site, headers=ann) as stream:
                    assert stream.response.status_code == 200
            assert await tried(headers=ann) == [429, 429, 1]
            assert await tried(headers=ann) == [429, 429, 0]
            async with events(site, path=page, headers=session) as stream:
                assert (stream.response.status_code, len(looked_up)) == (429, 0)
                assert int(stream.response.headers["retry-after"]) <= 60
            assert await tried(ticket="bad") == [401, 401, 2]
            assert await tried(headers={"Authorization": "Bearer bad"}) == [401, 401, 2]
            bad = {"Cookie": session["Cookie"][:-1]}
            assert (await site.http.get(page, headers=bad)).status_code == 204
            assert await tried(ticket="bad") == await tried(headers=bob) == [429, 429, 0]
            assert (await site.http.get(page, headers=bad)).status_code == 429
        for person in (ann, bob):
            assert (await site.http.get("/timeline", headers=person)).status_code == 200, "only streams are refused"
        async with events(site, headers=bob) as stream:
            assert stream.response.status_code == 200, "it is known by now whose token this is"


async def test_who_opens_many_at_once_waits_for_the_first() -> None:
    async with running() as site:
        ann = await site.person("ann")
        assert (await site.http.get("/timeline", headers=ann)).status_code == 200
        accounts, looked_up = site.app.state.services.accounts, list[object]()
        holder, all_there, go_on = accounts._holder, asyncio.Event(), asyncio.Event()

        async def slow(token: Any) -> Any:
            looked_up.append(token)
            if len(looked_up) == EACH:
                all_there.set()
            await go_on.wait()
            return await holder(token)

        with patch.object(accounts, "_holder", slow):
            first = [asyncio.create_task(site.http.head("/live", headers=ann)) for _ in range(EACH)]
            await asyncio.wait_for(all_there.wait(), PATIENCE_S)
            answers = [await site.http.get("/live", headers=ann), await site.http.head("/live", headers=ann)]
            assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(429, "1")] * 2
            assert len(looked_up) == len(first)
            go_on.set()
            assert {(await task).status_code for task in first} == {200}
            assert (await site.http.head("/live", headers=ann)).status_code == 200


def _spied(look_up: Callable[[Any], Awaitable[Any]], asked: list[object]) -> Callable[[Any], Awaitable[Any]]:
    async def spied(of: Any) -> Any:
        asked.append(of)
        return await look_up(of)

    return spied


@asynccontextmanager
async def nobody_is_read(site: Site) -> AsyncIterator[None]:
    """All places in which somebody is read are taken, while the block runs."""
    reads = site.app.state.services.hub._reads
    for _ in range(READS_AT_ONCE):
        await reads.acquire()
    yield
    for _ in range(READS_AT_ONCE):
        reads.release()


async def test_who_opens_a_stream_waits_for_others_who_are_read(site: Site) -> None:
    """For longer than servers may take: a refusal would have them come back, and wait anew behind everybody."""
    ann, stack = await site.person("ann"), site.app.state.services.stack
    patient = stack.config
    async with nobody_is_read(site):
        stack.config = patient.model_copy(update={"server_timeout_s": 2.0})  # enough to sign in on a busy machine
        opened = asyncio.create_task(site.http.send(site.http.build_request("GET", "/live", headers=ann), stream=True))
        await site.until(lambda: site.app.state.services.hub.connections == 1)
        await asyncio.wait([opened], timeout=2.5)
        assert not opened.done()
        stack.config = patient
    response = await asyncio.wait_for(opened, PATIENCE_S)
    assert (response.status_code, (await Events(response).next())[1]) == (200, "ready")
    await response.aclose()


async def test_who_goes_while_they_open_a_stream_is_not_waited_behind(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await site.person("ann")
    session = f"feedlab_session_{site.port}={ann['Authorization'].split()[1]}"
    token = f"Authorization: {ann['Authorization']}"
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    asked = (
        (f"{PREFIX}/live", token),
        ("/live", f"Cookie: {session}"),
        (f"{PREFIX}/live/socket", f"{token}\r\n{upgrade}"),
    )
    async with nobody_is_read(site):
        writers = []
        for path, more in asked:
            _, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n{more.strip()}\r\n\r\n".encode())
            writers.append(writer)
        await site.until(lambda: site.app.state.services.hub.connections == len(asked))
        for writer in writers:
            writer.transport.abort()
        await site.until_nobody_is_here()
    assert not site.app.state.services.under_way
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_who_goes_while_they_come_is_not_here(site: Site) -> None:
    ann, presences = await site.person("ann"), site.app.state.services.presences

    async def slow(*_: object) -> list[object]:
        await asyncio.Event().wait()
        return []

    with patch.object(presences._heartbeats, "beat", slow):
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        head = f"GET {PREFIX}/live HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {ann['Authorization']}\r\n\r\n"
        writer.write(head.encode())
        await site.until(lambda: presences.here == 1)
        writer.transport.abort()
        await site.until(lambda: presences.here == 0)


async def test_who_goes_as_soon_as_a_stream_is_open_is_not_here(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are told that it is."""
    ann, ours = await site.person("ann"), site.app.state.services
    held = site.server.server_state.held
    before = held["127.0.0.1"]
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)

    async def after_they_have_gone(socket: WebSocket, connection: Connection) -> None:
        assert (ours.hub.connections, ours.presences.here, held["127.0.0.1"]) == (1, 1, before + 1)
        writer.transport.abort()
        await site.until(lambda: held["127.0.0.1"] == before)
        await converse(socket, connection)

    with patch.object(api, "converse", after_they_have_gone):
        head = f"GET {SOCKET} HTTP/1.1\r\n{UPGRADE}Authorization: {ann['Authorization']}\r\n\r\n"
        writer.write(head.encode())
        await site.until(lambda: writer.is_closing())
        await site.until(lambda: ours.presences.here == 0)
    assert ours.hub.connections == 0


@pytest.mark.parametrize("path", [SOCKET, f"{PREFIX}/live"])
@pytest.mark.parametrize("failing", ["accept or start", "the first event"])
@pytest.mark.parametrize("error", [ConnectionResetError, RuntimeError, asyncio.CancelledError])
async def test_a_stream_ends_with_its_request_however_that_ends(
    site: Site, path: str, failing: str, error: type[BaseException]
) -> None:
    ann, ours = await site.person("ann"), site.app.state.services
    kind = "websocket" if path == SOCKET else "http"
    scope = {"type": kind, "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"host", b"127.0.0.1"), (b"authorization", ann["Authorization"].encode())]}
    scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", site.port), "scheme": "http", "http_version": "1.1"}
    received, sent = [{"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request"}], list[str]()

    async def receive() -> Any:
        if received:
            return received.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if len(sent) > (failing == "the first event"):
            assert ours.hub.connections == 1
            raise error

    with suppress(error):
        await site.app(scope, receive, send)
    assert (len(sent), ours.hub.connections, ours.presences.here) == (1 + (failing == "the first event"), 0, 0)


async def test_what_ends_a_stream(site: Site) -> None:
    ann = await site.person("ann")
    talker, shouter, out = [await Socket.open(site, headers=ann) for _ in range(3)]
    talker.send(b"hello")
    assert await talker.closed() == 1008
    shouter.send(b"x" * 5_000)
    assert await shouter.closed() == 1009
    async with events(site, headers=ann) as stream:
        await stream.next()
        await site.http.delete("/tokens/current", headers=ann)
        assert await out.closed() == 1008
        with pytest.raises(EOFError):
            await stream.next()
    assert site.app.state.services.hub.connections == 0


async def test_who_reads_nothing_from_a_socket_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "READ_S", 0.1)
    await Socket.open(site, headers=await site.person("ann"))
    (watcher,) = site.app.state.services.hub.watchers
    for _ in range(100):
        watcher.connections[0].put(StreamEvent("x", "status", json.dumps("x" * 100_000)))
    await site.until_nobody_is_here()


@pytest.mark.parametrize(
    "said",
    [
        b"\xff" * 20,
        b"\x81\x05hello",
        b"\x81\xff" + b"\xff" * 12,
        b"\x89\xfe\x00\x80" + bytes(4 + 128),
        b"\x83\x80abcd",
        b"\x00\x80abcd",
    ],
)
async def test_what_is_no_frame_closes_a_socket(site: Site, said: bytes) -> None:
    """Reserved bits, unmasked, longer than memory, a control frame that is too long, an unknown opcode, a continuation
    of nothing.
    """
    web = await Socket.open(site, headers=await site.person("ann"))
    assert (await web.next())[1] == "ready"
    waiting = [each.client for each in site.server.server_state.waiting]
    assert web.writer.get_extra_info("sockname") not in waiting, "it has the deadlines of a request no more"
    web.writer.write(said)
    assert await web.closed() in (1002, 1009)
    await site.until_nobody_is_here()
