"""Conversations and pictures over HTTP, line by line as they are promised."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from bson import ObjectId
from starlette.applications import Starlette
from starlette.requests import Request

from app.config import Config
from app.departures import clear_departures, depart
from app.inbox.changes import Change, Changes
from app.inbox.messages import Messages
from app.inbox.pictures import LARGEST
from app.inbox.sides import Conversation, Message
from app.models import Account
from app.stack.cost import counted
from app.web import export, limits
from tests.contract.test_pictures import drawn
from tests.test_api import TIME, Api, opened, scraped

pytestmark = pytest.mark.anyio

HELLO = {"client_id": "phone-1:2.3_4", "text": " hello "}


@pytest.fixture
async def site() -> AsyncIterator[tuple[Api, Starlette]]:
    async with opened(Config.from_environment({})) as found:
        yield found


@pytest.fixture
def app(site: tuple[Api, Starlette]) -> Starlette:
    return site[1]


@pytest.fixture
async def people(site: tuple[Api, Starlette]) -> list[Api]:
    return [await site[0].person(name) for name in ("ann", "bob", "cat")]


async def conversation(me: Api, other: str) -> str:
    return str((await me.json("PUT", f"/conversations/{other}", 201))["id"])


async def test_a_conversation_and_a_message(people: list[Api]) -> None:
    ann, bob, cat = people
    empty = await ann.json("PUT", "/conversations/BOB", 201)
    with_bob = {"id": bob.id, "handle": "bob", "name": "Bob", "presence": None}
    bare = {"with": with_bob, "last": None, "unread": 0, "delivered_to": 0, "read_to": 0}
    assert empty == {"id": empty["id"], **bare}
    assert re.fullmatch("[0-9a-f]{24}", empty["id"])
    assert await ann.json("PUT", "/conversations/bob") == empty
    assert (await bob.json("PUT", "/conversations/ann"))["id"] == empty["id"]
    assert await ann.json("GET", "/conversations") == {"conversations": [empty], "unread": 0, "next": None}
    assert await bob.json("GET", "/conversations") == {"conversations": [], "unread": 0, "next": None}
    messages = f"/conversations/{empty['id']}/messages"
    assert await ann.json("GET", messages) == {"messages": [], "next": None}
    before = (await scraped(ann.http))["feedlab_messages_total{}"]
    sent = await ann.json("POST", messages, 201, json=HELLO)
    assert sent == {
        "seq": 1,
        "client_id": "phone-1:2.3_4",
        "from": {"id": ann.id, "handle": "ann", "name": "Ann"},
        "text": "hello",
        "image": None,
        "created_at": sent["created_at"],
        "state": "sent",
    }
    assert TIME.fullmatch(sent["created_at"])
    assert await ann.json("POST", messages, 200, json=HELLO) == sent
    await ann("POST", messages, 409, json=HELLO | {"text": "goodbye"})
    assert (await scraped(ann.http))["feedlab_messages_total{}"] == before + 1
    got = sent | {"client_id": None}
    with_ann = {"id": ann.id, "handle": "ann", "name": "Ann", "presence": None}
    of_bob = {"id": empty["id"], "with": with_ann, "last": got, "unread": 1, "delivered_to": 0, "read_to": 0}
    assert await bob.json("GET", "/conversations") == {"conversations": [of_bob], "unread": 1, "next": None}
    await bob("PUT", f"/conversations/{empty['id']}/receipt", 204, json={"delivered": 1})
    assert await bob.json("GET", messages) == {"messages": [got | {"state": "delivered"}], "next": None}
    await bob("PUT", f"/conversations/{empty['id']}/receipt", 204, json={"read": 1, "delivered": None})
    for me, of in (
        (ann, empty | {"last": sent | {"state": "read"}, "delivered_to": 1, "read_to": 1}),
        (bob, of_bob | {"last": got | {"state": "read"}, "unread": 0}),
    ):
        assert (await me.json("GET", "/conversations"))["conversations"] == [of]
    for method, path, body in (
        ("GET", messages, None),
        ("POST", messages, HELLO),
        ("DELETE", f"{messages}/1", None),
        ("PUT", f"/conversations/{empty['id']}/receipt", {"read": 1}),
        ("PUT", f"/conversations/{empty['id']}/silence", None),
    ):
        await cat(method, path, 404, json=body)
        await ann(method, path.replace(empty["id"], "0" * 24), 404, json=body)
        await ann(method, path.replace(empty["id"], "nowhere"), 404, json=body)


async def test_what_is_refused(people: list[Api]) -> None:
    ann, bob, _ = people
    await ann("PUT", "/conversations/ann", 422)
    await ann("PUT", "/conversations/nobody", 404)
    id = await conversation(ann, "bob")
    wrong: list[Any] = [
        {},
        HELLO | {"text": " "},
        HELLO | {"text": "x" * 2_001},
        HELLO | {"text": None},
        {"text": "hello"},
    ]
    wrong += [HELLO | {"client_id": client_id} for client_id in ("", "a b", "x" * 101, "é", 1, None)]
    wrong += [HELLO | {"image": image} for image in ("", "x", f"/api/v1/images/{id}", f"http://else.test/{id}", 1)]
    for body in wrong:
        await ann("POST", f"/conversations/{id}/messages", 422, json=body)
    await ann("POST", f"/conversations/{id}/messages", 201, json={"client_id": "x" * 100, "text": "x" * 2_000})
    for body in ({}, {"read": 2}, {"delivered": 2}, {"read": -1}, {"read": "1"}, {"read": 10**20}, {"read": None}):
        await bob("PUT", f"/conversations/{id}/receipt", 422, json=body)
    for seq in ("0", "2", "-1", "x", "9" * 30):
        await ann("DELETE", f"/conversations/{id}/messages/{seq}", 404)
    await bob("DELETE", f"/conversations/{id}/messages/1", 404)
    await bob("PUT", "/blocks/ann", 204)
    for me, other in ((ann, "bob"), (bob, "ann")):
        await me("PUT", f"/conversations/{other}", 403)
        await me("POST", f"/conversations/{id}/messages", 403, json=HELLO)
        await me("PUT", f"/conversations/{id}/receipt", 204, json={"read": 1})
    assert (await ann.json("GET", f"/conversations/{id}/messages"))["messages"][0]["state"] == "sent"


async def test_pages(people: list[Api]) -> None:
    ann, _, _ = people
    ids = [await conversation(ann, other) for other in ("bob", "cat")]
    for n in range(3):
        await ann("POST", f"/conversations/{ids[0]}/messages", 201, json={"client_id": str(n), "text": str(n)})
    first = await ann.json("GET", "/conversations?limit=1")
    second = await ann.json("GET", "/conversations", params={"limit": 1, "before": first["next"]})
    assert [page["conversations"][0]["id"] for page in (first, second)] == ids
    assert second["next"] is None
    newer = await ann.json("GET", f"/conversations/{ids[0]}/messages?limit=2")
    assert ([message["seq"] for message in newer["messages"]], newer["next"]) == ([3, 2], 2)
    older = await ann.json("GET", f"/conversations/{ids[0]}/messages", params={"before": newer["next"]})
    assert ([message["seq"] for message in older["messages"]], older["next"]) == ([1], None)
    for wrong in ("before=0", "before=x", "limit=0", "limit=101"):
        await ann("GET", f"/conversations/{ids[0]}/messages?{wrong}", 422)
        await ann("GET", f"/conversations?{wrong}", 422)


async def test_deleting_and_silencing(people: list[Api]) -> None:
    ann, bob, _ = people
    id = await conversation(ann, "bob")
    await ann("POST", f"/conversations/{id}/messages", 201, json=HELLO)
    await bob("PUT", f"/conversations/{id}/silence", 204)
    page = await bob.json("GET", "/conversations")
    assert (page["unread"], page["conversations"][0]["unread"], page["conversations"][0]["silenced"]) == (0, 1, True)
    await bob("DELETE", f"/conversations/{id}/silence", 204)
    assert (await bob.json("GET", "/conversations"))["unread"] == 1
    await ann("DELETE", f"/conversations/{id}/messages/1", 204)
    await ann("DELETE", f"/conversations/{id}/messages/1", 404)
    assert (await ann.json("POST", f"/conversations/{id}/messages", 200, json=HELLO))["text"] is None
    await ann("POST", f"/conversations/{id}/messages", 409, json=HELLO | {"text": "goodbye"})
    (gone,) = (await bob.json("GET", f"/conversations/{id}/messages"))["messages"]
    assert (gone["seq"], gone["text"], gone["image"]) == (1, None, None)


async def changes_of(person: Api, app: Starlette) -> list[Change]:
    return await Changes(app.state.services.stack).between(ObjectId(person.id), 0, 1_000, 10)


async def test_whoever_may_know_it_sees_who_is_here(people: list[Api], app: Starlette) -> None:
    ann, bob, _ = people
    await ann("PUT", "/follows/bob", 204)
    await bob("PUT", "/follows/ann", 204)
    await app.state.services.presences.connected(ObjectId(bob.id), "1")
    opened = await ann.json("PUT", "/conversations/bob", 201)
    listed = (await ann.json("GET", "/conversations"))["conversations"][0]
    for presence in (opened["with"]["presence"], listed["with"]["presence"]):
        assert presence["online"] is True
        assert TIME.fullmatch(presence["last_seen_at"])
    await bob("PUT", "/me", json={"presence": "nobody"})
    assert (await ann.json("PUT", "/conversations/bob"))["with"]["presence"] is None


async def test_an_export_has_what_was_said(people: list[Api]) -> None:
    ann, bob, _ = people
    first, second = [await conversation(ann, other) for other in ("bob", "cat")]
    for n in range(3):
        await ann("POST", f"/conversations/{first}/messages", 201, json={"client_id": str(n), "text": str(n)})
    await ann("POST", f"/conversations/{second}/messages", 201, json=HELLO)
    found = await ann.json("GET", "/me/export")
    assert found["conversations"] == (await ann.json("GET", "/conversations"))["conversations"]
    said = {(each["conversation"], each["message"]["seq"], each["message"]["text"]) for each in found["messages"]}
    assert said == {(second, 1, "hello"), *((first, n + 1, str(n)) for n in range(3))}
    assert len((await bob.json("GET", "/me/export"))["messages"]) == 3


async def test_an_export_has_everything_once_though_somebody_writes_meanwhile(
    people: list[Api], app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written moves a conversation to the top of the list while that is walked."""
    ann = people[0]
    await ann.person("dan")
    talks = [await conversation(ann, other) for other in ("bob", "cat", "dan")]
    for id in talks:
        for n in range(3):
            await ann("POST", f"/conversations/{id}/messages", 201, json={"client_id": str(n), "text": str(n)})
    messages = app.state.services.messages
    shown_conversations, page = export.shown_conversations, Messages.page

    async def write(id: str) -> None:
        await messages.send(ObjectId(ann.id), ObjectId(id), str(ObjectId()), "meanwhile")

    async def shown(request: Request, me: Account, found: Sequence[Conversation]) -> list[dict[str, Any]]:
        await write(talks[0])
        return await shown_conversations(request, me, found)

    async def said(self: Messages, me: ObjectId, id: ObjectId, *where: Any) -> Any:
        found = await page(self, me, id, *where)
        await write(str(id))
        return found

    monkeypatch.setattr(export, "AT_ONCE", 1)
    monkeypatch.setattr(export, "shown_conversations", shown)
    monkeypatch.setattr(Messages, "page", said)
    found = await ann.json("GET", "/me/export")
    assert sorted(each["id"] for each in found["conversations"]) == sorted(talks)
    before = Counter(
        (each["conversation"], each["message"]["text"])
        for each in found["messages"]
        if each["message"]["text"] != "meanwhile"
    )
    assert before == {(id, str(n)): 1 for id in talks for n in range(3)}


async def test_the_other_keeps_a_conversation_with_somebody_who_has_gone(people: list[Api], app: Starlette) -> None:
    ann, bob, _ = people
    id = await conversation(ann, "bob")
    await bob("POST", f"/conversations/{id}/messages", 201, json=HELLO)
    (before,) = [each for each in await changes_of(ann, app) if isinstance(each.what, Message)]
    await depart(ann.stack.db, ann.stack.clock, ObjectId(bob.id))
    await clear_departures(ann.stack.db, ann.stack.clock, ann.stack.bus)
    told = [each for each in await changes_of(ann, app) if each.seq > before.seq]
    assert [str(each.conversation) for each in told] == [id], "an open page is told"
    nobody = {"id": bob.id, "handle": None, "name": "deleted"}
    (kept,) = (await ann.json("GET", "/conversations"))["conversations"]
    assert kept["with"] == nobody | {"presence": None}
    assert (kept["last"]["from"], kept["last"]["text"]) == (nobody, "hello")
    await ann("POST", f"/conversations/{id}/messages", 403, json=HELLO)
    await ann("PUT", f"/conversations/{id}/receipt", 204, json={"read": 1})
    await ann("PUT", "/conversations/bob", 404)


async def test_a_picture(people: list[Api]) -> None:
    ann, bob, cat = people
    id, data = await conversation(ann, "bob"), drawn("image/png")
    new = await ann.json("POST", "/uploads", 201, json={"type": "image/png", "size": len(data)})
    assert sorted(new) == ["expires_at", "image", "upload_url"]
    assert TIME.fullmatch(new["expires_at"])
    assert re.fullmatch("/api/v1/images/[0-9a-f]{24}", new["image"])
    with_picture = {"client_id": "1", "image": new["image"]}
    await ann("POST", f"/conversations/{id}/messages", 422, json=with_picture)

    async def put(data: bytes | AsyncIterator[bytes], address: str = new["upload_url"]) -> int:
        return (await ann.http.put(address, content=data)).status_code

    assert await put(data[:-1]) == await put(b"x" * len(data)) == 422
    assert (await put(data), await put(data), await put(data, new["upload_url"][:-1])) == (201, 409, 404)
    sent = await ann.json("POST", f"/conversations/{id}/messages", 201, json=with_picture)
    assert (sent["text"], sent["image"]) == (None, new["image"])
    path = new["image"].removeprefix("/api/v1")
    for me in (ann, bob):
        answer = await me("GET", path)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"].startswith("private")
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert answer.content.startswith(b"\x89PNG")
    await cat("GET", path, 404)
    await ann("GET", "/images/x", 404)
    await ann("DELETE", f"/conversations/{id}/messages/1", 204)
    await bob("GET", path, 404)
    await ann("PUT", new["upload_url"].removeprefix("/api/v1"), 409, content=data)
    for wrong in ({"size": 0}, {"size": LARGEST + 1}, {"type": "image/svg+xml"}, {"type": "text/html"}):
        await ann("POST", "/uploads", 422, json={"type": "image/png", "size": 1} | wrong)


async def test_a_person_has_so_many_pictures_an_hour() -> None:
    async with opened(Config(pictures_per_hour=2)) as (site, _):
        ann, bob = await site.person("ann"), await site.person("bob")
        data = drawn("image/png")

        async def put(me: Api) -> int:
            new = await me.json("POST", "/uploads", 201, json={"type": "image/png", "size": len(data)})
            return (await me.http.put(new["upload_url"], content=data)).status_code

        assert [await put(ann) for _ in range(3)] == [201, 201, 429]
        assert await put(bob) == 201


async def test_an_upload_may_be_larger_than_other_bodies_and_has_its_own_end(people: list[Api]) -> None:
    ann, *_ = people
    size = limits.ORDINARY.size * 2
    new = await ann.json("POST", "/uploads", 201, json={"type": "image/png", "size": size})
    path = new["upload_url"].removeprefix("/api/v1")
    await ann("PUT", path, 422, content=bytes(size))
    await ann("PUT", path, 413, content=bytes(limits.PICTURE.size + 1))
    await ann("PUT", path + "/", 413, content=bytes(size))

    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += size
            yield bytes(size)
            await asyncio.sleep(0)

    await ann("PUT", path, 422, content=endless())
    assert sent <= 2 * size


async def test_a_message_takes_seven_commands(people: list[Api]) -> None:
    ann, *_ = people
    id, data = await conversation(ann, "bob"), drawn("image/png")
    for n in range(2):
        new = await ann.json("POST", "/uploads", 201, json={"type": "image/png", "size": len(data)})
        await ann.http.put(new["upload_url"], content=data)
        message = {"client_id": str(n), "text": "look", "image": new["image"]}
        with counted() as cost:
            await ann("POST", f"/conversations/{id}/messages", 201, json=message)
    assert (cost.mongodb, cost.redis <= 1) == (7, True), "a server is told to commit"
