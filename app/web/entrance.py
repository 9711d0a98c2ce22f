"""Signing up, in and out, and the first page of visitors who are not signed in."""

import re
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from bson import ObjectId
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.accounts import Accounts, Caller, checked_handle, checked_name, checked_password, normal_handle
from app.errors import Conflict, Forbidden, Invalid, NotFound, TooMany, WrongPassword
from app.models import Account
from app.web import session
from app.web.caller import address_of, while_it_waits
from app.web.cast import Player, cast
from app.web.conversations import with_unsent
from app.web.home_timeline import Draft, home_timeline
from app.web.problems import FieldErrors, problem_of
from app.web.render import render
from app.web.request import Endpoint, PersonalEndpoint, address, signed_in, to
from app.web.session import OutOfDate, Session, field, local_address, open_session, posted, read_form
from app.web.side_by_side import COMPARE, side_by_side
from app.web.state import in_time, services

OUT_OF_DATE = "This form was out of date; this one is not. If you are told so again, your browser keeps no cookies."
CONVERSATION = "/conversations/([0-9a-f]{24})"


async def _players(request: Request) -> Sequence[Player]:
    """Return the people whom anybody may sign in as: some in demo mode, else none."""
    return await cast(services(request).stack, request.app.state) if services(request).stack.config.demo else ()


async def welcome(request: Request) -> Response:
    return render(
        request,
        "welcome.html",
        story=services(request).timelines.phases.values(),
        cast=await _players(request),
        carried={"next": local_address(request.query_params.get("next", "/"))},
    )


async def sign_up(request: Request) -> Response:
    return await _entrance(request, "sign_up.html", _sign_up)


async def sign_in(request: Request) -> Response:
    return await _entrance(request, "sign_in.html", _sign_in)


def typed(handler: PersonalEndpoint) -> Endpoint:
    """Make an endpoint of a form with a text keep that text for a user who has been signed out meanwhile.

    They sign in first, and have the text in its field again.
    """

    async def endpoint(request: Request) -> Response:
        known = await open_session(request)
        return await (signed_in(handler) if known.account else _sign_in_to_send)(request)

    return endpoint


async def _sign_in_to_send(request: Request) -> Response:
    """Ask for signing in, with the text that was to be sent going along. Raises Forbidden."""
    if session.from_elsewhere(request):
        raise Forbidden("This form was sent from another site.")
    return await _form(request, "sign_in.html", await read_form(request), 401)


def _handle(form: FormData) -> str:
    """Return the handle as it was meant: phones put a space behind a word, and some write it with its @."""
    return field(form, "handle").strip().removeprefix("@")


NEW = {"handle": checked_handle, "name": checked_name, "password": checked_password}


async def _sign_up(accounts: Accounts, form: FormData, caller: Caller) -> tuple[str, datetime]:
    """Sign somebody up. Raises FieldErrors, with all that is wrong, and Conflict and TooMany."""
    given = {name: field(form, name) for name in NEW} | {"handle": _handle(form)}
    wrong = []
    for name, check in NEW.items():
        try:
            check(given[name])
        except Invalid as error:
            wrong.append((name, str(error)))
    if wrong:
        raise FieldErrors(wrong)
    user = await accounts.sign_up(given["handle"], given["name"], given["password"], caller)
    return await accounts.new_token(user.id)


async def _sign_in(accounts: Accounts, form: FormData, caller: Caller) -> tuple[str, datetime]:
    return await accounts.sign_in(_handle(form), field(form, "password"), caller)


async def _entrance(
    request: Request,
    template: str,
    enter: Callable[[Accounts, FormData, Caller], Coroutine[Any, Any, tuple[str, datetime]]],
) -> Response:
    """Answer the empty form, the form with what was wrong beside the fields, or the way in."""
    known = await open_session(request)
    try:
        form = await posted(request) if request.method == "POST" else FormData()
    except OutOfDate:
        return await _once_more(request, template)
    if request.method == "GET" and known.account:
        return to(_back(request, form))
    errors: dict[str, str] = {}
    status, headers = 200, dict[str, str]()
    if request.method == "POST":
        device = session.device(request)
        work = enter(services(request).accounts, form, Caller(address_of(request), device))
        try:
            return await _entered(request, form, *await while_it_waits(request, work), device)
        except (FieldErrors, Conflict, WrongPassword, TooMany) as error:
            problem = problem_of(error)
            status, headers = problem.status, problem.page_headers
            beside = "handle" if isinstance(error, Conflict) else "form"
            errors = dict(problem.errors) or {beside: problem.told}
    response = await _form(request, template, form, status, errors)
    response.headers.update(headers)
    return response


async def _once_more(request: Request, template: str) -> Response:
    """Answer a form that is out of date, as one that was pressed twice or is in another tab is. Nothing is done.

    Whoever is signed in as the person that it names goes on. Others have what they typed, but for the password, in a
    form that is not out of date.
    """
    form, account = await read_form(request), (await open_session(request)).account
    if account and account.handle == normal_handle(_handle(form)):
        return await _gone_on(request, form, session.session_token(request))
    return await _form(request, template, form, 403, {"form": OUT_OF_DATE})


async def _form(
    request: Request, template: str, form: FormData, status: int, errors: dict[str, str] | None = None
) -> Response:
    """Render the form. `form`: what was sent, with the text, if any, that waits until somebody has signed in."""
    back = _back(request, form)
    return render(
        request,
        template,
        status,
        errors=errors or {},
        typed={name: field(form, name) for name in ("handle", "name")},
        carry="" if back == "/" else address("", next=back),
        carried={"next": back} | {name: value for name in ("text", "audience") if (value := field(form, name))},
        cast=await _players(request),
    )


def _back(request: Request, form: FormData) -> str:
    return local_address(field(form, "next") or request.query_params.get("next", "/"))


async def _entered(request: Request, form: FormData, token: str, expires_at: datetime, device: str = "") -> Response:
    """Sign in and go on."""
    response = await _gone_on(request, form, token)
    session.begin(request, response, services(request).stack, token, expires_at, device)
    return response


async def _gone_on(request: Request, form: FormData, token: str) -> Response:
    """Go on to the wanted page. A text that was not sent is in its field there."""
    shown = await in_time(request, _with_its_text(request, form, token)) if field(form, "text") else None
    return shown or to(_back(request, form))


async def _with_its_text(request: Request, form: FormData, token: str) -> Response | None:
    """Render the page that the text was typed on; None where somebody else had typed it, who alone may see it."""
    account = await services(request).accounts.authenticate(token)
    if account is None:
        return None
    request.state.session = Session(account, token)
    with suppress(NotFound):
        return await _there(request, account, form)
    return None


async def _there(request: Request, me: Account, form: FormData) -> Response:
    """Render the page that the text was typed on, with the text. Raises NotFound for somebody else's conversation."""
    text, back = field(form, "text"), _back(request, form)
    if talk := re.fullmatch(CONVERSATION, back):
        return await with_unsent(request, me, ObjectId(talk[1]), text)
    if back == COMPARE:
        return await side_by_side(request, me, text)
    return await home_timeline(request, me, Draft(text, field(form, "audience")))


async def sign_in_as(request: Request) -> Response:
    """Sign in as anybody, without a password: in demo mode only."""
    if not services(request).stack.config.demo:
        raise HTTPException(404)
    try:
        form = await posted(request)
    except OutOfDate:
        return await _once_more(request, "sign_in.html")
    return await _entered(request, form, *await in_time(request, _as_anybody(request, field(form, "handle"))))


async def _as_anybody(request: Request, handle: str) -> tuple[str, datetime]:
    user = await services(request).people.by_handle(handle)
    return await services(request).accounts.new_token(user.id)


async def sign_out(request: Request) -> Response:
    if (await open_session(request)).account is None:
        return to("/")
    await posted(request)
    token = session.session_token(request)
    await in_time(request, services(request).accounts.sign_out(token))
    request.app.state.streams.end(token)
    response = to("/")
    session.end(request, response)
    return response
