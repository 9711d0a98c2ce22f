"""Rendering of templates to pages: the frame, the words for times, error pages, and the static files."""

import hashlib
import re
from collections.abc import Collection
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import templates
from app import logs
from app.text import MENTION
from app.web import session
from app.web.done import COOKIE, said
from app.web.state import services

FOLDER = Path(templates.__file__).parent
NO_STORE = {"Cache-Control": "no-store"}  # who shares a computer does not see the last person's pages by going back

PLACES = (("/", "Timeline"), ("/people", "People"), ("/compare", "Compare"), ("/operations", "Operations"))

TITLES = {  # of error pages, in friendlier words than HTTP's
    400: "That was cut short",
    403: "That is not allowed",
    404: "Nothing is here",
    405: "This is no page",
    409: "That contradicts what is there",
    413: "That is too large",
    422: "That does not work",
    429: "Too fast",
    500: "Something broke",
    503: "A server of ours does not answer",
}
FOR_PEOPLE = {405: "A form is sent to this address; nothing can be opened here."}  # other words than those for programs

TYPED = {"text": "What you wrote", "handle": "Handle", "name": "Name", "author": "Author"}  # fields of forms
SECRETS = {"password": "Password", "old": "Your password", "new": "New password"}  # to be typed again


@cache
def _version(name: str) -> str:
    return hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest()[:12]


def _static(name: str) -> str:
    return f"/static/{name}?v={_version(name)}"


class Static(StaticFiles):
    """The static files. An address with the version of a file's content never changes what it answers."""

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        versioned = scope["query_string"] == f"v={_version(Path(full_path).name)}".encode()
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if versioned else "no-cache"
        return response


def rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def exact(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %Y, %H:%M:%S} UTC"


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago something was, in short; the day, when that is more than a week."""
    seconds = int((now - moment).total_seconds())
    if seconds < 60:
        return "now"
    for unit_s, below_s, unit in ((60, 3_600, "min"), (3_600, 86_400, "h"), (86_400, 7 * 86_400, "d")):
        if seconds < below_s:
            return f"{seconds // unit_s} {unit}"
    return f"{moment.day} {moment:%b}" if moment.year == now.year else f"{moment.day} {moment:%b %Y}"


def milliseconds(number: float) -> str:
    """Return milliseconds with three significant figures at most: 1.9, 41, 1,204."""
    return f"{number:.1f}" if number < 10 else f"{number:,.0f}"


def sentence(text: str) -> str:
    """Return a message of Starlette's as a sentence, for a page."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


LINK = re.compile(r"https?://[^\s<>\"]*[^\s<>\".,:;!?)'\]]", re.IGNORECASE)


def linked(text: str, handles: Collection[str] = ()) -> Markup:
    """Return a status as it is shown: addresses and mentions of `handles` are links, which send no referrer."""
    shown, at = Markup(), 0
    for found in LINK.finditer(text):
        link = Markup('<a href="{0}" rel="nofollow ugc noopener noreferrer">{0}</a>').format(found[0])
        shown, at = shown + _mentioning(text[at : found.start()], handles) + link, found.end()
    return shown + _mentioning(text[at:], handles)


def _mentioning(text: str, handles: Collection[str]) -> Markup:
    def link(named: re.Match[str]) -> str:
        handle = named[1].lower()
        return f'<a href="/@{handle}">{named[0]}</a>' if handle in handles else named[0]

    return Markup(MENTION.sub(link, escape(text)))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = _static
    environment.filters |= {"rfc3339": rfc3339, "exact": exact, "ago": ago, "ms": milliseconds}
    environment.filters["linked"] = linked
    return environment


TEMPLATES = _environment()


def render(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """Render a page. It shows the user who is signed in as far as this request knows: error pages ask no server."""
    stack = services(request).stack
    known = session.known_session(request)
    done = said(request)
    proof = Markup('<input type="hidden" name="{}" value="{}">').format(session.PROOF, known.proof()) if known else ""
    frame = {
        "me": known.account if known else None,
        "unread": known.unread if known else 0,
        "talking": known.talking if known else 0,
        "unsure": known is None and session.session_token(request) != "",
        "proof": lambda: proof,
        "demo": stack.config.demo,
        "path": request.url.path,
        "places": [place for place in PLACES if stack.config.demo or place[0] != "/operations"],
        "now": stack.clock.now(),
        "said": done,
    }
    html = TEMPLATES.get_template(template).render(frame | context)
    response = Response(html, status, NO_STORE, "text/html")
    if known:
        session.remember_visitor(request, response, known)
    if done:
        session.remember(request, response, COOKIE, None)
    return response


def fragment(request: Request, template: str, **context: Any) -> str:
    """Render a piece of a page, without the frame."""
    stack = services(request).stack
    return TEMPLATES.get_template(template).render({"now": stack.clock.now(), "demo": stack.config.demo} | context)


def error_page(request: Request, status: int, title: str, detail: str) -> Response:
    """Render a friendly page for an error.

    It needs no server of ours, and has what somebody had typed, to be sent again.
    """
    unsent: dict[str, str] = getattr(request.state, "unsent", {})
    detail = sentence(FOR_PEOPLE.get(status, detail)) + (" A few seconds are usually enough." if status == 503 else "")
    again = here(request) if status == 503 and request.method == "GET" else None
    title = TITLES.get(status, title)
    return render(
        request,
        "error.html",
        status,
        number=status,
        request_id=logs.REQUEST_ID.get(),
        title=title,
        detail=detail,
        again=again,
        unsent=unsent if any(unsent.get(name) for name in TYPED) else {},
        typed=TYPED,
        secrets=SECRETS,
        here=here(request),
    )


def here(request: Request) -> str:
    """Return the request's path and query."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")
