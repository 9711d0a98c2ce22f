"""The cookie session of the pages, and the proof that a form comes from one of them.

The cookie holds the same bearer token that the API gives out. A visitor who is signed out gets a random cookie
instead, so that the forms for signing up and in are bound to one browser too.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.errors import Forbidden
from app.models import Account
from app.stack import Stack
from app.stack.mongodb.joined import joined
from app.web.caller import host_name
from app.web.state import in_time, services

SESSION = "feedlab_session"
VISITOR = "feedlab_visitor"
DEVICE = "feedlab_device"  # outlives the session: who signs in from it is known, whatever strangers try meanwhile
YEAR_S = 365 * 86_400
PROOF = "proof"  # the field of every form that is sent with POST
LONGEST_COOKIE = 200  # characters; ours have 43
FIELDS = 100  # that a form may have
MOST_ON_A_BADGE = 10  # more is not counted
PORTS = {"http": 80, "https": 443}


class OutOfDate(Forbidden):
    """The browser says that one of our pages sent this form, and has had another cookie since it got that page."""


@dataclass(frozen=True, slots=True)
class Session:
    """The account that asks (None: nobody is signed in), and the secret cookie that this answer's forms are bound to.

    `unread` counts their notifications, `talking` their conversations with unread messages, up to MOST_ON_A_BADGE.
    """

    account: Account | None
    secret: str
    new_visitor: bool = False
    unread: int = 0
    talking: int = 0

    def proof(self) -> str:
        return hmac.digest(self.secret.encode(), b"feedlab form", hashlib.sha256).hex()


def cookie_name(request: Request, name: str) -> str:
    """Return the name of a cookie, with the port in it.

    Browsers send the cookies of all ports of a host to each of them.
    """
    port = re.search(r":(?!80$|443$)([0-9]{1,5})$", request.headers.get("host", ""))
    return f"{name}_{port[1]}" if port else name


def _cookie(request: Request, name: str) -> str:
    """Return the value of a cookie of ours as it was sent; "" where there is none. Ours need no quotes.

    Starlette's `cookies` would unquote everybody's, for which Python before 3.12.6 needs a time that grows with the
    square of their length (CVE-2024-7592).
    """
    ours, value = cookie_name(request, name), ""
    for cookie in ";".join(request.headers.getlist("cookie")).split(";"):
        its_name, _, its_value = cookie.partition("=")
        if its_name.strip() == ours:
            value = its_value.strip()
    return value if len(value) <= LONGEST_COOKIE and value.isascii() else ""


def known_session(request: Request) -> Session | None:
    """Return the session if this request has opened it already. No server is asked."""
    found: Session | None = getattr(request.state, "session", None)
    return found


async def open_session(request: Request) -> Session:
    """Return the session of the request's cookie. The servers are asked once per request."""
    if session := known_session(request):
        return session
    request.state.session = session = await in_time(request, _session(request))
    return session


async def _session(request: Request) -> Session:
    accounts = services(request).accounts
    if token := _cookie(request, SESSION):
        known = accounts.remembered(token)
        with joined():  # of somebody remembered both travel in one command
            account, badges = await asyncio.gather(
                accounts.authenticate(token), _badges(request, known and known.account)
            )
        if account:
            unread, talking = badges if known else await _badges(request, account)
            return Session(account, token, unread=unread, talking=talking)
    if visitor := _cookie(request, VISITOR):
        return Session(None, visitor)
    return Session(None, secrets.token_urlsafe(32), new_visitor=True)


async def _badges(request: Request, account: Account | None) -> tuple[int, int]:
    if not account:
        return 0, 0
    notifications = services(request).notifications
    conversations = services(request).conversations
    unread, talking = await asyncio.gather(
        notifications.unread(account.id, MOST_ON_A_BADGE), conversations.unread(account.id, MOST_ON_A_BADGE)
    )
    return unread.number, talking


async def posted(request: Request, files: int = 0) -> FormData:
    """Return the form that was sent, with so many files at most.

    Raises Forbidden unless one of our pages, opened by this browser, sent it; OutOfDate where one did that was made
    before somebody signed in or out.
    """
    session = await open_session(request)
    form = await read_form(request, files)
    if from_elsewhere(request) or not hmac.compare_digest(field(form, PROOF).encode(), session.proof().encode()):
        if _from_here(request):
            now = f"; you are @{session.account.handle} now" if session.account else ""
            raise OutOfDate(f"This form is from before you last signed in or out{now}. Reload its page for a new one.")
        raise Forbidden(
            "This form is out of date or was sent from another site. Go back, reload the page and try again."
        )
    return form


async def read_form(request: Request, files: int = 0) -> FormData:
    """Read a form in UTF-8, as our pages send it: another charset could get around checks of its text."""
    _, parameters = parse_options_header(request.headers.get("content-type"))
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise HTTPException(415, "A form is sent in UTF-8.")
    return await request.form(max_files=files, max_fields=FIELDS)


def from_elsewhere(request: Request) -> bool:
    """Return whether the browser says that another site sent this.

    Either header may be absent (old browsers, plain HTTP).
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    if origin is None or _same_site(origin, request.headers.get("host", "")):
        return False
    stack = services(request).stack
    return host_name(origin.partition("://")[2]) not in stack.config.allowed_hosts  # a proxy may have changed Host


def _from_here(request: Request) -> bool:
    """Return whether the browser says that one of our own pages sent this. Old ones do not say where from."""
    site, origin, host = [request.headers.get(name, "") for name in ("sec-fetch-site", "origin", "host")]
    return not from_elsewhere(request) and (site == "same-origin" or _same_site(origin, host))


def _same_site(origin: str, host: str) -> bool:
    """Return whether both name one host and port; either may leave out the port that the origin's scheme implies."""
    scheme, _, authority = origin.lower().partition("://")
    port = f":{PORTS.get(scheme, '')}"
    return bool(authority) and authority.removesuffix(port) == host.lower().removesuffix(port)


def field(form: FormData, name: str) -> str:
    """Return what was typed into a field, its lines ended by LF: forms are sent with CRLF."""
    value = form.get(name)
    return value.replace("\r\n", "\n") if isinstance(value, str) else ""


def _set(request: Request, response: Response, name: str, value: str, max_age_s: int | None) -> None:
    secure = request.url.scheme == "https"
    response.set_cookie(
        cookie_name(request, name), value, max_age=max_age_s, httponly=True, samesite="lax", secure=secure
    )


def device(request: Request) -> str:
    """Return the secret of this browser, or a new one."""
    return _cookie(request, DEVICE) or secrets.token_urlsafe(32)


def begin(
    request: Request, response: Response, stack: Stack, token: str, expires_at: datetime, device: str = ""
) -> None:
    """Sign this browser in, by cookies on the response."""
    _set(request, response, SESSION, token, int((expires_at - stack.clock.now()).total_seconds()))
    if device:
        _set(request, response, DEVICE, device, YEAR_S)
    _forget(request, response, VISITOR)


def _forget(request: Request, response: Response, name: str) -> None:
    response.delete_cookie(cookie_name(request, name))


def end(request: Request, response: Response) -> None:
    _forget(request, response, SESSION)


def session_token(request: Request) -> str:
    return _cookie(request, SESSION)


def kept(request: Request, name: str) -> str:
    return _cookie(request, name)


def remember_visitor(request: Request, response: Response, session: Session) -> None:
    """Send the visitor cookie along with the first form that is bound to it."""
    if session.new_visitor:
        _set(request, response, VISITOR, session.secret, None)


def remember(request: Request, response: Response, name: str, value: str | None, max_age_s: int = YEAR_S) -> None:
    """Keep something about this browser that is no secret; None forgets it."""
    if value is None:
        _forget(request, response, name)
    else:
        _set(request, response, name, value, max_age_s)


def local_address(address: str) -> str:
    """Return `address` if it is a path on this site, else "/".

    Browsers drop control characters and take a backslash for a slash, so neither may occur.
    """
    plain = all("!" <= character != "\\" for character in address) and address.startswith("/")
    return address if plain and not address.startswith("//") and len(address) <= 500 else "/"
