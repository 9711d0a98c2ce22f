"""The raw HTTP limit, in a process of its own: bare Starlette routes, served as `feedlab serve` serves its own.

`/page` sends the commands of a page written by hand: the token, a look at what is pending, the reader's list, the
statuses. It uses PyMongo's asynchronous client and a bare connection to Memcached, checks nothing, and answers with
bytes that were there before. It is fixed, whatever Feedlab's own page does. `/` answers nothing at all.
"""

import asyncio
import gc
import hashlib
import json
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import uvicorn
from bson import ObjectId
from pymongo import AsyncMongoClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.servers.children import OURS, end_with_parent
from app.servers.probe import dial

COMMAND = (*OURS, "benchmarks.raw_page")
EMPTY, PAGE = "/", "/page"
ID_BYTES = 12
CONNECT_S = STOP_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Page:
    """The commands that `/page` sends, and the answer it gives.

    `prefix`: what stands before a reader's id in the key of their list, which holds packed ids and nothing else.
    """

    mongodb: str
    database: str
    memcached: str
    prefix: str
    pending: str
    limit: int
    answer: str


@contextmanager
def serving(page: Page | None = None) -> Iterator[int]:
    """Run the process until the block ends, and yield its port. Without a page it has the empty route alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        process = subprocess.Popen(COMMAND, pass_fds=(fd,), stdin=subprocess.PIPE)
        assert process.stdin
        try:
            # On its input, not its command line: a URL may hold a password.
            process.stdin.write(json.dumps({"fd": fd, "page": page and asdict(page)}).encode() + b"\n")
            process.stdin.flush()
            yield int(listener.getsockname()[1])
        finally:
            process.terminate()
            process.stdin.close()
            process.wait(STOP_DEADLINE_S)


class _Lists(asyncio.Protocol):
    """A connection to Memcached, whose `get`s are answered in turn (memcached/doc/protocol.txt, "Retrieval")."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._came = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def get(self, key: bytes) -> "asyncio.Future[bytes]":
        self._transport.write(b"get %s\r\n" % key)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        return answer

    def data_received(self, data: bytes) -> None:
        self._came += data
        while b"\r\n" in self._came:
            head, _, rest = self._came.partition(b"\r\n")
            length = 0 if head == b"END" else int(head.rpartition(b" ")[2])
            if length and len(rest) < length + len(b"\r\nEND\r\n"):
                return
            self._came = rest[length + len(b"\r\nEND\r\n") :] if length else rest
            self._waiting.popleft().set_result(rest[:length])

    def connection_lost(self, error: Exception | None) -> None:
        for answer in self._waiting:
            answer.set_exception(error or ConnectionError("memcached has closed the connection"))


async def _empty(_: Request) -> JSONResponse:
    return JSONResponse({})


def _application(page: Page | None) -> Starlette:
    if page is None:
        return Starlette(routes=[Route(EMPTY, _empty)])
    body = page.answer.encode()

    @asynccontextmanager
    async def connected(app: Starlette) -> AsyncIterator[None]:
        lists = dial(page.memcached, CONNECT_S)
        lists.setblocking(False)
        async with AsyncMongoClient[dict[str, Any]](page.mongodb) as client:
            loop = asyncio.get_running_loop()
            _, app.state.lists = await loop.create_connection(_Lists, sock=lists)
            app.state.db = client[page.database]
            yield

    async def answer(request: Request) -> Response:
        db, lists = request.app.state.db, request.app.state.lists
        digest = hashlib.sha256(request.headers["authorization"].removeprefix("Bearer ").encode()).digest()
        token = await db["tokens"].find_one({"digest": digest}, {"user_id": 1, "expires_at": 1})
        look = db["statuses"].find({"pending": page.pending}, {"user_id": 1}).sort("_id", -1)
        await look.limit(page.limit).to_list()
        packed = await lists.get(f"{page.prefix}{token['user_id']}".encode())
        ids = [ObjectId(packed[at : at + ID_BYTES]) for at in range(0, page.limit * ID_BYTES, ID_BYTES)]
        await db["statuses"].find({"_id": {"$in": ids}}).batch_size(page.limit + 1).to_list()
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route(EMPTY, _empty), Route(PAGE, answer)], lifespan=connected)


def _serve(fd: int, app: Starlette) -> None:
    """Serve on a socket that the parent listens on."""
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", server_header=False))
    gc.freeze()  # as in a web process
    # By its number alone, so that the protocol is known: without it asyncio does not switch Nagle's algorithm off.
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[socket.socket(fileno=fd)]))


def _main() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    _serve(asked["fd"], _application(asked["page"] and Page(**asked["page"])))


if __name__ == "__main__":
    _main()
