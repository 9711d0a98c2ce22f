"""Look-ups of several requests share commands, and each gets what it would have got alone."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from app.logs import REQUEST_ID
from app.stack.mongodb.lookup import NEWEST_FIRST, Find, Rows
from app.stack.mongodb.shared import MOST, Shared
from tests.waiting import LONG_S

pytestmark = pytest.mark.anyio

NEWEST = Find("statuses", {"pending": "push"}, ("_id",), 2, (("_id", -1),), common=True)
NEWEST_TAGGED = Find.tagged("statuses", ["cache"], ("_id",), 2, NEWEST_FIRST)
CHANGED = 5  # of these
TAGGED: list[dict[str, Any]] = [
    {"_id": ObjectId(bytes(11) + bytes([n])), "pending": ["cache", f"#{n}"] if n <= CHANGED else ["cache"], "text": "x"}
    for n in (3, 9, 1, 7, 2, 8, 4, 6, 5)
]


def by_id(*ids: int, liked: bool = False) -> Find:
    rest = {"likes": {"$gt": 0}} if liked else {}
    return Find("statuses", {"_id": {"$in": list(ids)}, **rest}, ("_id",), len(ids), by="_id")


def changed(*ids: int) -> Find:
    return Find.tagged("statuses", [f"#{id}" for id in ids], ("_id",), len(ids))


def token(digest: bytes) -> Find:
    return Find("tokens", {"digest": digest}, ("digest",), 1, by="digest")


class Server:
    """Even statuses are liked; there are ten, and two tokens. It answers when it is told to."""

    def __init__(self) -> None:
        self.commands: list[Mapping[str, Find]] = []
        self.go = asyncio.Event()
        self.failing: Exception | None = None

    async def answer(self, finds: Mapping[str, Find]) -> dict[str, Rows]:
        self.commands.append(finds)
        await self.go.wait()
        if self.failing:
            raise self.failing
        return {name: alone(find) for name, find in finds.items()}


def alone(find: Find) -> Rows:
    if find.tags:
        rows = [row for row in TAGGED if not {*find.tags}.isdisjoint(row["pending"])]
        rows = sorted(rows, key=lambda row: row["_id"], reverse=True) if find.order else rows
        rows = [dict(row) for row in rows[: find.limit]]
    elif find.common:
        rows = [{"_id": 9}, {"_id": 8}]
    elif find.collection == "tokens":
        rows = [{"digest": value} for value in find.values() if value in (b"one", b"two")]
    else:
        rows = [
            {"_id": id} for id in find.query["_id"]["$in"] if id < 10 and ("likes" not in find.query or id % 2 == 0)
        ]
    assert len(rows) <= find.limit
    return rows


async def asked(server: Server, *requests: Mapping[str, Find]) -> list[Any]:
    """The first one is on its way when the others come."""
    shared = Shared()
    tasks = [asyncio.create_task(shared.ask(server.answer, finds)) for finds in requests]
    await asyncio.sleep(0)
    server.go.set()
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LONG_S)


async def test_who_is_alone_sends_what_they_ask() -> None:
    server, finds = Server(), {"a": by_id(1, 2), "b": NEWEST, "c": NEWEST}
    newest = [{"_id": 9}, {"_id": 8}]
    assert await asked(server, finds) == [{"a": [{"_id": 1}, {"_id": 2}], "b": newest, "c": newest}]
    assert [list(command.values()) for command in server.commands] == [[finds["a"], NEWEST]]


async def test_half_of_those_who_come_meanwhile_share_a_command() -> None:
    """While it is answered, there is something to do for the others."""
    server = Server()
    requests = [{"me": token(b"one"), "page": by_id(n, n + 1, 77), "pending": NEWEST} for n in range(6)]
    found = await asked(server, *requests)
    assert found == [{name: alone(find) for name, find in finds.items()} for finds in requests]
    first, second, third = (
        [(find.collection, len(find.values()) if find.by else 0) for find in command.values()]
        for command in server.commands
    )
    assert (first, second, third) == (
        [("tokens", 1), ("statuses", 3), ("statuses", 0)],
        [("tokens", 3), ("statuses", 9), ("statuses", 0)],
        [("tokens", 2), ("statuses", 6), ("statuses", 0)],
    )


async def test_what_goes_by_tags_is_one_find() -> None:
    server = Server()
    [[one]] = [await asked(server, {"pending": changed(6), "some": changed(3, 11), "others": changed(4)})]
    assert {name: [row["_id"] for row in rows] for name, rows in one.items()} == {
        "pending": [],
        "some": [TAGGED[0]["_id"]],
        "others": [TAGGED[6]["_id"]],
    }
    [[find]] = [list(command.values()) for command in server.commands]
    assert sorted(find.tags) == ["#11", "#3", "#4", "#6"]


async def test_where_one_of_many_tags_has_many_each_is_found_by_itself() -> None:
    """One `find` would leave out some, nobody knows whose."""
    server = Server()
    [found] = await asked(server, {"pending": NEWEST_TAGGED, "some": changed(1, 2)})
    assert [row["_id"].binary[-1] for row in found["pending"]] == [9, 8]
    assert {row["_id"].binary[-1] for row in found["some"]} == {1, 2}
    assert [len(command) for command in server.commands] == [1, 2]


async def test_a_command_that_is_under_way_is_not_joined() -> None:
    """It may have looked already at what has been written since."""
    server, shared = Server(), Shared()
    first = asyncio.create_task(shared.ask(server.answer, {"a": NEWEST}))
    await asyncio.sleep(0)
    second = asyncio.create_task(shared.ask(server.answer, {"a": NEWEST}))
    await asyncio.sleep(0)
    assert len(server.commands) == 1
    server.go.set()
    await asyncio.gather(first, second)
    assert len(server.commands) == 2


async def test_a_command_is_shared_by_so_many() -> None:
    server = Server()
    await asked(server, *({"a": by_id(n)} for n in range(4 * MOST)))
    shared = [find.limit for command in server.commands for find in command.values()]
    assert (shared[:3], sum(shared)) == ([1, MOST, MOST], 4 * MOST)


async def test_what_differs_in_more_than_the_values_is_looked_up_by_itself() -> None:
    server = Server()
    requests = [{"a": NEWEST}, {"a": by_id(1, 2)}, {"a": by_id(2, 3, liked=True)}, {"a": by_id(4)}, {"a": by_id(5)}]
    found = await asked(server, *requests)
    assert found[1:4] == [{"a": [{"_id": 1}, {"_id": 2}]}, {"a": [{"_id": 2}]}, {"a": [{"_id": 4}]}]
    assert [find.limit for find in server.commands[1].values()] == [3, 2]


async def test_what_nobody_else_asks_for_travels_along_unchanged() -> None:
    server, own = Server(), [replace(by_id(n, n + 1), along=True, by=None) for n in range(3)]
    found = await asked(server, *({"a": by_id(n), "own": find} for n, find in enumerate(own)))
    assert found == [{"a": [{"_id": n}], "own": [{"_id": n}, {"_id": n + 1}]} for n in range(3)]
    assert list(server.commands[1].values())[1:] == own[1:], "and what goes by values is one"


async def test_a_failure_is_that_of_all_who_shared_and_of_nobody_else() -> None:
    server = Server()
    server.failing = ConnectionError("away")
    assert [str(error) for error in await asked(server, *[{"a": NEWEST}] * 3)] == ["away"] * 3
    server.failing = None
    shared = Shared()
    assert await shared.ask(server.answer, {"a": by_id(1)}) == {"a": [{"_id": 1}]}


@pytest.mark.parametrize("error", [KeyError, asyncio.CancelledError])
async def test_an_answer_that_nobody_can_read_holds_up_nobody(error: type[BaseException]) -> None:
    """Else every page of the process would wait for ever; so it would where the driver gives up in its own way."""
    server, shared = Server(), Shared()

    async def garbled(finds: Mapping[str, Find]) -> dict[str, Rows]:
        answers = await server.answer(finds)
        if error is asyncio.CancelledError:
            raise error
        return {name: [{}] for name in answers}

    tasks = [asyncio.create_task(shared.ask(garbled, {"a": by_id(n)})) for n in range(3)]
    await asyncio.sleep(0)
    server.go.set()
    _, *found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LONG_S)
    assert [type(each) for each in found] == [error, error]
    assert await shared.ask(server.answer, {"a": by_id(1)}) == {"a": [{"_id": 1}]}


@pytest.mark.parametrize("gives_up", range(4))
async def test_whoever_gives_up_holds_up_nobody(gives_up: int) -> None:
    server, shared = Server(), Shared()
    tasks = [asyncio.create_task(shared.ask(server.answer, {"a": by_id(n)})) for n in range(4)]
    await asyncio.sleep(0)
    tasks[gives_up].cancel()
    await asyncio.sleep(0)
    server.go.set()
    found: list[Any] = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LONG_S)
    assert isinstance(found.pop(gives_up), asyncio.CancelledError)
    assert found == [{"a": [{"_id": n}]} for n in range(4) if n != gives_up]
    asked_for = [id for command in server.commands for find in command.values() for id in find.values()]
    assert asked_for == [n for n in range(4) if n != gives_up or n == 0], "what is under way goes to its end"
    assert await shared.ask(server.answer, {"a": by_id(5)}) == {"a": [{"_id": 5}]}


async def test_a_shared_command_is_in_nobodys_context() -> None:
    """PyMongo's limit is in there, too: under load that of the first request would hold for all who come after it."""
    server, shared, seen = Server(), Shared(), list[str]()

    async def answer(finds: Mapping[str, Find]) -> dict[str, Rows]:
        seen.append(REQUEST_ID.get())
        return await server.answer(finds)

    async def request(n: int) -> None:
        REQUEST_ID.set(str(n))
        await shared.ask(answer, {"a": by_id(n)})

    tasks = [asyncio.create_task(request(n)) for n in range(3)]
    await asyncio.sleep(0)
    server.go.set()
    await asyncio.wait_for(asyncio.gather(*tasks), LONG_S)
    assert seen == ["", ""]


FINDS = (
    st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True).map(lambda ids: by_id(*ids))
    | st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True).map(lambda ids: by_id(*ids, liked=True))
    | st.sampled_from([b"one", b"two", b"three"]).map(token)
    | st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True).map(lambda ids: changed(*ids))
    | st.sampled_from([NEWEST, NEWEST_TAGGED])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abcd"), FINDS, min_size=1), min_size=1, max_size=2 * MOST))
async def test_everybody_gets_what_they_would_have_got_alone(requests: list[dict[str, Find]]) -> None:
    found = await asked(Server(), *requests)
    assert found == [{name: alone(find) for name, find in finds.items()} for finds in requests]
