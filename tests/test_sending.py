"""Pictures that go out, over a real uvicorn, to those who read them slowly."""

import asyncio
import socket
from collections.abc import AsyncIterator
from itertools import count
from random import Random
from unittest.mock import patch

import pytest
from bson import ObjectId

from app.inbox.pictures import EACH_OUT, IMAGES, LARGEST_KEPT
from app.inbox.places import Places
from app.web import health, protocol
from app.web.api import PREFIX
from tests.live.test_wire import PATIENCE_S, Site, running

pytestmark = pytest.mark.anyio

MB = 1024 * 1024
BUFFER = 64 * 1024  # bytes that the system keeps of a connection, on either side
HOURS_S = 10_000
EVERYBODY = ("ann", "bob")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(send_buffer=BUFFER) as site:
        yield site


async def people(site: Site) -> list[dict[str, str]]:
    return [await site.person(handle) for handle in EVERYBODY]


async def picture(site: Site, size: int) -> tuple[str, bytes]:
    """A picture for everybody here: its path, and its bytes."""
    services, id, data = site.app.state.services, ObjectId(), Random(size).randbytes(size)
    readers = [(await services.people.by_handle(handle)).id for handle in EVERYBODY]
    await services.stack.db[IMAGES].insert_one({"_id": id, "type": "image/png", "data": data, "readers": readers})
    return f"/images/{id}", data


class Reader:
    """A client that reads no more of its answer than it is asked to."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._socket.setblocking(False)
        self.head, self.body = b"", bytearray()

    @classmethod
    async def of(cls, site: Site, path: str, headers: dict[str, str]) -> "Reader":
        """Whoever has read the header, and no more than that."""
        one, loop = cls(), asyncio.get_running_loop()
        await loop.sock_connect(one._socket, ("127.0.0.1", site.port))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        asked = f"GET {PREFIX}{path} HTTP/1.1\r\nHost: feedlab.test\r\n{lines}Connection: close\r\n\r\n"
        await loop.sock_sendall(one._socket, asked.encode())
        while not one.head.endswith(b"\r\n\r\n"):
            one.head += (some := await one._some(1))
            assert some, one.head
        return one

    async def _some(self, most: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.get_running_loop().sock_recv(self._socket, most)

    async def read(self) -> int:
        """Read some; return how many bytes there were."""
        self.body += (some := await self._some(BUFFER // 4))
        return len(some)

    async def read_all(self) -> bytes:
        try:
            while await self.read():
                pass
        except ConnectionResetError:
            pass
        return bytes(self.body)

    def close(self) -> None:
        self._socket.close()


async def until_answered(site: Site, path: str, headers: dict[str, str], status: int) -> None:
    """The server has to notice what a client has done."""
    async with asyncio.timeout(PATIENCE_S):
        while (await site.http.get(path, headers=headers)).status_code != status:
            pass


async def test_one_person_is_sent_only_so_many_pictures_at_once(site: Site) -> None:
    """Each is in memory until it is read, or its reader goes. Others have theirs."""
    (ann, bob), (path, data) = await people(site), await picture(site, LARGEST_KEPT)
    slow = [await Reader.of(site, path, ann) for _ in range(EACH_OUT // LARGEST_KEPT)]
    for one in slow:
        assert one.head.startswith(b"HTTP/1.1 200 ")
    refused = await site.http.get(path, headers=ann)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert (await site.http.get(path, headers=bob)).content == data
    assert await slow[0].read_all() == data
    await until_answered(site, path, ann, 200)
    slow.append(await Reader.of(site, path, ann))
    assert (await site.http.get(path, headers=ann)).status_code == 429
    slow[1].close()
    await until_answered(site, path, ann, 200)
    for one in slow:
        one.close()


@pytest.mark.parametrize(("slowest", "status"), [(1e-9, 429), (1e12, 200)])
async def test_who_reads_slowly_makes_room(site: Site, slowest: float, status: int) -> None:
    """Once a picture would have gone out at the slowest pace: then it is broken off, where somebody else needs room."""
    (ann, bob), (path, data) = await people(site), await picture(site, 2 * MB)
    site.app.state.services.pictures.outgoing = Places(3 * MB, 3 * MB, slowest, "Too many.")
    slow = await Reader.of(site, path, ann)
    answer = await site.http.get(path, headers=bob)
    assert (answer.status_code, len(answer.content) == len(data)) == (status, status == 200)
    assert (await slow.read_all() == data) == (status == 429)
    slow.close()


async def test_who_reads_slowly_has_all_of_a_picture(site: Site) -> None:
    """A client is closed that reads less within `protocol.READ_S` than the server has ready: pieces, not the whole."""
    (ann, _), (path, data) = await people(site), await picture(site, 4 * MB)
    pause, resume, since = protocol.Protocol.pause_writing, protocol.Protocol.resume_writing, list[int]()

    def pauses(self: protocol.Protocol) -> None:
        pause(self)
        since[:] = [0]

    def resumes(self: protocol.Protocol) -> None:
        resume(self)
        since.clear()

    with patch.multiple(protocol.Protocol, pause_writing=pauses, resume_writing=resumes):
        slow, longest, times = await Reader.of(site, path, ann), 0, 0
        while read := await slow.read():
            since[:] = [bytes_read + read for bytes_read in since]
            times += bool(since)
            longest = max(longest, *since, 0)
    assert slow.body == data
    assert times
    assert longest < MB
    slow.close()


async def test_the_time_that_a_reader_takes_is_none_of_ours(site: Site) -> None:
    (ann, _), (path, data), clock = await people(site), await picture(site, 2 * MB), count()
    name = 'feedlab_http_request_duration_seconds_{}{{route="/api/v1/images/{{image}}"}}'

    async def counted(of: str) -> float:
        lines = (await site.http.get(f"http://127.0.0.1:{site.port}/metrics")).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name.format(of)))

    before = await counted("count"), await counted("sum")
    with patch.object(health, "perf_counter", clock.__next__):
        slow = await Reader.of(site, path, ann)
        for _ in range(HOURS_S):
            next(clock)
        assert await slow.read_all() == data
        async with asyncio.timeout(PATIENCE_S):
            while await counted("count") == before[0]:
                pass
    assert await counted("sum") - before[1] < HOURS_S
    slow.close()
