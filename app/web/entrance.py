"""Signing up, in and out, and the first page of those who have not."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.accounts import Accounts, Caller
from app.errors import Conflict, Invalid, TooMany, WrongPassword
from app.web import session
from app.web.caller import address_of, while_it_waits
from app.web.cast import cast
from app.web.problems import problem_of
from app.web.render import render
from app.web.request import accounts_of, address, social_of, stack_of, timelines_of, to
from app.web.session import field, local_address, open_session, posted


async def welcome(request: Request) -> Response:
    stack = stack_of(request)
    return render(
        request,
        "welcome.html",
        story=timelines_of(request).phases.values(),
        cast=await cast(stack, request.app.state) if stack.config.demo else (),
        next=local_address(request.query_params.get("next", "/")),
    )


async def sign_up(request: Request) -> Response:
    return await _entrance(request, "sign_up.html", _sign_up)


async def sign_in(request: Request) -> Response:
    return await _entrance(request, "sign_in.html", _sign_in)


async def _sign_up(accounts: Accounts, form: FormData, caller: Caller) -> tuple[str, datetime]:
    user = await accounts.sign_up(field(form, "handle"), field(form, "name"), field(form, "password"), caller)
    return await accounts.new_token(user.id)


async def _sign_in(accounts: Accounts, form: FormData, caller: Caller) -> tuple[str, datetime]:
    return await accounts.sign_in(field(form, "handle").strip().removeprefix("@"), field(form, "password"), caller)


async def _entrance(
    request: Request,
    template: str,
    enter: Callable[[Accounts, FormData, Caller], Coroutine[Any, Any, tuple[str, datetime]]],
) -> Response:
    """The empty form, the form with what was wrong beside the fields, or the way in."""
    known = await open_session(request)
    form = await posted(request) if request.method == "POST" else FormData()
    back = local_address(field(form, "next") or request.query_params.get("next", "/"))
    if request.method == "GET" and known.account:
        return to(back)
    errors: dict[str, str] = {}
    status, headers = 200, dict[str, str]()
    if request.method == "POST":
        device = session.device(request)
        work = enter(accounts_of(request), form, Caller(address_of(request), device))
        try:
            return _entered(request, back, *await while_it_waits(request, work), device)
        except (Invalid, Conflict, WrongPassword, TooMany) as error:
            problem = problem_of(error)
            status, headers = problem.status, problem.page_headers
            beside = "handle" if isinstance(error, Conflict) else "form"
            errors = dict(problem.errors) or {beside: problem.detail}
    typed = {name: field(form, name) for name in ("handle", "name")}
    carry = "" if back == "/" else address("", next=back)
    response = render(request, template, status, errors=errors, typed=typed, next=back, carry=carry)
    response.headers.update(headers)
    return response


def _entered(request: Request, back: str, token: str, expires_at: datetime, device: str = "") -> Response:
    response = to(back)
    session.begin(request, response, stack_of(request), token, expires_at, device)
    return response


async def sign_in_as(request: Request) -> Response:
    """Demo mode only: anybody may be anybody."""
    if not stack_of(request).config.demo:
        raise HTTPException(404)
    form = await posted(request)
    user = await social_of(request).person(field(form, "handle"))
    return _entered(request, field(form, "next"), *await accounts_of(request).new_token(user.id))


async def sign_out(request: Request) -> Response:
    if (await open_session(request)).account is None:
        return to("/")
    await posted(request)
    token = session.session_token(request)
    await accounts_of(request).sign_out(token)
    request.app.state.streams.end(token)
    response = to("/")
    session.end(request, response)
    return response
