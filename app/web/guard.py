"""The middleware before every request: limits, security headers, and answers to errors."""

import re
import secrets
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.web.caller import host_name
from app.web.limits import limit_of
from app.web.problems import Errors, Rejected

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


BEGINNINGS = ("http.response.start", "websocket.http.response.start")  # of an answer, an upgrade that is refused too
HOSTS_KEPT = 64  # headers that somebody has sent
OTHERS_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Gives each request an id: in the log, in every error, and in the header X-Request-Id of its answer.

    A proxy's id is taken over if it is short and plain, whoever sends it: it only names what is said about this
    request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        name = given if OTHERS_ID.fullmatch(given) else secrets.token_hex(8).encode()
        token = logs.REQUEST_ID.set(name.decode())

        async def named(message: Message) -> None:
            if message["type"] in BEGINNINGS:
                message["headers"] = [*message["headers"], (b"x-request-id", name)]
            await send(message)

        try:
            await self.app(scope, receive, named)
        finally:
            logs.REQUEST_ID.reset(token)


RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class SecurityHeaders:
    """Puts the security headers on every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] in BEGINNINGS:
                its_own = {name.lower() for name, _ in message["headers"]}
                ours = [header for header in RAW_SECURITY_HEADERS if header[0] not in its_own]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        await self.app(scope, receive, with_headers)


class AllowedHosts:
    """Answers 421 to a request that was meant for somebody else's name, which leads here: DNS rebinding.

    Addresses, and names that no DNS has, cannot be somebody else's. `names`: ours beside these; None allows all.
    """

    def __init__(self, app: ASGIApp, errors: Errors, names: Collection[str] | None) -> None:
        self.app = app
        self.errors = errors
        self.names = names
        self._is_ours = lru_cache(HOSTS_KEPT)(self._is_for_us)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.names is None or scope["type"] == "lifespan" or self._is_ours(Headers(scope=scope).get("host", "")):
            return await self.app(scope, receive, send)
        error = Rejected(421, "This is not the site of that name. FEEDLAB_ALLOWED_HOSTS says which names are ours.")
        answer = await self.errors.answer(_asked(scope), error)
        return await answer(scope, receive, send)

    def _is_for_us(self, host: str) -> bool:
        name = host_name(host)
        return self.names is None or name in self.names or _is_local(name)


def _asked(scope: Scope) -> HTTPConnection:
    return Request(scope) if scope["type"] == "http" else HTTPConnection(scope)


def _is_local(name: str) -> bool:
    """Return whether a host is an IP address, or a name without a dot or of a reserved domain (RFC 6761)."""
    try:
        ip_address(name)
    except ValueError:
        return "." not in name or name.endswith((".localhost", ".test"))
    return True


class AnswerErrors:
    """Turns every error into an answer without a traceback; that of an unexpected error is in the log."""

    def __init__(self, app: ASGIApp, errors: Errors) -> None:
        self.app = app
        self.errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] in (*BEGINNINGS, "websocket.accept")
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if started or scope["type"] == "lifespan":
                raise
            answer = await self.errors.answer(_asked(scope), error)
            await answer(scope, receive, send)


class OneSocket:
    """404 for a WebSocket anywhere but at `path`: Starlette would close it, which is a 403 without a body."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self.app = app
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and scope["path"] != self.path:
            raise Rejected(404, "There is no WebSocket at this address.")
        await self.app(scope, receive, send)


class BodyLimit:
    """Answers 413 to a body above the limit: at once when its length is declared, else when the limit is passed.

    Starlette's own limit answers in plain text.
    """

    def __init__(self, app: ASGIApp, errors: Errors) -> None:
        self.app = app
        self.errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        limit = limit_of(scope["method"], scope["path"]).size
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
            answer = await self.errors.answer(Request(scope), _too_large(limit))
            return await answer(scope, receive, send)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        return await self.app(scope, limited, send)


def _too_large(limit: int) -> Rejected:
    return Rejected(413, f"The body is larger than {limit // 1024} KiB.")
