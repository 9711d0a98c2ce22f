"""The parts of a request that every page needs: its account, its form, and the part of a list that it means."""

import hashlib
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from bson import ObjectId
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.errors import Forbidden, NoAccount, NotFound, TooMany
from app.models import Account
from app.stack import is_away
from app.web.render import here
from app.web.session import PROOF, OutOfDate, field, local_address, open_session, posted, read_form
from app.web.state import in_time, services

Endpoint = Callable[[Request], Awaitable[Response]]
FORM = "application/x-www-form-urlencoded"  # nothing is typed into the one with a picture
PersonalEndpoint = Callable[[Request, Account], Awaitable[Response]]


def address(path: str, **query: object) -> str:
    given = {name: str(value) for name, value in query.items() if value}
    return path + (f"?{urlencode(given)}" if given else "")


def to(place: str) -> RedirectResponse:
    return RedirectResponse(local_address(place), 303)


def typed_is_kept(endpoint: Endpoint) -> Endpoint:
    """Make an endpoint whose error pages keep the form that was sent, to be sent once more.

    That is for errors whose reason is not in the form. The kept form has the proof that was sent, so another site's
    gets no further by it; a new one where it is one of ours that is out of date.
    """

    async def kept(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:
            its_form = is_away(error) or isinstance(error, (TooMany, NotFound, OutOfDate))
            if its_form and request.headers.get("content-type", "").startswith(FORM):
                form = await read_form(request)
                request.state.unsent = {name: field(form, name) for name in form}
                if isinstance(error, OutOfDate):
                    request.state.unsent[PROOF] = (await open_session(request)).proof()
            raise

    return kept


def signed_in(handler: PersonalEndpoint, *, limited: bool = True) -> Endpoint:
    """Make an endpoint for a user who is signed in; others sign in first and come back.

    `limited`: within the time that one request has.
    """

    async def endpoint(request: Request) -> Response:
        account = (await open_session(request)).account
        if account is None:
            back = here(request) if request.method == "GET" else await _wanted_next(request)
            return RedirectResponse(address("/sign-in", next=back and local_address(back)), 303)
        answer = handler(request, account)
        try:
            return await (in_time(request, answer) if limited else answer)
        except NoAccount as error:
            if error.who != account.id:
                raise
            return to("/sign-in")  # as whoever comes after the end of their account

    return endpoint


async def _wanted_next(request: Request) -> str:
    """Return where a form leads to: mostly where its button was. One with a file is not read for a stranger."""
    its_form = request.headers.get("content-type", "").startswith(FORM)
    return field(await read_form(request), "next") if its_form else ""


def for_operators(handler: PersonalEndpoint) -> Endpoint:
    async def endpoint(request: Request, me: Account) -> Response:
        if not await in_time(request, services(request).accounts.operates(me.id)):
            raise Forbidden("This is for administrators.")
        return await handler(request, me)

    return signed_in(endpoint, limited=False)


async def changing(request: Request, me: Account, files: int = 0) -> FormData:
    """Return the form of a user who changes something, and count the change. Raises Forbidden and TooMany."""
    form = await posted(request, files)
    await services(request).writes.count(me.id)
    return form


def idempotency_key(form: FormData, *said: str) -> str | None:
    """Return a key by which a double click sends once, and going back and sending something else sends twice."""
    once = field(form, "once")
    return hashlib.sha256("\0".join((once, *said)).encode(errors="replace")).hexdigest() if once else None


def before_of(request: Request) -> ObjectId | None:
    text = request.query_params.get("before")
    return None if text is None else id_in_text(text, "There is no such page.")


def id_of(request: Request) -> ObjectId:
    return id_in_text(request.path_params["id"], "There is no such status, or you may not see it.")


def id_in_text(text: str, refusal: str) -> ObjectId:
    """Return the id that an address names. Raises NotFound, with the refusal, where it is none."""
    if not ObjectId.is_valid(text):
        raise NotFound(refusal)
    return ObjectId(text)


def number_in_text(text: str, digits: int) -> int:
    """Return the number that an address or a form names. Raises NotFound where it is none, or has more digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= digits):
        raise NotFound("There is no such page.")
    return int(text)
