"""What arrives too slowly, too often or in two meanings: a real socket, and an application of three lines."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from typing import Any

import pytest
import uvicorn

from app.web import limits, protocol

GET = b"GET / HTTP/1.1\r\nHost: feedlab.test\r\n\r\n"
LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
PATIENCE_S = 30.0
FLOOD = 64 * 1024 * 1024


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body first, which `/echo` sends back, unless it is `/early`; `/flood` sends more than anybody's buffers
    hold, `/live` goes on until its client goes.
    """
    read, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        read, more = read + message.get("body", b""), message.get("more_body")
    if scope["path"] == "/live":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"live", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = b"x" * FLOOD if scope["path"] == "/flood" else read if scope["path"] == "/echo" else b"ok"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


OTHERWISE: dict[str, Any] = {"lifespan": "off", "log_config": None, "server_header": False}


class Server(uvicorn.Server):
    server_state: protocol.Connections

    def __init__(self, most: int, trusted: tuple[str, ...]) -> None:
        super().__init__(uvicorn.Config(answer, http=protocol.Protocol, ws="none", **OTHERWISE))
        self.server_state = protocol.Connections(most, trusted.__contains__)


MOST = 8
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def trusted() -> tuple[str, ...]:
    return ()


@pytest.fixture
def address(trusted: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    with socket.create_server((HERE, 0), backlog=200) as listening:
        server = Server(MOST, trusted)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
        assert not server.server_state.held, "who has gone is counted no more"


def connected(address: tuple[str, int], source: str = HERE) -> socket.socket:
    return socket.create_connection(address, PATIENCE_S, (source, 0))


def said(address: tuple[str, int], sent: bytes, source: str = HERE) -> bytes:
    """Everything that is answered until the connection is closed."""
    with connected(address, source) as client:
        with suppress(ConnectionError):
            client.sendall(sent)
        return rest(client)


def refused(answer: bytes) -> int:
    """The status of an answer that is a problem, the last one of its connection, and nothing else."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers.pop("date")
    assert headers == {
        "content-type": "application/problem+json",
        "cache-control": "no-store",
        "content-length": str(len(body)),
        "connection": "close",
    }
    problem: dict[str, Any] = json.loads(body)
    assert problem.keys() == {"type", "title", "status", "detail"}
    assert first == f"HTTP/1.1 {problem['status']} {problem['title']}"
    return int(problem["status"])


def rest(client: socket.socket) -> bytes:
    answer = b""
    try:
        while received := client.recv(65_536):
            answer += received
    except ConnectionResetError:
        pass
    return answer


@pytest.mark.parametrize(
    ("sent", "first"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nHost: feed", b"HTTP/1.1 408 "),
        (b"POST / HTTP/1.1\r\nHost: feedlab.test\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 408 "),
        (b"POST / HTTP/1.1\r\nHost: feedlab.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", b"HTTP/1.1 408 "),
        (b"PUT /api/v1/uploads/x HTTP/1.1\r\nHost: feedlab.test\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 408 "),
        (GET + b"\r\n", b"HTTP/1.1 200 "),
        (GET + b"GET / HT", b"HTTP/1.1 200 "),
    ],
)
def test_what_does_not_come_to_its_end_is_closed(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, sent: bytes, first: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.5)
    monkeypatch.setattr(limits, "ORDINARY", limits.ORDINARY._replace(seconds=0.5))
    monkeypatch.setattr(limits, "PICTURE", limits.PICTURE._replace(seconds=0.5))
    answer = said(address, sent)
    assert answer.startswith(first)
    assert b" 408 " not in first or refused(answer) == 408


@pytest.mark.parametrize("before", [b"", GET.replace(b"/", b"/live", 1)], ids=["answered", "behind another answer"])
def test_a_late_body_is_no_second_answer(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """uvicorn tells only the last request that the client has gone: the one before it is ended by hand."""
    close = protocol.Protocol._close_at_late_body

    def and_end(self: protocol.Protocol) -> None:
        close(self)
        for task in list(self.tasks):
            task.cancel()

    monkeypatch.setattr(protocol.Protocol, "_close_at_late_body", and_end)
    monkeypatch.setattr(limits, "ORDINARY", limits.ORDINARY._replace(seconds=0.5))
    answer = said(address, before + b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    assert (answer[:13], answer.count(b"HTTP/1.1 ")) == (b"HTTP/1.1 200 ", 1)


def test_empty_lines_after_an_answer_hold_no_connection(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any byte ends uvicorn's own deadline for the next request."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    with connected(address) as client:
        client.sendall(GET)
        answer = b""
        while not answer.endswith(b"ok"):
            answer += client.recv(65_536)
        client.sendall(b"\r\n")
        assert rest(client) == b""


@pytest.mark.parametrize("trusted", [(), (HERE,)])  # the share of an address, and the cap of all
def test_who_holds_connections_makes_room_for_who_uses_them(address: tuple[str, int]) -> None:
    held = [connected(address) for _ in range(5 * MOST)]
    try:
        for client in held:
            client.sendall(GET[:20])
        assert said(address, LAST).startswith(b"HTTP/1.1 200 ")
        assert rest(held[0]) == b"", "the oldest has been closed"
    finally:
        for client in held:
            client.close()


def live(address: tuple[str, int]) -> socket.socket:
    """A connection that is being answered without end."""
    client = connected(address)
    client.sendall(GET.replace(b" / ", b" /live "))
    answer = b""
    while not answer.endswith(b"live\r\n") and (received := client.recv(65_536)):
        answer += received
    return client


def test_one_address_leaves_half_of_the_connections_to_others(address: tuple[str, int]) -> None:
    """Though all that it holds are in use. What it closes it may open again."""
    with ExitStack() as held:
        first, *_ = [held.enter_context(live(address)) for _ in range(MOST // 2)]
        waiting = held.enter_context(connected(address, ELSEWHERE))
        assert said(address, LAST) == b""
        waiting.sendall(LAST)
        assert rest(waiting).startswith(b"HTTP/1.1 200 "), "somebody else's is not closed instead"
        for _ in range(MOST):
            assert said(address, LAST, ELSEWHERE).startswith(b"HTTP/1.1 200 ")
        first.close()
        answer, until_s = b"", time.monotonic() + PATIENCE_S
        while not answer and time.monotonic() < until_s:  # the server has to notice
            answer = said(address, LAST)
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("trusted", [(HERE,)])
def test_a_trusted_proxy_holds_the_connections_of_everybody(address: tuple[str, int]) -> None:
    with ExitStack() as held:
        for _ in range(MOST - 1):
            held.enter_context(live(address))
        assert said(address, LAST).startswith(b"HTTP/1.1 200 ")


def test_who_reads_nothing_is_closed(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    closed, lost = threading.Event(), protocol.Protocol.connection_lost

    def heard(self: protocol.Protocol, error: Exception | None) -> None:
        lost(self, error)
        closed.set()

    monkeypatch.setattr(protocol.Protocol, "connection_lost", heard)
    monkeypatch.setattr(protocol, "READ_S", 0.1)
    with connected(address) as client:
        client.sendall(GET.replace(b" / ", b" /flood "))
        assert closed.wait(PATIENCE_S)


def test_requests_one_after_another_and_at_once_are_answered(address: tuple[str, int]) -> None:
    assert said(address, GET + GET + LAST).count(b"HTTP/1.1 200 ") == 3
    spaced = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:  Chunked \r\n\r\n0\r\n\r\n"
    assert said(address, spaced + LAST).count(b"HTTP/1.1 200 ") == 2
    connection = HTTPConnection(*address, timeout=PATIENCE_S)
    for _ in range(3):
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
    connection.close()


CHUNKED, LENGTH = b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Host: a\r\n" + LENGTH + CHUNKED,
        b"Host: a\r\n" + CHUNKED + LENGTH,
        b"Host: a\r\nTransfer-Encoding: identity\r\n" + LENGTH,
        b"Host: a\r\nContent-Length: 4\r\n" + LENGTH,
        b"Host: a\r\nContent-Length: +5\r\n",
        b"Host: a\r\nTransfer-Encoding : chunked\r\n",
        b"Host: a\r\nTransfer-Encoding: chunked, identity\r\n",
        b"Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"Host: a\r\nTransfer-Encoding: gzip\r\n" + CHUNKED,
        b"Host: a\r\nHost: b\r\n",
        b"",
    ],
)
def test_a_request_of_two_meanings_is_refused_and_its_connection_closed(address: tuple[str, int], head: bytes) -> None:
    body = b"0\r\n\r\n" if b"Length" in head or b"Encoding" in head else b""  # five bytes, or the last chunk
    assert refused(said(address, b"POST / HTTP/1.1\r\n" + head + b"\r\n" + body + GET)) == 400


UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: "
)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])  # the server of these tests has none either
def test_an_upgrade_that_nobody_takes_is_a_request_like_any_other(address: tuple[str, int], protocol: bytes) -> None:
    """Java's client asks for HTTP/2 so, with a body too."""
    head = UPGRADE + protocol + b"\r\n"
    framed = (b"Content-Length: 2\r\n\r\nab", CHUNKED + b"\r\n1\r\nc\r\n2\r\nde\r\n0\r\n\r\n", b"\r\n")
    answers = said(address, b"".join(head + body for body in framed) + LAST).split(b"HTTP/1.1 200 ")[1:]
    assert [one.partition(b"\r\n\r\n")[2] for one in answers] == [b"ab", b"cde", b"", b"ok"]


@pytest.mark.parametrize(
    ("version", "options"),
    [(b"1.1", b"Upgrade, close"), (b"1.1", b"close, Upgrade"), (b"1.0", b"Upgrade"), (b"1.0", b"Upgrade, keep-alive")],
)
def test_an_upgrade_that_nobody_takes_may_be_the_last_request(
    address: tuple[str, int], version: bytes, options: bytes
) -> None:
    head = b"POST /echo HTTP/%b\r\nHost: a\r\nConnection: %b\r\nUpgrade: h2c\r\n" % (version, options)
    answer = said(address, head + b"Content-Length: 2\r\n\r\nab")
    assert (answer[:13], answer[-6:]) == (b"HTTP/1.1 200 ", b"\r\n\r\nab")
    with connected(address) as client:
        client.sendall(head + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"ab")
        assert rest(client).endswith(b"\r\n\r\nab"), "a body that comes later is read as well"


def test_the_body_of_an_upgrade_that_nobody_takes_is_no_request(address: tuple[str, int]) -> None:
    """However late it comes."""
    with connected(address) as client:
        client.sendall(UPGRADE + b"h2c\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(GET))
        assert client.recv(65_536).startswith(b"HTTP/1.1 100 ")
        client.sendall(GET + LAST)
        answers = rest(client).split(b"HTTP/1.1 200 ")[1:]
    assert [one.partition(b"\r\n\r\n")[2] for one in answers] == [GET, b"ok"]


def test_nobody_is_a_proxy(address: tuple[str, int]) -> None:
    for target in (b"a:443", b"/"):
        assert refused(said(address, b"CONNECT " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")) == 400


@pytest.mark.parametrize(("head", "status"), [(b"Host: a\r\nHost: b\r\n\r\n", 400), (b"Host: a\r\nX: %b\r\n\r\n", 431)])
def test_who_asks_for_the_head_alone_gets_no_more(address: tuple[str, int], head: bytes, status: int) -> None:
    head = head.replace(b"%b", LONG)
    whole, bare = [said(address, method + b" / HTTP/1.1\r\n" + head) for method in (b"GET", b"HEAD")]
    assert refused(whole) == status
    assert (len(bare), bare[-4:]) == (len(whole.partition(b"{")[0]), b"\r\n\r\n")


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_request_is_refused(address: tuple[str, int], sent: bytes) -> None:
    assert refused(said(address, sent)) == 400


LONG = b"x" * protocol.MOST_HEAD
POST = b"POST / HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + LONG + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + LONG + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * (protocol.MOST_HEAD // 6) + b"\r\n",
    ],
)
def test_a_header_above_the_limit_is_refused_and_its_connection_closed(address: tuple[str, int], head: bytes) -> None:
    assert refused(said(address, head)) == 431
    shorter = head[:100] + head[100 + 6 * 50 : -2] + b"Connection: close\r\n\r\n"
    assert said(address, shorter).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("begun", [b"GET /", GET[:-2] + b"X: ", GET[:-2], POST + b"X: ", POST, GET])
def test_nothing_is_kept_of_a_header_that_does_not_end(address: tuple[str, int], begun: bytes) -> None:
    """It is refused long before its time is over. Of lines without end too, and behind a body."""
    more = b"\r\n" * 5_000 if begun == GET else b"X: 1\r\n" * 2_000 if begun.endswith(b"\r\n") else b"x" * 10_000
    with connected(address) as client:
        client.sendall(begun)
        with suppress(ConnectionError):
            for _ in range(3_000):
                client.sendall(more)
            pytest.fail("all of it was read")


def test_a_body_is_no_header_however_it_comes(address: tuple[str, int]) -> None:
    chunks = b"1\r\nx\r\n" * protocol.MOST_HEAD + b"0\r\n\r\n"
    head = LAST.replace(b"GET", b"POST")[:-2]
    assert said(address, head + CHUNKED + b"\r\n" + chunks).startswith(b"HTTP/1.1 200 ")
    assert said(address, head + b"Content-Length: %d\r\n\r\n" % len(2 * LONG) + 2 * LONG).startswith(b"HTTP/1.1 200 ")


def test_the_cap_is_below_the_limit_of_descriptors() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 512), before[1]))  # so that there is what to raise
        most = protocol.most_connections()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert most <= soft // 2
        assert soft == min(hard, protocol.MOST_DESCRIPTORS) or hard == resource.RLIM_INFINITY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
