"""The pages as somebody with a browser sees them: links, forms and cookies, no JavaScript."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import httpx

from app.config import Config
from app.stack import Stack, connected
from app.web import create_app, live
from phases import PHASES
from phases.timelines import Timelines
from tests.dates import ManualClock
from tests.world import STAND_INS

PASSWORD = "correct horse"
SLUGS = [phase.slug for phase in PHASES]


@dataclass
class Form:
    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    """Every form with the values it would send if nothing were typed, and each of its buttons pressed last."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._text: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(Form(given.get("action", ""), given.get("method", "get")))
        elif tag == "textarea":
            self._text = given["name"]
        elif tag in ("input", "button") and "name" in given:
            if given.get("type") not in ("checkbox", "radio") or "checked" in given:
                self.found[-1].fields.setdefault(given["name"], given.get("value", ""))
        elif tag == "select":
            self.found[-1].fields[given["name"]] = "followers"

    def handle_data(self, data: str) -> None:
        if self._text:
            self.found[-1].fields[self._text] = data.removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._text = None


class Browser:
    """Keeps cookies, follows redirects, submits the forms of the page it is on."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.answer = httpx.Response(200)

    @property
    def html(self) -> str:
        return self.answer.text

    async def open(self, address: str) -> str:
        self.answer = await self.client.get(address, follow_redirects=True)
        return self.html

    def form(self, action: str) -> Form:
        parser = _Forms()
        parser.feed(self.html)
        return next(form for form in parser.found if form.action == action)

    async def submit(self, action: str, **typed: Any) -> str:
        form = self.form(action)
        assert form.method == "post"
        self.answer = await self.client.post(action, data=form.fields | typed, follow_redirects=True)
        return self.html

    async def sign_up(self, handle: str, name: str = "") -> "Browser":
        await self.open("/sign-up")
        await self.submit("/sign-up", handle=handle, name=name, password=PASSWORD)
        assert self.answer.status_code == 200, self.html
        return self

    async def post(self, text: str, audience: str = "followers") -> str:
        await self.open("/")
        return await self.submit("/statuses", text=text, audience=audience)

    async def act(self, handle: str, act: str) -> str:
        await self.open(f"/@{handle}")
        return await self.submit(f"/@{handle}/{act}")

    @property
    def status(self) -> int:
        return self.answer.status_code


@dataclass
class Site:
    """The application, and a new browser for everybody who asks."""

    stack: Stack
    timelines: Timelines
    clock: ManualClock
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = create_app(self.stack, self.timelines)

    def browser(self, base: str = "http://feedlab.test") -> Browser:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=base)
        self.clients.append(client)
        return Browser(client)


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Site]:
    clock = ManualClock(datetime.now(UTC).replace(microsecond=0))
    async with connected(STAND_INS, Config(**settings), clock) as stack:
        timelines = await Timelines.open(stack)
        clock.advance(10)  # past the grace: what the phases keep is read
        site = Site(stack, timelines, clock)
        yield site
        for client in site.clients:
            await client.aclose()


def texts(html: str) -> list[str]:
    """The statuses of a page, as they are written in the HTML."""
    return re.findall(r'<p class="text"[^>]*>(.*?)</p>', html, re.DOTALL)


def forms(html: str) -> list[Form]:
    parser = _Forms()
    parser.feed(html)
    return parser.found


def events(text: str) -> list[str]:
    """The pieces of HTML that a stream has sent."""
    found = re.findall(r"(?:^data: .*\n)+", text.removesuffix(live.DONE), re.MULTILINE)
    return ["\n".join(line.removeprefix("data: ") for line in event.splitlines()) for event in found]
