"""An API operation as data, and how a table of them becomes Starlette routes.

The same table becomes the OpenAPI document (`app/web/openapi.py`), so the two cannot differ.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import parse_qsl

from bson import ObjectId
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from app.accounts import Holder, digest_of
from app.edges import Versions
from app.errors import Forbidden, NoAccount
from app.models import Account, Person
from app.stack.mongodb.joined import joined
from app.stack.outage import is_away
from app.web.opening import Admission, bad_ticket, opening
from app.web.problems import CHALLENGE, SAFE, FieldErrors, Rejected
from app.web.state import Services, in_time, services

T = TypeVar("T")

JSON = "application/json"
QUERIES_KEPT = 256

# Turns of the event loop from the beginning of a look-up until it is sent, as measured. Whatever is ready to run before
# would delay it, instead of filling the time until MongoDB answers.
TURNS_UNTIL_SENT = 3

Auth = Literal["none", "person", "admin", "ticket"]  # a ticket, or a token as everywhere


@dataclass
class Call:
    """A request whose parts have been checked.

    `body`, `query` and `headers` are the models of its operation, and `prepared` is what it has prepared. `versions`:
    those of the caller, where the answer has looked them up.
    """

    request: Request
    account: Account | None = None
    body: Any = None
    query: Any = None
    headers: Any = None
    admission: Admission | None = None  # to a stream
    versions: Versions | None = None
    people: Mapping[ObjectId, Person] = field(default_factory=dict)  # the caller, where the answer shows them
    prepared: Any = None

    @cached_property
    def services(self) -> Services:
        return services(self.request)

    @property
    def me(self) -> Account:
        assert self.account, "the operation needs a token"
        return self.account

    @cached_property
    def token(self) -> str:
        return bearer_token(self.request) or ""


@dataclass(frozen=True)
class Reply:
    """The answer of an operation. `parts`: those of a JSON document that is made while it is sent."""

    status: int
    content: BaseModel | dict[str, Any] | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: AsyncIterator[bytes] | None = None

    def response(self) -> Response:
        headers = {"Cache-Control": "no-store", **self.headers}
        if self.parts is not None:
            return StreamingResponse(self.parts, self.status, headers, JSON)
        if self.content is None:
            return Response(status_code=self.status, headers=headers)
        if isinstance(self.content, bytes):
            return Response(self.content, self.status, headers, JSON)
        return Response(to_json(self.content), self.status, headers, JSON)


@dataclass(frozen=True)
class Operation:
    """An operation of the API.

    `answers`: what success looks like, by status. `refusals`: why it may fail, beyond what follows from the rest.
    `hashes`: it takes its time, and whoever waits for that has no deadline. `shows_caller`: the answer shows the
    caller's name. `finds_versions`: it looks up the caller's versions for the answer. `prepare`: makes what `call` then
    finds in `Call.prepared`, and changes nothing: the token may still be looked up. `takes`: the media type of a body
    that it reads itself. `sends`: the media types of its answer, where that is no JSON.
    """

    method: str
    path: str
    summary: str
    call: Callable[[Call], Awaitable[Reply | Response]]
    answers: Mapping[int, type[BaseModel] | None]
    auth: Auth = "person"
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: type[BaseModel] | None = None
    refusals: Mapping[int, str] = field(default_factory=dict)
    hashes: bool = False
    shows_caller: bool = False
    finds_versions: bool = False
    prepare: Callable[[Call], Awaitable[object]] | None = None
    takes: str | None = None
    sends: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The operation's name, unique among them: `put_follows_handle`."""
        return re.sub(r"\W+", "_", f"{self.method.lower()}{self.path}").strip("_")

    async def answer(self, request: Request) -> Response:
        """Answer a request. Whose account is deleted meanwhile is told what whoever comes later is told."""
        call = Call(request)
        try:
            return await self._answer(call)
        except NoAccount as error:
            if call.account is None or error.who != call.me.id:
                raise
            raise _no_token_any_more() from None

    async def _answer(self, call: Call) -> Response:
        """Answer a call: who asks -> may they -> what do they say -> the answer."""
        request = call.request
        if self.auth == "ticket":
            async with opening(request, call.token):
                call.admission = await admitted(request)
                return await self._reply(call)
        if self.auth == "person" and self.method in SAFE and (known := call.services.accounts.remembered(call.token)):
            call.account = known.account
            if self.finds_versions:
                return await self._reply_at_versions(call, known)
            with joined():
                return await _if(_signed_in(request), self._reply(call))
        if self.auth == "person" and self.prepare and (known := call.services.accounts.remembered(call.token)):
            return await self._reply_once_entered(call, known)
        if self.auth != "none":
            await self._enter(call)
        if self.auth == "admin" and not await in_time(request, call.services.accounts.operates(call.me.id)):
            raise Forbidden("Only administrators may do this.")
        return await self._reply(call)

    async def _enter(self, call: Call) -> None:
        """Look up who calls, and their name where the answer shows it; count a change of theirs.

        For somebody remembered, the versions that say whether the token is good mostly say that the name is, too.
        """
        if self.shows_caller:
            await self._enter_by_name(call)
        else:
            call.account = await _signed_in(call.request)
        if self.method not in SAFE:
            await call.services.writes.count(call.me.id)

    async def _enter_by_name(self, call: Call) -> None:
        accounts, versions = call.services.accounts, None
        if known := accounts.remembered(call.token):
            versions = await in_time(call.request, accounts.good_versions(known))
        call.account = known.account if known and versions else await _signed_in(call.request)
        names = versions.names if versions else None
        call.people = await in_time(call.request, call.services.people.by_ids([call.me.id], names))

    async def _reply_once_entered(self, call: Call, known: Holder) -> Response:
        """Prepare the change of somebody remembered while their token is looked up, and make it once that is good.

        What is wrong with the call is told to nobody before.
        """
        call.account = known.account

        async def prepared() -> None:
            for _ in range(TURNS_UNTIL_SENT):
                await asyncio.sleep(0)
            await self._prepare(call)

        await _if(self._enter(call), prepared())
        return await self._call(call)

    async def _reply_at_versions(self, call: Call, known: Holder) -> Response:
        """Make the answer to somebody remembered. The versions that it has looked up say whether the token is good.

        It is given to nobody before that is known, and neither is what was wrong with the call.
        """
        try:
            reply = await self._reply(call)
        except Exception as error:
            if not is_away(error):
                await _signed_in(call.request)
            raise
        if not call.services.accounts.is_good(known, call.versions):
            await _signed_in(call.request)
        return reply

    async def _reply(self, call: Call) -> Response:
        await self._prepare(call)
        return await self._call(call)

    async def _prepare(self, call: Call) -> None:
        """Read what the call says, and prepare its change."""
        request = call.request
        if self.query:
            call.query = _query(self.query, request.scope["query_string"])
        if self.headers:
            call.headers = _parsed(self.headers, _own_headers(self.headers, request))
        if self.body:
            call.body = _parsed(self.body, await _json(request))
        if self.prepare:
            call.prepared = await in_time(request, self.prepare(call))

    async def _call(self, call: Call) -> Response:
        # it hashes a password, waits for a picture or opens a stream, which take their time
        unlimited = self.hashes or self.auth in ("none", "ticket")
        reply = await (self.call(call) if unlimited else in_time(call.request, self.call(call)))
        if isinstance(reply, Response):
            return reply
        assert reply.status in self.answers, f"{self.method} {self.path} does not document {reply.status}"
        return reply.response()


async def _if(signed_in: Awaitable[object], answer: Coroutine[Any, Any, T]) -> T:
    """Make the answer, or prepare it, while the token of somebody remembered is looked up, and return it.

    It is given to nobody before the token is known to be good.
    """
    answering = asyncio.create_task(answer)
    try:
        await signed_in
    except BaseException:
        answering.cancel()
        await asyncio.wait([answering])
        raise
    return await answering


def bearer_token(request: HTTPConnection) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


async def admitted(request: HTTPConnection) -> Admission:
    """Return whom a stream is opened for.

    They come with a ticket in the address, since browsers can send no header with a stream, or with a token. Raises
    Rejected.
    """
    ticket = request.query_params.get("ticket")
    if ticket is None:
        return Admission(await _signed_in(request), digest_of(bearer_token(request) or ""))
    found = await in_time(request, services(request).accounts.holder_of(ticket))
    if found is None:
        raise bad_ticket()
    return Admission(*found, ticket)


async def _signed_in(request: HTTPConnection) -> Account:
    token = bearer_token(request)
    if not token:
        raise Rejected(401, "This call needs a token: Authorization: Bearer <token>.", CHALLENGE)
    account = await in_time(request, services(request).accounts.authenticate(token))
    if account is None:
        raise _no_token_any_more()
    return account


def _no_token_any_more() -> Rejected:
    said = "The token is unknown, expired or signed out."
    return Rejected(401, said, {"WWW-Authenticate": 'Bearer error="invalid_token"'})


@lru_cache(QUERIES_KEPT)  # most readers ask for the same first page
def _query(model: type[BaseModel], given: bytes) -> BaseModel:
    return _parsed(model, _once(parse_qsl(given.decode("latin-1"), keep_blank_values=True)))


def _parsed(model: type[BaseModel], given: object) -> BaseModel:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        raise FieldErrors([(".".join(map(str, e["loc"])) or "body", e["msg"]) for e in wrong]) from None


def _once(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    named = dict(pairs)
    if len(named) < len(pairs):
        times = Counter(name for name, _ in pairs)
        raise FieldErrors([(name, "Given more than once.") for name in named if times[name] > 1])
    return named


def _own_headers(model: type[BaseModel], request: Request) -> dict[str, str]:
    names = [info.alias or name for name, info in model.model_fields.items()]
    return _once([(name, value) for name in names for value in request.headers.getlist(name)])


async def _json(request: Request) -> object:
    """Read the body, if it is JSON as RFC 8259 has it: UTF-8, no NaN, and no key twice.

    Raises Rejected.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Rejected(415, "The body is sent as it is, without an encoding.", {"Accept-Encoding": "identity"})
    media_type, _, parameters = ",".join(request.headers.getlist("content-type") or [JSON]).partition(";")
    charset = parameters.lower().replace(" ", "").replace('"', "")
    if media_type.strip().lower() != JSON or charset not in ("", "charset=utf-8", "charset=utf8"):
        raise Rejected(415, "The body is application/json in UTF-8.", {"Accept": JSON})
    body = await request.body()
    try:
        return json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_no_key_twice)
    except RecursionError:
        raise Rejected(400, "The JSON is nested too deeply.") from None
    except ValueError as error:  # json.JSONDecodeError, UnicodeDecodeError, and a number of thousands of digits
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise Rejected(400, f"The body is not JSON in UTF-8{where}.") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def routes_of(operations: Sequence[Operation]) -> list[BaseRoute]:
    """Return one route per path, which knows all methods of the path.

    A 405 lists them all, and OPTIONS answers with them.
    """
    paths: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = operation
    return [_route(path, methods) for path, methods in paths.items()]


def _route(path: str, operations: Mapping[str, Operation]) -> Route:
    allowed = ", ".join([*operations, *(["HEAD"] if "GET" in operations else []), "OPTIONS"])

    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        if method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allowed})
        if method not in operations:
            raise Rejected(405, f"Allowed here: {allowed}.", {"Allow": allowed})
        return await operations[method].answer(request)

    route = Route(path, endpoint)
    route.methods = None  # every method comes here
    return route
