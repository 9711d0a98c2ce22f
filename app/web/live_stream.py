"""Live streams as the edge sends them: server-sent events, and the same on a WebSocket."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import NamedTuple

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from app.accounts import digest_of
from app.live.connection import LEFT, OVER, STILL_HERE, Connection, StreamEvent
from app.live.hub import Hub
from app.live.presence import Presences
from app.live.steps import as_json
from app.stack import within
from app.web.caller import address_of, while_it_waits
from app.web.opening import Admission, bad_ticket, opening
from app.web.session import session_token
from app.web.state import Services, in_time, services

MEDIA_TYPE = "text/event-stream"
AGAIN_MS = (1_000, 3_000)  # when a client comes back: not all of them at once


def position_of(request: HTTPConnection) -> str | None:
    """Return the position of a client that comes back: the id of the last event that it got."""
    return request.headers.get("last-event-id") or request.query_params.get("after") or None


async def connected(request: Request | WebSocket, admission: Admission, after: str | None) -> Connection:
    """Return a new connection to the hub, for a stream that the caller begins.

    Nobody waits for one behind clients that have gone. Raises TooMany, ClientDisconnect, OutOfTime as `Hub.open` does,
    and Rejected where another stream has spent the ticket meanwhile.
    """
    ours = services(request)
    await ours.openings.count(admission.account.id)
    return await while_it_waits(request, _connected(ours, admission, after))


async def _connected(ours: Services, admission: Admission, after: str | None) -> Connection:
    """Open a connection and spend the ticket. That is done last, so whoever is refused keeps it."""
    hub, presences, me = ours.hub, ours.presences, admission.account.id
    connection = await hub.open(me, admission.digest, after)
    try:
        await presences.connected(me, connection.name)
        if admission.ticket is not None:
            await _spend(ours, admission.ticket)
    except BaseException:
        hub.close(connection)
        await presences.gone(me, connection.name)
        raise
    return connection


async def _spend(ours: Services, ticket: str) -> None:
    if not await within(ours.stack.config.server_timeout_s, ours.accounts.spend(ticket)):
        raise bad_ticket()


async def events_for(request: Request, admission: Admission, after: str | None) -> "EventStream":
    connection = await connected(request, admission, after)
    return EventStream(OpenStream(services(request).hub, services(request).presences, connection, _send, _until_gone))


async def events_of_page(request: Request) -> Response:
    """Answer a page that is open with its stream. Its session says who asks, and its address whose page it is.

    Where nobody is signed in, or somebody else since the page was made, the answer is 204, which tells the browser not
    to come back.
    """
    token = session_token(request)
    async with opening(request, token):
        known = services(request).accounts.authenticate(token) if token else None  # nothing on a badge
        me = await in_time(request, known) if known else None
        if me is None:
            if token:
                await services(request).refusals.hit(address_of(request))
            return Response(status_code=204)
        if request.query_params.get("me", str(me.id)) != str(me.id):
            return Response(status_code=204)
        if request.method == "HEAD":
            return Response(headers={"Cache-Control": "no-store"}, media_type=MEDIA_TYPE)
        return await events_for(request, Admission(me, digest_of(token)), position_of(request))


STREAM = "feedlab.stream"  # the key in a scope for what goes on once all that stands before a request has returned


class OpenStream(NamedTuple):
    """A connection to the hub, and how its events are sent.

    `say`: sends them until there are no more. `listen`: closes the connection once its client goes or speaks.
    """

    hub: Hub
    presences: Presences
    connection: Connection
    say: Callable[[Send, Connection], Awaitable[None]]
    listen: Callable[[Receive, Connection], Coroutine[None, None, None]]

    async def last(self, receive: Receive, send: Send) -> None:
        """Go on until the connection ends."""
        listening = asyncio.create_task(self.listen(receive, self.connection))
        try:
            await self.say(send, self.connection)
        finally:
            listening.cancel()
            await self.end()
            with suppress(asyncio.CancelledError):
                await listening

    async def end(self) -> None:
        """End the connection, and with it the presence of its person."""
        self.hub.close(self.connection)
        await self.presences.gone(self.connection.me, self.connection.name)


class Lasting:
    """The outermost middleware, which runs a stream after the request that asked for it has returned.

    Below all that a request passes on its way, those frames and what they know of the request would be kept for as long
    as the stream lasts, and cost memory. A request that fails, because its client has gone or for whatever reason, ends
    its stream.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except BaseException:
            if STREAM in scope:
                await scope[STREAM].end()
            raise
        stream: OpenStream | None = scope.get(STREAM)
        if stream:
            method = scope.get("method")
            scope.clear()
            scope["method"] = method  # uvicorn asks whether it is HEAD
            await stream.last(receive, send)


class EventStream(Response):
    """The answer that is one connection to the hub, and lasts as long as that does."""

    def __init__(self, stream: OpenStream) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[STREAM] = self._stream
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


async def _send(send: Send, connection: Connection) -> None:
    text = f"retry: {random.randint(*AGAIN_MS)}\n\n"
    while True:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        events = await connection.take()
        if not events:
            break
        text = "".join(map(as_text, events))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive, connection: Connection) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.close(LEFT)


def as_text(event: StreamEvent) -> str:
    if event is STILL_HERE:
        return ": still here\n\n"
    return f"id: {event.id}\nevent: {event.name}\ndata: {event.data}\n\n"


async def converse(socket: WebSocket, connection: Connection) -> None:
    """Send events on a WebSocket, each as a text message. Whatever the client says ends it."""
    ours = services(socket)
    socket.scope[STREAM] = OpenStream(ours.hub, ours.presences, connection, _say, _listen)
    await socket.accept()


async def _say(send: Send, connection: Connection) -> None:
    with suppress(OSError):  # the client has gone
        while events := await connection.take():
            for event in events:
                if event is not STILL_HERE:  # uvicorn's pings say so
                    await send({"type": "websocket.send", "text": as_message(event)})
        if connection.end not in (None, LEFT):
            await send({"type": "websocket.close", "code": connection.end})


def as_message(event: StreamEvent) -> str:
    return f'{{"id":{as_json(event.id)},"event":{as_json(event.name)},"data":{event.data}}}'


async def _listen(receive: Receive, connection: Connection) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return connection.close(LEFT)
        if message["type"] == "websocket.receive":
            return connection.close(OVER)
