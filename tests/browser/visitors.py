"""The application for a browser, and people with browsers of their own."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, expect
from starlette.applications import Starlette

from app.config import Config
from app.stack import connected
from app.web import create_app
from phases.timelines import Timelines
from tests.world import STAND_INS
from workers.worker import run_in_thread

PASSWORD = "correct horse"
START_S = 60
GRACEFUL_S = 1
OFFLINE = "net::ERR_INTERNET_DISCONNECTED"  # only where a test took the network away
PATIENCE_S = 30  # where the machine is busy, everything comes later than Playwright waits by itself
LOOKS = ((1280, "dark"), (320, "light"))
TWO_VISITORS = [(375, "light", True), (1280, "dark", False)]


@dataclass
class Server:
    """The application on the stand-ins, in a thread with one event loop, on a free loopback port."""

    config: Config = field(default_factory=lambda: Config(demo=True))
    listening: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    ready: threading.Event = field(default_factory=threading.Event)
    server: uvicorn.Server | None = None
    error: BaseException | None = None

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.listening.getsockname())

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # told to the test, which waits in another thread
            self.error = error
            raise
        finally:
            self.ready.set()

    async def _serve(self) -> None:
        async with connected(STAND_INS, self.config) as stack:
            timelines = await Timelines.open(stack)
            await asyncio.sleep(self.config.grace_s + 1)  # from now on lists are kept, as in any system that runs
            async with run_in_thread(timelines):
                await self._answer(create_app(stack, timelines))

    async def _answer(self, app: Starlette) -> None:
        self.server = uvicorn.Server(
            uvicorn.Config(app, ws="none", log_level="warning", timeout_graceful_shutdown=GRACEFUL_S)
        )
        self.ready.set()
        await self.server.serve([self.listening])


@contextmanager
def serving(config: Config) -> Iterator[str]:
    """The address of an application of its own."""
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.ready.wait(START_S)
    assert server.server, server.error
    yield server.url  # it listens already; what comes early waits in the backlog
    server.server.should_exit = True
    thread.join(START_S)
    assert not thread.is_alive()


@contextmanager
def demo(stack: str, **environment: str) -> Iterator[str]:
    """The address of `feedlab serve --demo`: a process of its own, with settings of its own."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "app.cli", "serve", "--demo", "--stack", stack, "--port", "0", "--data", data]
        serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        try:
            assert serving.stdout
            line = next((line for line in serving.stdout if line.startswith("ready ")), None)
            assert line, "the demo has not started"
            yield line.split()[1]
        finally:
            serving.terminate()
            serving.wait()
            assert serving.stdout
            serving.stdout.close()


@dataclass
class Person:
    """Somebody with a browser of their own. `complaints`: what its console and network complained about."""

    handle: str
    page: Page
    complaints: list[str]

    def sign_up(self, site: str, name: str) -> None:
        self.page.goto(f"{site}/sign-up")
        self.page.get_by_label("Handle").fill(self.handle)
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign up").click()
        expect(self.page.get_by_role("link", name=f"@{self.handle}")).to_be_visible()

    def post(self, text: str, audience: str = "my followers") -> None:
        with self.page.expect_navigation():  # not a word into the page that is left, should it be the timeline, too
            self.page.get_by_role("navigation", name="Main").get_by_role("link", name="Timeline").click()
        self.composer().fill(text)
        self.page.get_by_label("For", exact=True).select_option(audience)
        self.page.get_by_role("button", name="Post").click()
        expect(self.page.get_by_role("article").first).to_contain_text(text)

    def composer(self) -> Locator:
        """Where a status is typed; on a phone it is folded."""
        self.page.wait_for_load_state()  # a click is over with the first byte of the next page
        text = self.page.get_by_label("What are you doing?")
        if not text.is_visible():
            self.page.get_by_text("Write a status").click()
        return text


@dataclass
class Visitors:
    """Hands out people, and lets nobody go with a complaint."""

    chromium: Browser
    contexts: list[BrowserContext] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)

    def __call__(self, handle: str, width: int, scheme: str, scripts: bool = True) -> Person:
        context = self.chromium.new_context(
            viewport={"width": width, "height": 812 if width < 600 else 800},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=scripts,
        )
        context.set_default_timeout(1000 * PATIENCE_S)
        self.contexts.append(context)
        person = Person(handle, context.new_page(), [])
        self.people.append(person)

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and OFFLINE not in message.text:
                person.complaints.append(message.text)

        def failed(request: Request) -> None:
            if request.failure not in (
                "net::ERR_ABORTED",
                OFFLINE,
            ):  # an icon still loading when the next page is opened
                person.complaints.append(f"{request.url}: {request.failure}")

        person.page.on("console", heard)
        person.page.on("pageerror", lambda error: person.complaints.append(str(error)))
        person.page.on("requestfailed", failed)
        return person

    def leave(self) -> None:
        for context in self.contexts:
            context.close()
        for person in self.people:
            assert person.complaints == [], person.complaints


def reload_until(seen: Locator) -> None:
    """As somebody without JavaScript waits: what comes in a moment is there after one of the next reloads."""
    deadline = time.monotonic() + PATIENCE_S
    while not seen.is_visible() and time.monotonic() < deadline:
        time.sleep(0.1)
        seen.page.reload()
    expect(seen).to_be_visible()


def reload_until_said(where: Locator, words: str) -> None:
    """The same of something that may be folded."""
    deadline = time.monotonic() + PATIENCE_S
    while words not in (where.text_content() or "") and time.monotonic() < deadline:
        time.sleep(0.1)
        where.page.reload()
    expect(where).to_contain_text(words)


def fits(page: Page) -> None:
    """Nothing makes the page wider than the window."""
    root = page.locator("html")
    assert root.evaluate("root => root.scrollWidth <= root.clientWidth"), page.url


def accessible(page: Page) -> None:
    """axe finds nothing to complain about."""
    found = Axe().run(page).response["violations"]
    told = [(rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]
    assert told == [], f"{page.url}: {told}"
