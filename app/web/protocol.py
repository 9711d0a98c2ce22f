"""HTTP/1.1 by uvicorn, with deadlines and caps: on connections, on an address's share of them, and on headers.

No request that can be read in two ways is let through.
"""

import asyncio
import resource
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Response

from app.web.caller import network_of
from app.web.limits import limit_of
from app.web.problems import Problem

HEAD_S = 10.0  # from the connection, or the first byte of a further request, to the end of the header
MOST_HEAD = 64 * 1024  # bytes of a request that are not its body
READ_S = 30.0  # how long a client may read nothing of what is sent to it
MOST_CONNECTIONS = 10_000
MOST_DESCRIPTORS = 65_536  # more is never needed, and some systems have no limit
LONGEST_WORDS = 4 * 1024  # bytes of a WebSocket's message: clients have nothing to say
PING_S, PONG_S = 10.0, 20.0  # to every WebSocket, and how long it may take to answer


def _last_words(status: int, detail: str) -> bytes:
    """Return a problem as the last answer on a connection. It has no request's id: none has been read."""
    answer = Problem(status, detail).response()
    headers = [b"%b: %b\r\n" % header for header in answer.raw_headers]
    return b"HTTP/1.1 %d %b\r\n%bconnection: close\r\n\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        b"".join(headers),
        bytes(answer.body),
    )


NO_REQUEST = _last_words(400, "This is no request of HTTP/1.1, or one that can be read in two ways.")
NO_HANDSHAKE = _last_words(400, "This is no handshake of a WebSocket.")
TOO_LARGE = _last_words(431, f"The line and the header of a request have at most {MOST_HEAD // 1024} KiB.")
TOO_LATE = _last_words(408, "The header of the request did not come to its end in time.")
BODY_TOO_LATE = _last_words(408, "The body did not come to its end in time.")


def most_connections() -> int:
    """Raise the limit of file descriptors as far as allowed, and return half of it: the most connections to hold."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(limit // 2, MOST_CONNECTIONS)


class Connections(ServerState):
    """The state of a server, uvicorn's and ours.

    `waiting`: connections that wait for no answer of ours, the oldest first.

    One address has half of them at `most`, unless it is `trusted`: that of a proxy, which has those of everybody.
    """

    def __init__(self, most: int, trusted: Callable[[str], bool] = lambda _: False) -> None:
        super().__init__()
        self.most, self.trusted = most, trusted
        self.waiting: dict[Protocol, None] = {}
        self.held: Counter[str] = Counter()  # by the address that they come from

    def let_go(self, address: str) -> None:
        self.held[address] -= 1
        if self.held[address] <= 0:
            del self.held[address]


class Parser(httptools.HttpRequestParser):
    """A parser that reads requests also where nobody takes the upgrade that they ask for.

    httptools ends such a request with its header: a body would be the next request. So the header is read once more,
    without the upgrade (RFC 9110, 7.8: it may be ignored). Another parser reads it, and all that follows: one that has
    read `Connection: close`, or HTTP/1.0, reads no further request.
    """

    __slots__ = ("_protocol",)

    def __init__(self, protocol: "Protocol") -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self._protocol = protocol

    def feed_data(self, data: "bytes | bytearray | memoryview[int] | array[int]") -> None:
        parser, protocol, rest = self, self._protocol, memoryview(data)
        while True:
            try:
                super(Parser, parser).feed_data(rest)
                return
            except httptools.HttpParserUpgrade as ended:
                if not protocol.ignores_upgrade:
                    raise
                rest = rest[ended.args[0] :]
            head = protocol.head_without_upgrade()
            parser = protocol.parser = Parser(protocol)
            super(Parser, parser).feed_data(head)


class Connection(asyncio.Protocol):
    """A connection that counts until it has ended, and is closed where its client reads nothing."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _state: Connections
    _address = ""  # of a proxy, or of who has gone already
    _reading: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._state.let_go(self._address)
        self.resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading:
            self._reading.cancel()
            self._reading = None


class Protocol(Connection, HttpToolsProtocol):
    """A connection that is closed at a deadline while we wait for it, and earlier where another one needs its place."""

    _deadline: asyncio.TimerHandle | None = None
    _upgraded = False
    url = b""  # that of the request, once its method has been read
    _head = 0  # bytes of a header or a trailer that have come, without those of the read that it began in

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.parser = Parser(self)
        self._state = cast(Connections, self.server_state)

    @property
    def ignores_upgrade(self) -> bool:
        """Whether this header asks for an upgrade that nobody here takes."""
        return self.parser.should_upgrade() and not self._should_upgrade()

    def head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version), *lines, b"", b""])

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        state = self._state
        if self.client and not state.trusted(self.client[0]):
            self._address = network_of(self.client[0])
            state.held[self._address] += 1
        if state.held[self._address] > state.most // 2:
            self._make_room(other for other in state.waiting if other._address == self._address)
        elif len(self.connections) > state.most:
            self._make_room(state.waiting)
        self._wait(HEAD_S, self.transport.close)

    def _make_room(self, waiting: "Iterable[Protocol]") -> None:
        oldest = next(iter(waiting), self)
        oldest.transport.abort()
        oldest._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._go_on()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the protocol for WebSockets, which counts it from now on."""
        self._upgraded = True
        self._go_on()
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # it holds us, until the next full collection

    def _wait(self, seconds: float, close: Callable[[], None]) -> None:
        self._go_on()
        self._state.waiting[self] = None
        self._deadline = self.loop.call_later(seconds, close)

    def _go_on(self) -> None:
        self._state.waiting.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close(self, last_words: bytes) -> None:
        if self._idle:
            self._say(last_words)
        self.transport.close()

    def _close_at_late_body(self) -> None:
        """Close the connection, with last words unless its answer has begun, or another one is before it."""
        if not self.cycle.response_started and not self.pipeline:
            self._say(BODY_TOO_LATE)
            self.cycle.disconnected = True  # an answer of the application's would come behind the last words
        self.transport.close()

    def _say(self, last_words: bytes) -> None:
        """Send last words, with the date; to HEAD, as far as that is known, without the body."""
        head, end, body = last_words.partition(b"\r\n\r\n")
        dated = [head, *(b"%b: %b" % header for header in self.server_state.default_headers)]
        is_head = self.url and self.parser.get_method() == b"HEAD"
        self.transport.write(b"\r\n".join(dated) + end + (b"" if is_head else body))

    def data_received(self, data: bytes) -> None:
        """Count the bytes of the header, which the parser keeps until it ends; close a connection at too many."""
        self._head += len(data)
        super().data_received(data)
        if self._upgraded:
            return
        if self._head > MOST_HEAD and not self.transport.is_closing():
            self._close(TOO_LARGE)
        if self._idle and not self._deadline and not self.timeout_keep_alive_task:
            # Empty lines between two requests have ended uvicorn's own deadline.
            self._wait(HEAD_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        if self._head > MOST_HEAD:
            self._close(TOO_LARGE)
        else:
            self._say(NO_REQUEST)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._wait(HEAD_S, partial(self._close, TOO_LATE))

    def on_headers_complete(self) -> None:
        """Refuse a header that can be read in two ways.

        An error here is answered with 400, and the connection is closed.

        RFC 9112, 3.2; llhttp refuses two lengths by itself (6.3).
        """
        self._head = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if self._head > MOST_HEAD:
            raise ValueError("too large a header")
        names = [name for name, _ in self.headers]
        if any(name == b"transfer-encoding" and value.rstrip().lower() != b"chunked" for name, value in self.headers):
            raise ValueError("a coding that nobody here reads")
        if names.count(b"host") != 1 and not (self.parser.get_http_version() == "1.0" and b"host" not in names):
            raise ValueError("not one host")
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("no proxy")
        if self.ignores_upgrade:
            return  # it comes once more
        super().on_headers_complete()
        self._head = 0
        limit = limit_of(self.scope["method"], self.scope.get("path", ""))
        self._wait(limit.seconds, self._close_at_late_body)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._head = 0

    def on_message_complete(self) -> None:
        if self.ignores_upgrade:
            return
        super().on_message_complete()
        self._head = 0
        self._go_on()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._idle and not self._deadline:  # else a body or the next request is under way
            self._state.waiting[self] = None


def _rejected(status: int, text: str) -> Response:
    """Return a refusal of the library for WebSockets, or of uvicorn, as a problem: they would say it in plain text."""
    status = int(status)  # an HTTPStatus, maybe
    answer = Problem(status, text.partition("\n")[0] or "This is no WebSocket.").response()
    headers = Headers([("Date", formatdate(usegmt=True)), ("Connection", "close"), *answer.headers.items()])
    return Response(status, HTTPStatus(status).phrase, headers, bytes(answer.body))


class WebSocket(Connection, WebSocketsSansIOProtocol):
    """A connection after its upgrade. It still counts."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self.conn.reject = _rejected  # type: ignore[method-assign]
        self._state = cast(Connections, server_state)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        trusted = not self.client or self._state.trusted(self.client[0])
        self._address = "" if trusted or not self.client else network_of(self.client[0])

    def data_received(self, data: bytes) -> None:
        """Answer a handshake that the library refuses.

        It refuses a body, another method or a long line, which the first parser allows. uvicorn would send neither the
        library's answer nor ours, and hold the connection for ever.
        """
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.close_sent:
            self.transport.write(b"".join(self.conn.data_to_send()) or NO_HANDSHAKE)
            self.close_sent = self.handshake_complete = True
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Send a message of the application, without two errors of uvicorn's.

        Where the handshake ends in an answer of ours, it logs that there was none. To a client that has gone it sends
        nothing, and takes the next message for a mistake of the application.
        """
        if self.transport.is_closing() and not self.handshake_complete:
            raise ClientDisconnected
        await super().send(message)
        self.handshake_complete = self.handshake_complete or self.close_sent

    def start_keepalive(self) -> None:
        """Drop the request after the handshake: it would be kept as long as the connection, here and by its parser."""
        self.request.headers.clear()
        self.request = self.response = None  # type: ignore[assignment]
        super().start_keepalive()

    def handle_text(self, event: Any) -> None:
        """Take a text without decoding it.

        Nobody reads what clients say, and uvicorn logs a traceback of invalid UTF-8.
        """
        self.handle_bytes(event)
