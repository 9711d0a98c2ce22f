"""The settings of one's own account: name, password, presence, a copy of everything, and deletion."""

from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.accounts import Caller
from app.errors import Invalid, Refused, TooMany, WrongPassword
from app.models import Account, User
from app.web import session
from app.web.caller import address_of, while_it_waits
from app.web.done import done
from app.web.export import as_file, exported
from app.web.problems import problem_of
from app.web.render import render
from app.web.request import changing
from app.web.session import field, session_token
from app.web.state import services


async def settings(request: Request, me: Account) -> Response:
    return await _page(request, me)


async def rename(request: Request, me: Account) -> Response:
    name = field(await changing(request, me), "name")
    try:
        await services(request).renames.count(me.id)
        await services(request).people.rename(me, name)
    except (Invalid, TooMany) as error:
        return await _page(request, me, "name", error, name)
    return done(request, "/settings", "renamed")


async def hide(request: Request, me: Account) -> Response:
    seen_by = field(await changing(request, me), "presence")
    if seen_by not in ("mutuals", "nobody"):
        return await _page(request, me, "presence", Invalid("presence", "Choose who sees whether you are here."))
    hidden = seen_by == "nobody"
    await services(request).accounts.hide(me, hidden)
    return done(request, "/settings", "hidden" if hidden else "shown")


async def change_password(request: Request, me: Account) -> Response:
    form = await changing(request, me)
    accounts, token = services(request).accounts, session_token(request)
    work = accounts.change_password(me, token, field(form, "old"), field(form, "new"), _caller(request))
    if refused := await _refusal(request, work):
        return await _page(request, me, "new" if isinstance(refused, Invalid) else "old", refused)
    return done(request, "/settings", "password")


async def delete(request: Request, me: Account) -> Response:
    form = await changing(request, me)
    if not field(form, "sure"):
        return await _page(request, me, "sure", Invalid("sure", "Tick this box if you are sure."))
    if refused := await _refusal(
        request, services(request).accounts.delete(me, field(form, "password"), _caller(request))
    ):
        return await _page(request, me, "password", refused)
    request.app.state.streams.end(session_token(request))
    response = done(request, "/", "left")
    session.end(request, response)
    return response


async def export(request: Request, me: Account) -> Response:
    await services(request).exports.count(me.id)
    headers = {"Cache-Control": "no-store", **as_file(me)}
    return StreamingResponse(await exported(request, me), headers=headers, media_type="application/json")


async def _refusal(request: Request, work: Coroutine[Any, Any, None]) -> Refused | None:
    try:
        await while_it_waits(request, work)
    except (Invalid, WrongPassword, TooMany) as error:
        return error
    return None


def _caller(request: Request) -> Caller:
    return Caller(address_of(request), session.device(request))


async def _page(
    request: Request, me: Account, beside: str = "", refused: Refused | None = None, typed: str | None = None
) -> Response:
    """Render the settings. `beside`: the field that was refused. `typed`: a name that was refused."""
    user = await User.find_one({"_id": me.id})
    assert user, "accounts are never removed"
    errors: dict[str, Any] = {}
    status, headers = 200, dict[str, str]()
    if refused:
        problem = problem_of(refused)
        wrong = "This is not your password." if isinstance(refused, WrongPassword) else problem.told
        status, headers, errors = problem.status, problem.page_headers, {beside: wrong}
    response = render(
        request,
        "settings.html",
        status,
        errors=errors,
        name=user.name if typed is None else typed,
        hidden=user.presence == "nobody",
        has_password=user.password_hash is not None,
    )
    response.headers.update(headers)
    return response
