"""Whatever arrives, the answer is never our fault: every route, every field, on stand-ins as strict as the servers."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

import bson
import mongomock.collection
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from app import accounts
from app.web import health, pages, session, walkthrough
from app.web.api import OPERATIONS, PREFIX
from tests.site import SLUGS, Site, opened

EXAMPLES = 500
PATIENCE_S = 30.0
LONGEST_PATTERN = 32_764  # bytes of a regular expression that MongoDB takes
FIELDS = ("handle", "name", "password", "text", "audience", "once", "next", "phase", "author", "delivering", "read",
          "users", "followers", "statuses")  # fmt: skip
QUERY = ("q", "after", "before", "since", "limit", "phase", "costs", "next", "reader", "check", "done", "part")
HEADERS = ("host", "origin", "sec-fetch-site", "cookie", "authorization", "idempotency-key", "accept", "content-length",
           "x-forwarded-for", "x-forwarded-proto", "last-event-id", "range", "if-none-match")  # fmt: skip
CHARSETS = ("utf-8", "undefined", "punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7", "utf-16", "hex",
            "rot13", "no-such", "\xff")  # fmt: skip
PLACES = sorted(
    {(operation.method, f"{PREFIX}{operation.path}") for operation in OPERATIONS}
    | {
        (method, route.path)
        for route in (*pages.routes, *walkthrough.routes, *health.ROUTES)
        if isinstance(route, Route)
        for method in route.methods or ()
    }
)
OUT = ("/tokens/current", "/sign-out")  # ends the session that all of this needs


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """mongomock takes what neither BSON nor MongoDB does."""

    def judged(original: Callable[..., Any]) -> Callable[..., Any]:
        def command(self: object, *args: Any, **options: Any) -> Any:
            for sent in (*args, *options.values()):
                if isinstance(sent, Mapping | list):
                    bson.encode({"sent": sent})
                    _judge_patterns(sent)
            return original(self, *args, **options)

        return command

    for name in ("find", "count_documents", "insert_one", "update_one", "update_many", "aggregate"):
        monkeypatch.setattr(
            mongomock.collection.Collection, name, judged(getattr(mongomock.collection.Collection, name))
        )


def _judge_patterns(sent: Any) -> None:
    if isinstance(sent, re.Pattern):
        assert len(sent.pattern.encode()) <= LONGEST_PATTERN
    elif isinstance(sent, Mapping | list):
        for part in sent.values() if isinstance(sent, Mapping) else sent:
            _judge_patterns(part)


NASTY = st.one_of(
    st.sampled_from(
        ["", "\0", "a\0b", "\u200b", "a" * 33_000, "[", "http://[", "1" * 5_000, "-1", "\u0661", "ann", "bob", "%00",
         "0" * 24, "f" * 24, "$where", "../..", "\r\nX: y", "\ud800", "👍" * 300, "//evil.test", "\\"]
    ),
    st.text(max_size=30),
)  # fmt: skip
PLAIN = st.sampled_from(["ann", "bob", "0" * 24, *SLUGS, "1", "followers", "correct horse"])
VALUE = st.one_of(NASTY, PLAIN)


@dataclass
class Sent:
    place: tuple[str, str]  # method and path
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    kind: str = "other"  # of the body
    charset: str = "utf-8"
    extra: bytes = b""
    names: dict[str, str] = field(default_factory=dict)  # what stands in the path

    @property
    def target(self) -> str:
        return re.sub(r"{(\w+)(:\w+)?}", lambda name: _quoted(self.names.get(name[1], "bob")), self.place[1])

    def body(self, proof: str) -> tuple[bytes, str]:
        """The bytes and their type. A form has the proof, so that it gets past the door."""
        fields = {session.PROOF: proof} | self.fields
        match self.kind:
            case "form":
                return "&".join(f"{_quoted(n)}={_quoted(v)}" for n, v in fields.items()).encode() + self.extra, (
                    f"application/x-www-form-urlencoded; charset={self.charset}"
                )
            case "multipart":
                part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
                text = "".join(part.format(name, value) for name, value in fields.items()) + "--b--\r\n"
                body = text.encode(errors="surrogatepass")
                return body[: len(body) - len(self.extra)], f"multipart/form-data; boundary=b; charset={self.charset}"
            case "json":
                given = ", ".join(f'"{name}": {_json(value)}' for name, value in self.fields.items())
                return f"{{{given}}}".encode() + self.extra, "application/json"
        return self.extra, self.charset


def _json(text: str) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text) + '"'


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _some(names: tuple[str, ...], values: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(st.sampled_from(names), values, max_size=4)


SENT = st.builds(
    Sent,
    place=st.sampled_from([place for place in PLACES if not place[1].endswith(OUT)]),
    query=_some(QUERY, VALUE),
    headers=st.one_of(st.just({}), _some(HEADERS, NASTY)),
    fields=_some(FIELDS, VALUE),
    kind=st.sampled_from(["form", "multipart", "json", "other"]),
    charset=st.one_of(st.just("utf-8"), st.sampled_from(CHARSETS)),
    extra=st.one_of(st.just(b""), st.binary(max_size=8)),
    names=st.fixed_dictionaries({}, optional=dict.fromkeys(("handle", "id", "slug"), VALUE)),
)  # fmt: skip


async def answered(site: Site, token: str, proof: str, sent: Sent) -> int:
    """The status, from a scope as uvicorn makes it: no client library tidies up what is sent."""
    body, content_type = sent.body(proof)
    headers = {"host": "feedlab.test", "content-type": content_type, "authorization": f"Bearer {token}"}
    headers |= {"cookie": f"{session.SESSION}={token}"} | sent.headers
    target = sent.target
    scope = {
        "type": "http", "http_version": "1.1", "method": sent.place[0], "scheme": "http", "root_path": "",
        "asgi": {"version": "3.0", "spec_version": "2.3"}, "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        "path": unquote(target), "raw_path": target.encode(), "state": {},
        "query_string": urlencode(sent.query, errors="surrogatepass").encode(),
        "headers": [(name.encode(), _header(value)) for name, value in headers.items()],
    }  # fmt: skip
    arriving = [{"type": "http.request", "body": body, "more_body": False}]
    statuses: list[int] = []
    begun = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if arriving:
            return arriving.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            begun.set()
            for _, value in message["headers"]:
                assert not re.search(rb"[\r\n\0]", value), "nothing typed becomes a header of its own"

    await site.app(scope, receive, send)
    return statuses[0]


def _header(value: str) -> bytes:
    """A server lets no control character through."""
    return re.sub(rb"[\0-\x08\n-\x1f\x7f]", b"", value.encode(errors="surrogatepass"))


PER_MINUTE = ("writes", "streams", "sign_ins", "sign_ups")
UNLIMITED = dict.fromkeys((f"{what}_per_minute" for what in PER_MINUTE), 1_000_000)


@contextmanager
def door() -> Iterator[Callable[[Sent], int]]:
    """What a person who is signed in, with the proof of a form, is answered."""
    with asyncio.Runner() as runner:
        context = opened(demo=True, **UNLIMITED)
        site = runner.run(context.__aenter__())
        try:
            ann = runner.run(site.browser().sign_up("ann"))
            runner.run(site.browser().sign_up("bob"))
            runner.run(ann.open("/"))
            proof, token = ann.form("/statuses").fields[session.PROOF], ann.client.cookies[session.SESSION]
            yield lambda sent: runner.run(answered(site, token, proof, sent))
        finally:
            runner.run(context.__aexit__(None, None, None))


def test_nothing_that_is_sent_is_our_fault(strict: None) -> None:
    with door() as answer:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(SENT)
        def holds(sent: Sent) -> None:
            assert answer(sent) < 500

        holds()


@pytest.mark.parametrize("name", ["q", "after"])
@pytest.mark.parametrize("value", ["\0", "a" * 33_000])
def test_nobody_is_looked_for_by_what_is_no_name(strict: None, name: str, value: str) -> None:
    with door() as answer:
        assert answer(Sent(("GET", "/people"), query={name: value})) == 422


@pytest.mark.parametrize("kind", ["form", "multipart"])
def test_a_form_is_in_utf8_whatever_page_it_is_of(strict: None, kind: str) -> None:
    pages = [place for place in PLACES if place[0] == "POST" and not place[1].startswith(PREFIX)]
    with door() as answer:
        for place in pages:
            for charset in CHARSETS[1:]:
                assert answer(Sent(place, fields={"text": "+AAA-"}, kind=kind, charset=charset)) in (404, 415), place


@pytest.mark.parametrize("text", ["a\0b", "\u200b", "\ufe0f\u2060", "\u3164"])
def test_pages_and_api_refuse_the_same_texts(strict: None, text: str) -> None:
    with door() as answer:
        for path, fields in (("/statuses", {"audience": "followers"}), ("/compare/post", {})):
            assert answer(Sent(("POST", path), fields=fields | {"text": text}, kind="form")) == 422
        assert answer(Sent(("POST", f"{PREFIX}/statuses"), fields={"text": text}, kind="json")) == 422
        for path, kind in (("/sign-up", "form"), (f"{PREFIX}/users", "json")):
            sent = {"handle": "cat", "name": text, "password": "correct horse"}
            proof = {} if kind == "json" else {session.PROOF: _proof("visitor")}
            cookie = {"cookie": f"{session.VISITOR}=visitor"}
            assert answer(Sent(("POST", path), headers=cookie, fields=sent | proof, kind=kind)) == 422


def _proof(secret: str) -> str:
    return session.Session(None, secret).proof()


def test_nothing_is_hashed_for_who_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sign-ups whose clients close the connection leave the queue, and the next one is not behind them."""
    hashed = 0
    hash_ = accounts.HASHER.hash

    async def counted(call: Any, *args: Any) -> Any:
        nonlocal hashed
        hashed += call == hash_
        return call(*args)

    async def rush(site: Site) -> None:
        body = b'{"handle": "x%d", "password": "correct horse"}'
        turn = site.app.state.services.accounts._hashing
        for _ in range(accounts.HASHED_AT_ONCE):
            await turn.acquire()
        scopes = [("POST", f"{PREFIX}/users", body % n) for n in range(50)]
        rushing = [asyncio.create_task(_sent_and_gone(site, *each)) for each in scopes]
        await asyncio.wait(rushing, timeout=PATIENCE_S)  # who stays in the queue is hashed for below
        for _ in range(accounts.HASHED_AT_ONCE):
            turn.release()
        await asyncio.gather(*rushing)
        await site.browser().sign_up("ann")

    monkeypatch.setattr(accounts, "in_thread", counted)

    async def run() -> None:
        async with opened() as site:
            await rush(site)

    asyncio.run(run())
    assert hashed == 1


async def _sent_and_gone(site: Site, method: str, path: str, body: bytes) -> None:
    arriving: list[dict[str, Any]] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": body, "more_body": False},
    ]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "root_path": "",
             "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "state": {}}  # fmt: skip

    async def receive() -> dict[str, Any]:
        return arriving.pop()

    async def send(message: Any) -> None: ...

    await site.app(scope, receive, send)
