"""Live streams as the edge sends them: server-sent events, and the same on a WebSocket."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

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
    return EventStream(services(request).hub, services(request).presences, connection)


async def events_of_page(request: Request) -> Response:
    """Answer a page that is open with its stream. Its session says who asks.

    Where nobody is signed in the answer is 204, which tells the browser not to come back.
    """
    token = session_token(request)
    async with opening(request, token):
        known = services(request).accounts.authenticate(token) if token else None  # nothing on a badge
        me = await in_time(request, known) if known else None
        if me is None:
            if token:
                await services(request).refusals.hit(address_of(request))
            return Response(status_code=204)
        if request.method == "HEAD":
            return Response(headers={"Cache-Control": "no-store"}, media_type=MEDIA_TYPE)
        return await events_for(request, Admission(me, digest_of(token)), position_of(request))


REST = "feedlab.rest"  # the key in a scope for what goes on once all that stands before a request has returned


class Lasting:
    """The outermost middleware, which runs a stream after the request that asked for it has returned.

    Below all that a request passes on its way, those frames and what they know of the request would be kept for as long
    as the stream lasts, and cost memory.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        rest: Callable[[Receive, Send], Awaitable[None]] | None = scope.get(REST)
        if rest:
            method = scope.get("method")
            scope.clear()
            scope["method"] = method  # uvicorn asks whether it is HEAD
            await rest(receive, send)


class EventStream(Response):
    """The answer that is one connection to the hub, and lasts as long as that does."""

    def __init__(self, hub: Hub, presences: Presences, connection: Connection) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._hub, self._presences, self._connection = hub, presences, connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[REST] = partial(_stream, self._hub, self._presences, self._connection)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


async def _stream(hub: Hub, presences: Presences, connection: Connection, receive: Receive, send: Send) -> None:
    listening = asyncio.create_task(_until_gone(receive, connection))
    try:
        text = f"retry: {random.randint(*AGAIN_MS)}\n\n"
        while True:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            events = await connection.take()
            if not events:
                break
            text = "".join(map(as_text, events))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await _end(hub, presences, connection, listening)


async def _end(hub: Hub, presences: Presences, connection: Connection, listening: "asyncio.Task[None]") -> None:
    """End a connection, and with it the presence of its person."""
    listening.cancel()
    hub.close(connection)
    await presences.gone(connection.me, connection.name)
    with suppress(asyncio.CancelledError):
        await listening


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
    socket.scope[REST] = partial(_converse, services(socket).hub, services(socket).presences, connection)
    with suppress(WebSocketDisconnect):  # the client has gone, as is found out at once
        await socket.accept()


async def _converse(hub: Hub, presences: Presences, connection: Connection, receive: Receive, send: Send) -> None:
    listening = asyncio.create_task(_listen(receive, connection))
    try:
        with suppress(OSError):  # the client has gone
            await _say(send, connection)
    finally:
        await _end(hub, presences, connection, listening)


async def _say(send: Send, connection: Connection) -> None:
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
