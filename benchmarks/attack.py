"""`feedlab bench attack`: loads from outside on a system of its own, and what a bystander notices of each.

The attacks are those of one person or one address, who may do all that a stranger may. In the attack of the frozen
server a fault has stopped that server.
"""

import asyncio
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Literal
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel

from app.servers.start import say
from benchmarks.faults.client import PASSWORD, Client, client, persist
from benchmarks.faults.outcome import SHOWN, Outcome, Plan, giving_up, shown
from benchmarks.faults.system import CAST, System, allow_descriptors, serving

PAUSE_S = 0.05  # of the bystander, between two pages
RECOVER_S = 60.0
BREATH_S = 0.01  # of an attacker, who may be refused at once
DESCRIPTORS = 4_096  # that this process may have, at least
COOKIE = "feedlab_session_{port}"
SESSIONS = 20  # of the one who opens streams
MALLORY, BYSTANDER = CAST.authors[0], CAST.readers[0]


class Beside(BaseModel):
    """The bystander's figures beside one attack. `sent`: requests of the attack. `recovered_s`: None is never."""

    attack: str
    sent: int
    pages: int
    p50_ms: float
    slowest_ms: float
    to_quiet: float  # p50 beside the attack ÷ quiet
    errors: Counter[str]  # clean ones
    unclean: list[str]
    recovered_s: float | None

    def line(self) -> str:
        errors = ", ".join(f"{kind}: {number}" for kind, number in sorted(self.errors.items()))
        recovered = "never" if self.recovered_s is None else f"{self.recovered_s:.2f}"
        return (
            f"{self.attack:40}{self.sent:8,}{self.pages:7,}{self.p50_ms:9.1f}{self.to_quiet:8.1f}"
            f"{self.slowest_ms:10.0f}{recovered:>10}  {errors or '-'}"
        )


class Report(BaseModel):
    kind: Literal["attack"] = "attack"
    quiet_p50_ms: float | None = None
    beside: list[Beside] = []
    gave_up: str = ""

    @property
    def good(self) -> bool:
        return not self.gave_up and all(not each.unclean and each.recovered_s is not None for each in self.beside)

    def lines(self) -> Iterator[str]:
        if self.quiet_p50_ms is not None:
            yield f"a page takes {self.quiet_p50_ms:.1f} ms (p50) when it is quiet"
        yield f"{'beside':40}{'sent':>8}{'pages':>7}{'p50 ms':>9}{'÷ quiet':>8}{'slowest':>10}{'again, s':>10}  errors"
        for each in self.beside:
            yield each.line()
            yield from (f"  unclean: {problem}" for problem in each.unclean[:SHOWN])
        if self.gave_up:
            yield f"given up: {self.gave_up}"


@dataclass
class Target:
    """The system under attack.

    `size`: scales an attack's connections and clients. `sent` counts what the attack has sent.
    """

    system: System
    size: float
    tokens: Sequence[str]  # of one person's sessions
    proof: str  # of forms, in the first of them
    sent: int = 0

    @property
    def place(self) -> tuple[str, int]:
        found = urlsplit(self.system.url)
        return str(found.hostname), int(found.port or 80)

    def many(self, most: int) -> int:
        return max(1, round(most * self.size))

    def signed_in(self, token: str) -> str:
        host, port = self.place
        return f"Host: {host}:{port}\r\nCookie: {COOKIE.format(port=port)}={token}\r\nAuthorization: Bearer {token}\r\n"

    async def send(self, head: str, body: str = "", *, wait: bool = True) -> None:
        """Send one request on a connection of its own. Without `wait` its client goes at once."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        with suppress(OSError):  # refused or cut off: that is what the door is for
            reader, writer = await asyncio.open_connection(*self.place)
            try:
                writer.write(f"{head}{length}Connection: close\r\n\r\n{body}".encode())
                await writer.drain()
                self.sent += 1
                while wait and await reader.read(65_536):
                    pass
            finally:
                writer.close()


async def _over_and_over(clients: int, act: Callable[[int], Awaitable[None]]) -> None:
    """Have so many clients act over and over, until cancelled."""

    async def one(number: int) -> None:
        while True:
            await act(number)
            await asyncio.sleep(BREATH_S)

    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(one(number))


async def half_sent(target: Target) -> None:
    async def hold(_: int) -> None:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*target.place)
            try:
                writer.write(b"GET / HTTP/1.1\r\nHost: feed")
                target.sent += 1
                await reader.read()
            finally:
                writer.close()

    allow_descriptors(DESCRIPTORS)
    await _over_and_over(target.many(1_000), hold)


async def metrics(target: Target) -> None:
    host, port = target.place
    with target.system.suspended("redis"):
        await _over_and_over(
            target.many(40), lambda _: target.send(f"GET /metrics HTTP/1.1\r\nHost: {host}:{port}\r\n")
        )


async def lists(target: Target) -> None:
    head = f"GET /api/v1/timeline?phase=cache HTTP/1.1\r\n{target.signed_in(target.tokens[0])}"
    with target.system.suspended("memcached"):
        await _over_and_over(target.many(200), lambda _: target.send(head))


async def sign_ups(target: Target) -> None:
    (host, port), numbers = target.place, count()
    head = f"POST /api/v1/users HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"

    async def sign_up(_: int) -> None:
        body = f'{{"handle": "mallory{next(numbers)}", "name": "M", "password": "{PASSWORD}"}}'
        await target.send(head, body, wait=False)

    await _over_and_over(target.many(50), sign_up)


async def streams(target: Target) -> None:
    async def hold(number: int) -> None:
        token = target.tokens[number % len(target.tokens)]
        await target.send(f"GET /live HTTP/1.1\r\n{target.signed_in(token)}")

    await _over_and_over(target.many(500), hold)


async def refused_streams(target: Target) -> None:
    """Ask for streams that are refused, in every way.

    The tokens are those of somebody above the limit; tickets and cookies are invalid.
    """
    host, port = target.place
    none = f"Host: {host}:{port}\r\n"
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )

    async def open_one(number: int) -> None:
        token = target.signed_in(target.tokens[number % len(target.tokens)])
        for path, who in (
            ("/live", token),
            ("/live", f"{none}Cookie: {COOKIE.format(port=port)}={secrets.token_urlsafe(32)}\r\n"),
            ("/api/v1/live", token),
            (f"/api/v1/live?ticket={secrets.token_urlsafe(32)}", none),
            ("/api/v1/live/socket", token + upgrade),
            (f"/api/v1/live/socket?ticket={secrets.token_urlsafe(32)}", none + upgrade),
        ):
            await target.send(f"GET {path} HTTP/1.1\r\n{who}")

    await _over_and_over(target.many(200), open_one)


async def long_headers(target: Target) -> None:
    """Send cookies and queries that are as long as they may be, and dear to a parser that looks back at each step."""
    (host, port), escapes = target.place, '\\"' * 30_000
    names = "&".join(f"n{number}" for number in range(8_000))
    cookies = f'GET / HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: a="{escapes}"\r\n'
    query = f"GET /api/v1/timeline?{names}&n7 HTTP/1.1\r\n{target.signed_in(target.tokens[0])}"
    await _over_and_over(target.many(10), lambda number: target.send(query if number % 2 else cookies))


async def watched_posts(target: Target) -> None:
    token, numbers = target.tokens[0], count()
    head = (
        f"POST /compare/post HTTP/1.1\r\n{target.signed_in(token)}Content-Type: application/x-www-form-urlencoded\r\n"
    )

    async def watch(_: int) -> None:
        text = f"watch number {next(numbers)}"
        await target.send(head, urlencode({"proof": target.proof, "text": text}))

    await _over_and_over(target.many(20), watch)


ATTACKS: tuple[tuple[str, Callable[[Target], Awaitable[None]]], ...] = (
    ("1,000 half-sent requests", half_sent),
    ("/metrics for 40, Redis frozen", metrics),
    ("200 readers, Memcached frozen", lists),
    ("sign-ups whose clients have gone", sign_ups),
    ("500 streams of one person", streams),
    ("streams that are refused, for 200", refused_streams),
    ("watched posts of one person", watched_posts),
    ("long cookies and queries", long_headers),
)


@dataclass
class Bystander:
    """A bystander, who reads a page again and again. `ms`: how long each page took; a refusal is none."""

    http: Client
    ms: list[float]

    async def look(self) -> None:
        while True:
            await self.page()
            await asyncio.sleep(PAUSE_S)

    async def page(self) -> bool:
        began_s = time.monotonic()
        answer = await self.http.call(BYSTANDER, "page", "GET", "/timeline", 200, params={"limit": 20})
        if answer is not None:
            self.ms.append((time.monotonic() - began_s) * 1000)
        return answer is not None

    async def watch(self, url: str, token: str) -> None:
        """Open a page with a live part, as the bystander's browser does."""
        port = urlsplit(url).port
        cookie = {"Cookie": f"{COOKIE.format(port=port)}={token}"}
        await self.http.http.get(f"{url}/", headers=cookie)
        async with self.http.http.stream("GET", f"{url}/live", headers=cookie) as answer:
            if answer.status_code != 200:
                self.http.outcome.unclean.append(f"a live stream: {answer.status_code}")

    async def recovered(self) -> float | None:
        """Return the seconds until a page and a sign-in have succeeded; None where they never do."""
        began_s = time.monotonic()
        while time.monotonic() < began_s + RECOVER_S:
            if await self.page() and await sign_in(self.http, BYSTANDER):
                return round(time.monotonic() - began_s, 3)
            await asyncio.sleep(PAUSE_S)
        return None


async def sign_in(http: Client, handle: str) -> str | None:
    body = {"handle": handle, "password": PASSWORD}
    answer = await http.call("", "sign in", "POST", "/tokens", 200, 201, json=body)
    return None if answer is None else str(answer.json()["token"])


async def _beside(target: Target, name: str, attack: Callable[[Target], Awaitable[None]], seconds: float) -> Beside:
    outcome = Outcome(plan=Plan(0, 0, 0))
    async with client(target.system.url, outcome) as http:
        bystander = Bystander(http, [])
        await http.sign_in(BYSTANDER)
        attacking = asyncio.ensure_future(attack(target))
        looking = asyncio.ensure_future(bystander.look())
        try:
            await asyncio.wait([attacking, looking], timeout=seconds)
            if attack in (streams, refused_streams):
                token = await persist(lambda _: sign_in(http, BYSTANDER))
                await bystander.watch(target.system.url, token)
        finally:
            for task in (attacking, looking):
                task.cancel()
            ended = await asyncio.gather(attacking, looking, return_exceptions=True)
        for error in ended:
            if not isinstance(error, asyncio.CancelledError):
                raise error if isinstance(error, BaseException) else AssertionError("it goes on until it is cancelled")
        ms = list(bystander.ms)
        recovered_s = await bystander.recovered()
    return Beside(
        attack=name,
        sent=target.sent,
        pages=len(ms),
        p50_ms=median(ms) if ms else float("inf"),
        slowest_ms=max(ms, default=float("inf")),
        to_quiet=1.0,
        errors=outcome.errors,
        unclean=outcome.unclean,
        recovered_s=recovered_s,
    )


async def _nothing(target: Target) -> None:
    await asyncio.Event().wait()


async def _observe(system: System, seconds: float, size: float, report: Report) -> None:
    async with AsyncExitStack() as exits:
        http = await exits.enter_async_context(client(system.url, Outcome(plan=Plan(0, 0, 0))))
        tokens = [await persist(lambda _: sign_in(http, MALLORY)) for _ in range(max(1, round(SESSIONS * size)))]
        cookie = {"Cookie": f"{COOKIE.format(port=urlsplit(system.url).port)}={tokens[0]}"}
        page = await http.http.get(f"{system.url}/compare", headers=cookie)
    (proof, *_) = re.findall(r'name="proof" value="(\w+)"', page.text)
    target = Target(system, size, tokens, proof)
    quiet = await _beside(target, "quiet", _nothing, seconds)
    report.quiet_p50_ms = quiet.p50_ms
    for name, attack in ATTACKS:
        say(f"attacking: {name}")
        found = await _beside(replace(target, sent=0), name, attack, seconds)
        report.beside.append(found.model_copy(update={"to_quiet": found.p50_ms / quiet.p50_ms}))


def run(seconds: float, size: float, *, as_json: bool) -> int:
    """Run the attacks.

    Return 0 when the bystander had clean errors only, and everything again after each attack; else 1.
    """
    report = Report()
    with (
        tempfile.TemporaryDirectory(prefix="feedlab-attack-") as directory,
        serving(Path(directory), Plan(0, 0, 1)) as system,
        shown(report, as_json=as_json),
        giving_up(report),
    ):
        asyncio.run(_observe(system, seconds, size, report))
    return 0 if report.good else 1
