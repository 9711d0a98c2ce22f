"""The system under test as one person's client sees it: the use cases in this process, or the API over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from bson import ObjectId

from app.errors import Refused
from app.models import Audience
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.stack import Stack, is_away
from app.stack.cost import Cost, counted
from benchmarks.tokens import give
from phases.timelines import Timelines

BODY_LIMIT = 4 * 1024 * 1024  # bytes of one answer
CONNECTIONS = 64
ANSWER_S = 90.0  # longest wait for one: a request may wait for servers for a minute
IDLE_S = 2.0  # an idle connection is not used again after so long: the server closes it after five

Relating = Literal["follow", "unfollow", "block"]
RELATING: dict[Relating, tuple[str, str]] = {
    "follow": ("PUT", "follows"),
    "unfollow": ("DELETE", "follows"),
    "block": ("PUT", "blocks"),
}  # (method, path)


class Failed(Exception):
    """An operation was not answered, or answered with an error; `kind` is what is counted."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class WrongAnswer(Exception):
    """A page differs from the oracle's, so there are no figures."""


@dataclass(frozen=True)
class Seen:
    """A page as its reader sees it. `cost`: commands that were asked for, by the process that answered."""

    ids: Sequence[ObjectId]
    next: ObjectId | None
    cold: bool
    cost: Cost


class InProcess:
    """The system without HTTP: the figures are the phases' own, and this process is the web process."""

    def __init__(self, stack: Stack, timelines: Timelines) -> None:
        self._timelines = timelines
        self._relations, self._statuses = Relations(stack, timelines.outbox), Statuses(stack, timelines.outbox)

    async def page(self, reader: ObjectId, phase: str, before: ObjectId | None, limit: int) -> Seen:
        with counted() as cost:
            page = await _answered(self._timelines.page(reader, phase=phase, before=before, limit=limit))
        return Seen([status.id for status in page.statuses], page.next, page.cold, cost)

    async def post(self, author: ObjectId, text: str, audience: Audience, key: str) -> tuple[ObjectId, Cost | None]:
        with counted() as cost:
            status, _ = await _answered(self._statuses.post(author, text, audience, key))
        return status.id, cost

    async def delete(self, author: ObjectId, status: ObjectId) -> None:
        await _answered(self._statuses.delete(author, status))

    async def relate(self, who: ObjectId, relation: Relating, other: ObjectId) -> None:
        edges = self._relations
        change = {"follow": edges.follow, "unfollow": edges.unfollow, "block": edges.block}[relation]
        await _answered(change(who, other))


async def _answered(call: Any) -> Any:
    try:
        return await call
    except Exception as error:
        if not (is_away(error) or isinstance(error, Refused)):
            raise
        raise Failed(type(error).__name__) from error


class Http:
    """A small HTTP/1.1 client: kept-alive connections, bodies of known length. It has to cost next to nothing."""

    def __init__(self, host: str, port: int, patience_s: float = ANSWER_S) -> None:
        self._host, self._port, self._patience_s = host, port, patience_s
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []  # since when
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def ask(self, method: str, path: str, body: Any = None, headers: str = "") -> tuple[int, bytes]:
        """Send a request, and return status and body. Raises Failed when the connection breaks or says nothing."""
        payload = b"" if body is None else json.dumps(body).encode()
        content = f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n" if body is not None else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{headers}{content}\r\n"
        async with self._slots:
            try:
                async with asyncio.timeout(self._patience_s), self._connection() as (reader, writer):
                    writer.write(head.encode() + payload)
                    return await _response(reader)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                raise Failed(type(error).__name__) from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Yield an idle connection, or a new one. It is kept for the next request unless the block raises."""
        now = asyncio.get_running_loop().time
        while self._idle:
            since, reader, writer = self._idle.pop()
            if since > now() - IDLE_S and not reader.at_eof():
                break
            writer.close()
        else:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            yield reader, writer
        except BaseException:
            writer.close()
            raise
        self._idle.append((now(), reader, writer))

    async def close(self) -> None:
        for _, _, writer in self._idle:
            writer.close()
            await writer.wait_closed()


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    length = 0 if status == HTTPStatus.NO_CONTENT else int(headers["content-length"])
    if length > BODY_LIMIT:
        raise ValueError(f"an answer of {length:,} bytes")
    return status, await reader.readexactly(length)


class Api:
    """The system through the web process of `feedlab serve`, each person with a token of their own."""

    def __init__(self, stack: Stack, http: Http, handles: dict[ObjectId, str]) -> None:
        self._stack, self._http, self.handles = stack, http, handles
        self._tokens: dict[ObjectId, str] = {}

    async def enter(self, people: Sequence[ObjectId]) -> None:
        """Give each of these people a token. Who has none asks for nothing: to make one is no part of an operation."""
        self._tokens |= await give(self._stack, people)

    async def ask(self, person: ObjectId, method: str, path: str, body: Any = None, key: str = "") -> bytes:
        """Send a request, and return its answer as it came. Raises Failed."""
        headers = f"Authorization: Bearer {self._tokens[person]}\r\n" + (f"Idempotency-Key: {key}\r\n" if key else "")
        status, answer = await self._http.ask(method, f"/api/v1{path}", body, headers)
        if status >= HTTPStatus.BAD_REQUEST:
            raise Failed(f"HTTP {status}")
        return answer

    async def page(self, reader: ObjectId, phase: str, before: ObjectId | None, limit: int) -> Seen:
        cursor = f"&before={before}" if before else ""
        page = json.loads(await self.ask(reader, "GET", f"/timeline?phase={phase}&limit={limit}{cursor}"))
        cost = page["cost"]
        return Seen(
            [ObjectId(status["id"]) for status in page["statuses"]],
            ObjectId(page["next"]) if page["next"] else None,
            cost["cold"],
            Cost(cost["mongodb"], cost["memcached"], cost["redis"]),
        )

    async def post(self, author: ObjectId, text: str, audience: Audience, key: str) -> tuple[ObjectId, Cost | None]:
        status = {"text": text, "audience": audience}
        stored = json.loads(await self.ask(author, "POST", "/statuses", status, key))
        return ObjectId(stored["id"]), None

    async def delete(self, author: ObjectId, status: ObjectId) -> None:
        await self.ask(author, "DELETE", f"/statuses/{status}")

    async def relate(self, who: ObjectId, relation: Relating, other: ObjectId) -> None:
        method, what = RELATING[relation]
        await self.ask(who, method, f"/{what}/{self.handles[other]}")


Subject = InProcess | Api  # every method raises Failed; the cost of a post is None where it is not known
