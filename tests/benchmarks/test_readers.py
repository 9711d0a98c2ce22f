"""Readers over HTTP: a page counts when the oracle says the same, and a post when it is acknowledged."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from bson import ObjectId

from app.accounts import Accounts
from benchmarks.readers import NotAnswered, Readers, followed, post
from benchmarks.rig import Rig
from benchmarks.subject import Failed, WrongAnswer
from phases.p1_query import QUERY
from tests.benchmarks.test_compare import GRAPH, virtual_rig
from tests.benchmarks.test_generator import Server
from tests.benchmarks.virtual import run

LIMIT = 5
Page = dict[str, Any]


@asynccontextmanager
async def asked(changed: Callable[[Page], Page] = dict, status: int = 200) -> AsyncIterator[tuple[Rig, Readers, int]]:
    """Readers of a small world, whose pages are changed on their way; the port that they ask."""
    async with virtual_rig((QUERY,)) as rig:
        await rig.load(GRAPH, 1, 4, range(8))
        readers = Readers(rig, rig.loaded.readers, LIMIT)

        async def serve(_: int, token: str) -> tuple[int, str]:
            number = next(each for each, its in readers.tokens.items() if its == token)
            page = await rig.timelines.page(rig.loaded.ids[number], phase=QUERY.slug, limit=LIMIT)
            shown = {"statuses": [{"id": str(each.id)} for each in page.statuses], "next": page.next and str(page.next)}
            return status, json.dumps(changed(shown)).removesuffix("}")

        async with Server(serve).listening() as port:
            yield rig, readers, port


def test_right_pages_have_a_checksum_each() -> None:
    async def work() -> None:
        async with asked() as (rig, readers, port):
            shown = await readers.shown(QUERY.slug, [port])
            assert [reader.token for reader in shown] == [readers.tokens[number] for number in rig.loaded.readers]
            assert len({reader.page for reader in shown}) > 1
            assert await readers.shown(QUERY.slug, [port]) == shown, "what a page cost is no part of it"

    run(work())


def test_a_reader_is_remembered_like_anybody_who_signs_in() -> None:
    """A token without a version is looked up by every page, and no figure would be that of a signed-in reader."""

    async def work() -> None:
        async with virtual_rig((QUERY,)) as rig:
            await rig.load(GRAPH, 1, 4, range(8))
            readers = Readers(rig, rig.loaded.readers, LIMIT)
            await readers.enter(rig.loaded.readers)
            accounts = Accounts(rig.stack)
            for token in readers.tokens.values():
                assert await accounts.authenticate(token)
                known = accounts.remembered(token)
                assert known
                assert await accounts.good_versions(known)

    run(work())


def lacks_one(page: Page) -> Page:
    return page | {"statuses": page["statuses"][1:]}


def ends_early(page: Page) -> Page:
    return page | {"next": None}


def shows_another(page: Page) -> Page:
    return page | {"statuses": [{"id": str(ObjectId())}, *page["statuses"][1:]]}


@pytest.mark.parametrize("wrong", [lacks_one, ends_early, shows_another])
def test_a_page_that_is_not_the_oracles_is_wrong(wrong: Callable[[Page], Page]) -> None:
    async def work() -> None:
        async with asked(wrong) as (_, readers, port):
            with pytest.raises(WrongAnswer, match="the oracle's"):
                await readers.shown(QUERY.slug, [port])

    run(work())


def test_two_processes_have_to_show_the_same() -> None:
    """Also of what the oracle knows nothing about."""
    shown = count()

    def changes(page: Page) -> Page:
        return page | {"phase": "another" if next(shown) >= 8 else "the same"}

    async def work() -> None:
        async with asked(changes) as (_, readers, port):
            with pytest.raises(WrongAnswer, match="another page by the process"):
                await readers.shown(QUERY.slug, [port, port])

    run(work())


def test_what_is_refused_is_no_page_and_no_post() -> None:
    async def work() -> None:
        async with asked(status=503) as (rig, readers, port):
            with pytest.raises(Failed, match="HTTP 503"):
                await readers.shown(QUERY.slug, [port])
            with pytest.raises(NotAnswered, match="HTTP 503"):
                await post(readers, [port], followed(rig, readers.numbers), 3)
            assert not readers.record.statuses

    run(work())
