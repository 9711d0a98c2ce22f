"""Errors as answers: one table from exception to status, `application/problem+json` for programs, a page for people."""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response

from app import logs
from app.errors import Conflict, Forbidden, Invalid, NotFound, Refused, TooMany, WrongPassword
from app.stack import is_away
from app.web.limits import ORDINARY

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
FOR_PROGRAMS = ("/api/", "/live", "/healthz", "/readyz", "/metrics")
RETRY_LATER = {"Retry-After": "2"}  # seconds a server of ours takes to come back, or the driver to find a new primary
SAFE = frozenset({"GET", "HEAD"})
ONCE = "With the same Idempotency-Key or client_id it is done once."
MOST_TOLD = 20  # fields that are wrong
CHALLENGE = {"WWW-Authenticate": "Bearer"}

STATUS: Mapping[type[Refused], int] = {
    Invalid: 422,
    NotFound: 404,
    Forbidden: 403,
    Conflict: 409,
    WrongPassword: 401,
    TooMany: 429,
}

SENTENCES: Mapping[int, str] = {
    404: "There is nothing at this address.",
    405: "This address does not know the method; the header Allow says which it knows.",
    413: f"The body is larger than {ORDINARY.size // 1024} KiB.",
}

ErrorPage = Callable[[Request, int, str, str], Response]  # status, title, detail


@dataclass(frozen=True)
class Problem:
    """An error as a client sees it. `advice` is added for programs."""

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: list[tuple[str, str]] = field(default_factory=list)
    more: Mapping[str, object] = field(default_factory=dict)  # extension members
    advice: str = ""

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase

    @property
    def told(self) -> str:
        """The detail for a page. When one may try again, programs know by the header."""
        wait_s = int(self.headers.get("Retry-After", 0)) if self.status == 429 else 0
        when = f"{wait_s} s" if wait_s <= 90 else f"{math.ceil(wait_s / 60)} min"
        return f"{self.detail} Try again in {when}." if wait_s else self.detail

    @property
    def page_headers(self) -> dict[str, str]:
        """The headers for a page, without the challenge for programs: a browser would ask for a password itself."""
        return {name: value for name, value in self.headers.items() if name != "WWW-Authenticate"}

    def response(self) -> Response:
        """Return the problem as JSON (RFC 9457). Its type is about:blank, and its title the status's own."""
        content: dict[str, object] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": f"{self.detail} {self.advice}".rstrip(),
            **self.more,
        }
        if name := logs.REQUEST_ID.get():
            content["request_id"] = name
        if self.errors:
            content["errors"] = [{"field": name, "message": message} for name, message in self.errors]
        # ASCII: the name of a field may be anything that JSON can carry, lone surrogates too.
        return Response(json.dumps(content), self.status, {"Cache-Control": "no-store", **self.headers}, MEDIA_TYPE)


class Rejected(Exception):
    """A request that gets no further than the edge."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(status, detail, headers or {})


class FieldErrors(Rejected):
    """A request with wrong fields: (field, message) of each."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        """Say so of the first MOST_TOLD, so that the answer is not much longer than the request."""
        untold = len(errors) - MOST_TOLD
        detail = "Some fields are wrong." if untold <= 0 else f"Some fields are wrong: these, and {untold:,} more."
        self.problem = Problem(422, detail, errors=errors[:MOST_TOLD])


def away(method: str) -> str:
    """Say what it means for a request that a server is away: whether a change has been made is not known."""
    if method in SAFE:
        return "A server of ours is away or too slow. Nothing is lost; try again."
    return "A server of ours is away or too slow. What you asked for may have been done: look before you ask again."


def problem_of(error: Exception, method: str = "GET") -> Problem:
    """Return the answer to an error. An unexpected one is logged, under the request's id, which the client gets too."""
    if isinstance(error, Refused):
        status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, TooMany) else {}
        headers |= CHALLENGE if isinstance(error, WrongPassword) else {}
        errors = [(error.field, str(error))] if isinstance(error, Invalid) else []
        return Problem(status, str(error), headers, errors)
    if isinstance(error, Rejected):
        return error.problem
    if isinstance(error, HTTPException):
        said = error.detail != HTTPStatus(error.status_code).phrase
        detail = error.detail if said else SENTENCES.get(error.status_code, error.detail)
        return Problem(error.status_code, detail, error.headers or {})
    if is_away(error):
        log.warning("a server is away: %s", str(error)[:300])
        return Problem(503, away(method), RETRY_LATER, advice="" if method in SAFE else ONCE)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "The body ended early.")
    log.error("unexpected error", exc_info=error)
    name = logs.REQUEST_ID.get()
    return Problem(500, f"Something is wrong here, and it is not the request. In the log it is called {name}.")


class Errors:
    """Answers errors, in the form of whoever asked: a program or a person."""

    def __init__(self, error_page: ErrorPage) -> None:
        self.error_page = error_page

    async def answer(self, request: HTTPConnection, error: Exception) -> Response:
        problem = problem_of(error, request.scope.get("method", "GET"))
        if not isinstance(request, Request) or request.scope["path"].startswith(FOR_PROGRAMS):
            return problem.response()
        page = self.error_page(request, problem.status, problem.title, problem.told)
        page.headers.update(problem.page_headers)
        return page
