"""Raw bytes on WebSockets: whatever a client says, it is closed by the book, nothing fails, and the others live on."""

import asyncio
import logging
from random import Random

import pytest

from app.web import protocol
from tests.live import test_wire
from tests.live.test_wire import Events, Site, Socket, events

site = test_wire.site
pytestmark = pytest.mark.anyio

CASES = 60
CODES = {1000, 1002, 1007, 1008, 1009}
SAID = TEXT, BINARY = 1, 2
CLOSE, PING, PONG = 8, 9, 10


def frame(random: Random, opcode: int, payload: bytes, is_last: bool = True, flags: int = 0) -> bytes:
    mask = random.randbytes(4)
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return bytes([128 * is_last | flags | opcode]) + length + mask + masked


def words(random: Random) -> tuple[bytes, bool]:
    """And whether they may stay: the rest of a message may follow, or it is a ping."""
    match random.randrange(7):
        case 0:
            return random.randbytes(random.randrange(20, 300)), True
        case 1:
            opcode, is_last = random.randrange(16), random.random() < 0.8
            payload = random.randbytes(random.randrange(200))
            may_stay = is_last and len(payload) < 126 if opcode in (PING, PONG) else not is_last and opcode in SAID
            return frame(random, opcode, payload, is_last), may_stay
        case 2:
            opcode, flags = random.choice([TEXT, BINARY, PING]), random.choice([16, 32, 64, 112])
            return frame(random, opcode, b"hello", flags=flags), False
        case 3:
            size = random.choice([2**63 - 1, 2**64 - 1, 2**31])
            return b"\x82\xff" + size.to_bytes(8, "big") + random.randbytes(99), False
        case 4:  # more than 4 KiB in pieces
            parts = [frame(random, BINARY if n == 0 else 0, bytes(1_000), is_last=False) for n in range(6)]
            return b"".join(parts), False
        case 5:
            code = random.choice([0, 999, 1000, 1005, 1006, 5000, 65535])
            reason = random.choice([b"", b"\xff\xfe", bytes(123)])
            return frame(random, CLOSE, code.to_bytes(2, "big") + reason), False
        case _:
            said, at = bytearray(frame(random, TEXT, b"hello" * 20)), random.randrange(106)
            said[at] ^= 1 << random.randrange(8)
            return bytes(said), at < 2


async def ended(web: Socket, patience_s: float) -> int:
    """The code that it was closed with; raises TimeoutError while it stays."""
    async with asyncio.timeout(patience_s):
        while True:
            opcode, payload = await web.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1000
            assert opcode in (TEXT, PING, PONG)


async def lives(site: Site, stream: Events, author: dict[str, str]) -> None:
    posted = await site.http.post("/statuses", json={"text": "still here"}, headers=author)
    assert (await stream.next())[1:] == ("status", posted.json())


async def test_whatever_is_said_on_a_socket(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ann, bob, random = await site.person("ann"), await site.person("bob"), Random(14)
    await site.http.put("/follows/bob", headers=ann)
    codes = set()
    async with events(site, headers=ann) as stream:
        await stream.next()
        for _ in range(CASES):
            web = await Socket.open(site, headers=bob)
            assert (await web.next())[1] == "ready"
            said, may_stay = words(random)
            web.writer.write(said)
            try:
                code = await ended(web, 0.3 if may_stay else test_wire.PATIENCE_S)
                assert code in CODES, said
                codes.add(code)
            except TimeoutError:
                assert may_stay, said
            web.writer.close()
        await lives(site, stream, bob)
    assert codes >= {1002, 1008, 1009}
    await site.until_nobody_is_here()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


async def test_a_handshake_that_is_none_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    ann = await site.person("ann")
    lines = [f"Authorization: {ann['Authorization']}", "Host: h", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"]
    for without in lines[1:]:
        for instead in ("", without.split(":")[0] + ": \x80", without.split(":")[0] + ": 0"):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            head = [line for line in (*[each for each in lines if each != without], instead) if line]
            text = "\r\n".join(["GET /api/v1/live/socket HTTP/1.1", *head, "", ""])
            writer.write(text.encode("latin-1"))
            answer = await asyncio.wait_for(reader.read(12), test_wire.PATIENCE_S)
            writer.close()
            assert answer[:9] == b"HTTP/1.1 ", (without, instead)
            assert answer[9:10] == b"4" or without == "Host: h", (without, instead, answer)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PING_S", 0.1)
    monkeypatch.setattr(protocol, "PONG_S", 0.1)


async def test_who_does_not_answer_pings_is_closed(impatient: None, site: Site) -> None:
    ann, bob = await site.person("ann"), await site.person("bob")
    await site.http.put("/follows/bob", headers=ann)
    async with events(site, headers=ann) as stream:
        await stream.next()
        mute = await Socket.open(site, headers=bob)
        assert await mute.closed() == 1011
        await lives(site, stream, bob)
