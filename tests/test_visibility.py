"""Nobody learns of a status that they may not see: not its text, not its id, not that there is one.

For every relation between a viewer and an author, and every audience, everything that can be asked for is asked for
before there is a status, while there is one, and after it is deleted. What may not be seen changes no answer.
"""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from bson import ObjectId
from starlette.routing import Mount, Route

from app.accounts import Accounts
from app.models import Audience, StatusRow
from app.social.people import People
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.web.api import OPERATIONS, PREFIX
from app.web.pages import FORMS
from benchmarks.oracle import Oracle, Told
from phases import PHASES
from tests.site import Browser, Site, opened
from tests.world import KEEPING
from workers.worker import drain_queues

pytestmark = pytest.mark.anyio

SLUGS = [phase.slug for phase in PHASES]
AUDIENCES: tuple[Audience, ...] = ("followers", "mutuals", "circle")

# What holds between the viewer and the author: follow, follow back, in the author's circle, a block.
FOLLOWS, FOLLOWED, CIRCLE, BLOCKS, BLOCKED = "follows", "followed", "circle", "blocks", "blocked"
RELATIONS = [
    (),
    (FOLLOWED, CIRCLE),
    (FOLLOWS,),
    (FOLLOWS, FOLLOWED),
    (FOLLOWS, CIRCLE),
    (FOLLOWS, FOLLOWED, CIRCLE, BLOCKS),
    (FOLLOWS, FOLLOWED, CIRCLE, BLOCKED),
]

CURSORS = ["", "&before={id}"]
WINDOWS = ["limit=20", "limit=1&before={id}"]
MENTION = "@viewer "
API = [
    "/me",
    "/me/export",
    "/users/{handle}",
    *(f"/users/{{handle}}/statuses?{asked}" for asked in WINDOWS),
    *(f"/users/{{handle}}/{edges}?limit=20{before}" for edges in ("followers", "following") for before in CURSORS),
    *(f"/timeline?phase={slug}&{asked}" for slug in SLUGS for asked in WINDOWS),
    "/statuses/{id}",
    "/notifications",
    "/conversations",
    "/conversations/{conversation}/messages",
    "/images/{image}",
    *(f"/{edges}?limit=20{before}" for edges in ("mutes", "blocks", "circle") for before in CURSORS),
    "/phases",
    "/openapi.json",
]
PAGES = [
    *(f"/?phase={slug}" for slug in SLUGS),
    "/?before={id}",
    "/?costs=all",
    "/statuses/{id}",
    "/notifications",
    "/conversations",
    "/conversations/{id}",
    "/images/{id}",
    *(f"/@{{handle}}{tab}?x{before}" for tab in ("", "/followers", "/following") for before in CURSORS),
    "/people",
    "/muted",
    "/settings",
    "/settings/export",
    "/people?q={handle}",
    "/people?q={text}",
    "/people?q={id}",
    "/phases",
    "/sign-in",
    "/sign-up",
    "/compare",
    "/compare?reader={handle}&check=1",
    "/compare/deliveries/{id}",
    "/operations",
    "/operations/authors",
    "/healthz",
    "/readyz",
    "/metrics",
]
STREAMS = {"/live", "/operations/live", "/compare/deliveries/{id}/live"}  # parts of pages, sent again
ELSEWHERE = {
    "/walkthrough",
    "/walkthrough/{slug}",
    "/walkthrough/{slug}/runs/{id}",
    "/walkthrough/source/{path:path}",
}  # in a database of their own

# Figures about the system as a whole, or about the time and the commands that an answer took: they may change.
FIGURES = re.compile(r"^/(phases|metrics|readyz|compare|operations|\?costs)|^/api/v1/phases")
VOLATILE = re.compile(
    r'<aside.*?</aside>|<section class="card readout".*?</section>|<p class="cost.*?</p>|<details.*?</details>'
    r'|value="[^"]*"|"elapsed_ms":[^,}]*|[\d.]+ ?ms',
    re.DOTALL,
)


@dataclass
class Viewer:
    """Signed in twice, in a browser and with a token."""

    site: Site
    browser: Browser
    token: str
    id: ObjectId
    author: ObjectId

    async def ask(self, address: str, method: str = "GET", **sent: Any) -> str:
        """Status code and body."""
        headers = {"Authorization": f"Bearer {self.token}"} if address.startswith(PREFIX) else {}
        headers |= {"X-Request-Id": "the-same"} | sent.pop("headers", {})
        answer = await self.browser.client.request(method, address, headers=headers, **sent)
        assert answer.status_code < 500, answer.text
        return f"{answer.status_code} {answer.headers.get('location', '')} {answer.text}"

    async def everything(self, id: ObjectId, text: str) -> dict[str, str]:
        """Every answer, by what was asked for; what the question carried is taken out of the answer."""
        names = {"handle": "author", "id": id, "conversation": id, "image": id, "text": text}
        answers = {}
        for template in [f"{PREFIX}{path}" for path in API] + PAGES:
            question = template.format(**names).replace("?x&", "?").replace("?x", "")
            answers[template] = await self.ask(question)
        for slug in SLUGS:
            answers[f"refresh {slug}"] = await self.ask(f"{PREFIX}/timeline/refresh?phase={slug}", "POST")
        answers["delete"] = await self.ask(f"{PREFIX}/statuses/{id}", "DELETE")
        answers["follow"] = await self.ask(f"{PREFIX}/follows/nobody", "PUT")
        for template, answer in answers.items():
            given = [str(names[name]) for name in re.findall(r"{(\w+)}", template) if name != "handle"]
            for value in [str(id), *given] if template == "delete" else given:
                answer = answer.replace(value, "[given]")
            answers[template] = answer
        return answers


def without_figures(answers: dict[str, str]) -> dict[str, str]:
    cost = re.compile(r'"cost":{[^}]*}')
    return {
        asked: VOLATILE.sub("", cost.sub("", answer)) for asked, answer in answers.items() if not FIGURES.match(asked)
    }


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("app.web.EXPORTS", 1_000)
    monkeypatch.setattr("app.web.COMPARISONS", 1_000)
    async with opened() as site:
        await site.timelines.change(delivering=KEEPING)
        site.clock.advance(10)
        yield site


async def seated(site: Site) -> Viewer:
    """A viewer, and an author with a status of an unrelated friend between them."""
    browser = await site.browser().sign_up("viewer")
    parts = site.stack, site.timelines.outbox
    people, relations, statuses = People(site.stack), Relations(*parts), Statuses(*parts)
    viewer = await people.by_handle("viewer")
    accounts = Accounts(site.stack)
    author = await accounts.sign_up("author", "Author", "correct horse")
    friend = await accounts.sign_up("friend", "Friend", "correct horse")
    await relations.follow(viewer.id, friend.id)
    await relations.follow(friend.id, author.id)
    token, _ = await accounts.new_token(viewer.id)
    site.clock.advance(2)
    await statuses.post(friend.id, "by a friend")
    return Viewer(site, browser, token, viewer.id, author.id)


async def relate(
    relations: Relations, viewer: ObjectId, author: ObjectId, relation: tuple[str, ...]
) -> Oracle[ObjectId]:
    """Make the relation, a block last as it ends follows; and the same for the oracle."""
    oracle: Oracle[ObjectId] = Oracle()
    acts: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[ObjectId, ObjectId]]] = {
        FOLLOWS: (relations.follow, lambda a, b: oracle.follows.add((a, b)), (viewer, author)),
        FOLLOWED: (relations.follow, lambda a, b: oracle.follows.add((a, b)), (author, viewer)),
        CIRCLE: (relations.add_to_circle, lambda a, b: oracle.circles.add((a, b)), (author, viewer)),
        BLOCKS: (relations.block, oracle.block, (viewer, author)),
        BLOCKED: (relations.block, oracle.block, (author, viewer)),
    }
    for name in relation:
        act, told, pair = acts[name]
        await act(*pair)
        told(*pair)
    return oracle


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: "+".join(relation) or "strangers")
async def test_what_may_not_be_seen_changes_no_answer(site: Site, relation: tuple[str, ...]) -> None:
    statuses = Statuses(site.stack, site.timelines.outbox)
    viewer = await seated(site)
    oracle = await relate(Relations(site.stack, site.timelines.outbox), viewer.id, viewer.author, relation)
    await drain_queues(site.timelines)
    nothing = site.clock.new_id()
    await viewer.everything(nothing, f"{MENTION}nothing")  # fills what is cold
    silence = without_figures(await viewer.everything(nothing, f"{MENTION}nothing"))
    for audience in AUDIENCES:
        text = f"{MENTION}whispered to {audience}"
        row, _ = await statuses.post(viewer.author, text, audience)
        oracle.statuses[row.id] = Told(viewer.author, text, audience)
        for delivered in (False, True):
            if delivered:
                await drain_queues(site.timelines)
            answers = await viewer.everything(row.id, text)
            if oracle.visible(row.id, viewer.id):
                await _is_seen(viewer, row, answers)
            else:
                _is_not_seen(row, answers, silence)
        await statuses.delete(viewer.author, row.id)
        _is_not_seen(row, await viewer.everything(row.id, text), silence)


async def test_running_the_system_is_no_right_to_read_along(site: Site) -> None:
    """Administrators see figures about everybody, and the statuses that they may see as a reader."""
    statuses = Statuses(site.stack, site.timelines.outbox)
    viewer = await seated(site)
    await site.stack.db["users"].update_one({"_id": viewer.id}, {"$set": {"admin": True}})
    for audience in AUDIENCES:
        row, _ = await statuses.post(viewer.author, f"whispered to {audience}", audience)
        for asked, answer in (await viewer.everything(row.id, row.text)).items():
            assert str(row.id) not in answer, asked
            assert row.text not in answer, asked


async def _is_seen(viewer: Viewer, row: StatusRow, answers: dict[str, str]) -> None:
    """The test can fail: where it may be seen, it is."""
    words = row.text.removeprefix(MENTION)
    for path in ["/users/{handle}/statuses?limit=20", *(f"/timeline?phase={slug}&limit=20" for slug in SLUGS)]:
        assert words in answers[f"{PREFIX}{path}"], path
    for page in ["/@{handle}?x", "/statuses/{id}", *(f"/?phase={slug}" for slug in SLUGS)]:
        assert words in answers[page], page
    assert '"statuses":1' in answers[f"{PREFIX}/users/{{handle}}"]


def _is_not_seen(row: StatusRow, answers: dict[str, str], silence: dict[str, str]) -> None:
    for asked, answer in answers.items():
        assert str(row.id) not in answer, asked
        if asked != "/people?q={text}":
            assert row.text.removeprefix(MENTION) not in answer, asked
    for asked, answer in without_figures(answers).items():
        assert answer == silence[asked], asked


async def test_keys_of_others_are_no_keys(site: Site) -> None:
    """An idempotency key answers its own author only; to anybody else it is new."""
    statuses = Statuses(site.stack, site.timelines.outbox)
    viewer = await seated(site)
    hidden, _ = await statuses.post(viewer.author, "hidden", "circle", "key")
    sent = {"json": {"text": "mine", "audience": "circle"}, "headers": {"Idempotency-Key": "key"}}
    answer = await viewer.ask(f"{PREFIX}/statuses", "POST", **sent)
    assert answer.startswith("201")
    assert "hidden" not in answer
    assert str(hidden.id) not in answer
    guessed = {"Idempotency-Key": f"{viewer.author}:key"}
    answer = await viewer.ask(f"{PREFIX}/statuses", "POST", json={"text": "mine too"}, headers=guessed)
    assert answer.startswith("201")


async def test_the_key_of_a_deleted_status_does_not_bring_it_back(site: Site) -> None:
    viewer = await seated(site)
    sent = {"json": {"text": "regretted"}, "headers": {"Idempotency-Key": "key"}}
    statuses = Statuses(site.stack, site.timelines.outbox)
    row, _ = await statuses.post(viewer.id, "regretted", "followers", "key")
    await statuses.delete(viewer.id, row.id)
    answer = await viewer.ask(f"{PREFIX}/statuses", "POST", **sent)
    assert answer.startswith("409")
    assert "regretted" not in answer
    assert str(row.id) not in answer


async def test_a_stranger_who_is_not_signed_in_learns_nothing(site: Site) -> None:
    statuses = Statuses(site.stack, site.timelines.outbox)
    viewer = await seated(site)
    row, _ = await statuses.post(viewer.author, "not for strangers")
    viewer.token = "nobody"
    viewer.browser = site.browser()
    for asked, answer in (await viewer.everything(row.id, "nothing")).items():
        assert "not for strangers" not in answer, asked
        assert str(row.id) not in answer, asked


async def test_every_address_is_asked(site: Site) -> None:
    """A new page or endpoint has to be listed here before it passes."""
    asked = {re.sub(r"[?].*", "", path) for path in [*PAGES, *STREAMS]}
    pages = {r.path for r in site.app.routes if isinstance(r, Route) and "GET" in (r.methods or ())}
    assert pages <= asked | ELSEWHERE | FORMS.keys()  # these lead to one of the others, whoever asks
    assert {r.path for r in site.app.routes if isinstance(r, Mount)} == {PREFIX, "/static"}
    read = {operation.path for operation in OPERATIONS if operation.method == "GET"}
    assert read <= {re.sub(r"[?].*", "", path) for path in API} | {"/live", "/live/socket"}  # see tests/live
