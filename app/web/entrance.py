"""Signing up, in and out, and the first page of those who have not."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.accounts import Accounts, Caller
from app.errors import Conflict, Forbidden, Invalid, TooMany, WrongPassword
from app.web import session
from app.web.caller import address_of, while_it_waits
from app.web.cast import Player, cast
from app.web.home_timeline import Draft, home_timeline
from app.web.problems import problem_of
from app.web.render import render
from app.web.request import address, to
from app.web.session import Session, field, local_address, open_session, posted, read_form
from app.web.state import services


async def _players(request: Request) -> Sequence[Player]:
    """Whom anybody may sign in as: in demo mode alone."""
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


async def sign_in_to_post(request: Request) -> Response:
    """For whoever has been signed out with a status in the field: it goes along. Raises Forbidden."""
    if session.from_elsewhere(request):
        raise Forbidden("This form was sent from another site.")
    return await _form(request, "sign_in.html", await read_form(request), 401)


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
    if request.method == "GET" and known.account:
        return to(_back(request, form))
    errors: dict[str, str] = {}
    status, headers = 200, dict[str, str]()
    if request.method == "POST":
        device = session.device(request)
        work = enter(services(request).accounts, form, Caller(address_of(request), device))
        try:
            return await _entered(request, form, *await while_it_waits(request, work), device)
        except (Invalid, Conflict, WrongPassword, TooMany) as error:
            problem = problem_of(error)
            status, headers = problem.status, problem.page_headers
            beside = "handle" if isinstance(error, Conflict) else "form"
            errors = dict(problem.errors) or {beside: problem.detail}
    response = await _form(request, template, form, status, errors)
    response.headers.update(headers)
    return response


async def _form(
    request: Request, template: str, form: FormData, status: int, errors: dict[str, str] | None = None
) -> Response:
    """`form`: what was sent, with the status that waits until somebody has signed in, if there is one."""
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
    """On to where they wanted to go; with an unsent status, to their timeline with it in its field."""
    response: Response = to(_back(request, form))
    if field(form, "text") and (account := await services(request).accounts.authenticate(token)):
        request.state.session = Session(account, token)
        draft = Draft(field(form, "text").replace("\r\n", "\n"), field(form, "audience"))
        response = await home_timeline(request, account, draft)
    session.begin(request, response, services(request).stack, token, expires_at, device)
    return response


async def sign_in_as(request: Request) -> Response:
    """Demo mode only: anybody may be anybody."""
    if not services(request).stack.config.demo:
        raise HTTPException(404)
    form = await posted(request)
    user = await services(request).social.person(field(form, "handle"))
    return await _entered(request, form, *await services(request).accounts.new_token(user.id))


async def sign_out(request: Request) -> Response:
    if (await open_session(request)).account is None:
        return to("/")
    await posted(request)
    token = session.session_token(request)
    await services(request).accounts.sign_out(token)
    request.app.state.streams.end(token)
    response = to("/")
    session.end(request, response)
    return response
