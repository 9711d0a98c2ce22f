"""The Event and the Queue of a connection: what asyncio's do."""

import asyncio

import pytest

from app.web.light import Event, Queue

pytestmark = pytest.mark.anyio


async def _turn() -> None:
    """Everybody who can go on does."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_all_who_wait_go_on_though_one_has_given_up() -> None:
    event = Event()
    first, second, third = (asyncio.create_task(event.wait()) for _ in range(3))
    await _turn()
    assert not first.done()
    second.cancel()
    event.set()
    event.clear()
    await _turn()
    assert first.done()
    assert third.done()
    assert not event.is_set()
    later = asyncio.create_task(event.wait())
    await _turn()
    assert not later.done()
    event.set()
    assert await later
    assert await event.wait()


async def test_what_is_set_once_need_not_be_waited_for() -> None:
    event = Event(is_set=True)
    assert event.is_set()
    assert await event.wait()


async def test_a_queue_loses_nothing_and_keeps_the_order() -> None:
    queue = Queue[int]()
    getting, given_up = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await _turn()
    given_up.cancel()
    for number in range(3):
        queue.put_nowait(number)
    assert await getting == 0
    assert not queue.empty()
    assert [await queue.get(), await queue.get()] == [1, 2]
    assert queue.empty()
    again = asyncio.create_task(queue.get())
    await _turn()
    assert not again.done()
    queue.put_nowait(3)
    assert await again == 3
