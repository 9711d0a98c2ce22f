"""One live stream over a raw socket, so that thousands of them cost little: server-sent events, or a WebSocket."""

import asyncio
import base64
import json
import os
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import httptools

PREFIX = "/api/v1"
FINAL, MASKED = 0x80, 0x80
Heard = Callable[[str, str, Any], None]  # the id of an event, its name, its data


class Opcode(IntEnum):
    TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Wire(asyncio.Protocol):
    """A raw connection with a stream.

    `status`: the HTTP status, 0 before the answer. `code`: the close code of a WebSocket. `cut_after`: so many bytes,
    and then the connection breaks, wherever that is.
    """

    kind = ""
    _transport: asyncio.Transport | None = None

    def __init__(self, head: str, heard: Heard) -> None:
        self.status, self.code = 0, 0
        self.cut_after: int | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head, self._heard = head, heard

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._head.encode())

    async def connect(self, host: str, port: int) -> None:
        """Connect, and ask for the stream. Raises OSError."""
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport, "it is connected"
        return self._transport

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.cut_after is not None and len(data) >= self.cut_after:
            self._feed(data[: self.cut_after])
            self.abort()
            return
        if self.cut_after is not None:
            self.cut_after -= len(data)
        self._feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():  # nobody waits any more
            self.ended.set_result(None)

    def _feed(self, data: bytes) -> None:
        raise NotImplementedError


class EventSource(Wire):
    """A stream by server-sent events."""

    kind = "sse"

    def __init__(self, host: str, token: str, after: str | None, heard: Heard) -> None:
        again = f"Last-Event-ID: {after}\r\n" if after else ""
        head = f"GET {PREFIX}/live HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{again}\r\n"
        super().__init__(head, heard)
        self._parser, self._text = httptools.HttpResponseParser(self), bytearray()

    def _feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        if self.status != 200:
            return
        self._text += part
        while (end := self._text.find(b"\n\n")) >= 0:
            fields = dict(line.split(": ", 1) for line in self._text[:end].decode().split("\n"))
            del self._text[: end + 2]
            if "event" in fields:
                self._heard(fields["id"], fields["event"], json.loads(fields["data"]))

    def on_message_complete(self) -> None:
        self.transport.close()


class WebSocket(Wire):
    """A stream by a WebSocket: RFC 6455, as far as a client needs it that only listens."""

    kind = "websocket"

    def __init__(self, host: str, token: str, after: str | None, heard: Heard) -> None:
        query, key = f"?after={after}" if after else "", base64.b64encode(os.urandom(16)).decode()
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        head = f"GET {PREFIX}/live/socket{query} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        super().__init__(f"{head}{upgrade}Sec-WebSocket-Key: {key}\r\n\r\n", heard)
        self._bytes = bytearray()

    def _feed(self, data: bytes) -> None:
        self._bytes += data
        if not self.status and (end := self._bytes.find(b"\r\n\r\n")) >= 0:
            self.status = int(self._bytes.split(b" ", 2)[1])
            del self._bytes[: end + 4]
        if self.status == 101:
            while frame := self._frame():
                self._take(*frame)
        elif self.status:
            self.transport.close()

    def _frame(self) -> tuple[int, bytes] | None:
        """Take the next whole frame: its opcode and its payload; None where none is there yet."""
        data = self._bytes
        if len(data) < 2:
            return None
        length, begin = data[1], 2
        if length >= 126:
            begin = 4 if length == 126 else 10
            length = int.from_bytes(data[2:begin], "big")
        if len(data) < begin + length:
            return None
        first, payload = data[0], bytes(data[begin : begin + length])
        if not first & FINAL:
            raise ValueError("the server sends whole messages")
        del data[: begin + length]
        return first & 15, payload

    def _take(self, opcode: int, payload: bytes) -> None:
        match opcode:
            case Opcode.TEXT:
                said = json.loads(payload)
                self._heard(said["id"], said["event"], said["data"])
            case Opcode.PING:
                self.transport.write(framed(Opcode.PONG, payload))
            case Opcode.CLOSE:
                self.code = int.from_bytes(payload[:2], "big")
                self.transport.close()


def framed(opcode: int, payload: bytes) -> bytes:
    """Return a short frame of a client, masked with zeros."""
    return bytes([FINAL | opcode, MASKED | len(payload), 0, 0, 0, 0]) + payload
