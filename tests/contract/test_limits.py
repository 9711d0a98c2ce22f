"""What one person may have: looked at where it is written, in the same transaction."""

import asyncio
from typing import Any

import pytest

from app.errors import Forbidden
from tests.world import World

pytestmark = pytest.mark.anyio

LIMIT = 5
NAMES = tuple(f"u{n}" for n in range(LIMIT + 10))


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"following_limit": LIMIT}


@pytest.fixture
async def town(world: World) -> World:
    await world.sign_up("ann", *NAMES)
    await world.follow("ann", *NAMES[: LIMIT - 1])
    return world


async def followees(town: World) -> int:
    return await town.stack.db["follows"].count_documents({"follower": town.ids["ann"]})


async def test_a_follow_is_repeated_at_the_limit(town: World) -> None:
    await town.follow("ann", NAMES[-1])
    await town.follow("ann", NAMES[-1], NAMES[0])
    with pytest.raises(Forbidden):
        await town.follow("ann", NAMES[-2])
    assert await followees(town) == LIMIT
    await town.relations.unfollow(town.ids["ann"], town.ids[NAMES[0]])
    await town.follow("ann", NAMES[-2])
    assert await followees(town) == LIMIT


async def test_many_follows_at_once_end_at_the_limit(town: World) -> None:
    wished = [town.follow("ann", name) for name in NAMES[LIMIT - 1 :]]
    ends = await asyncio.gather(*wished, return_exceptions=True)
    assert ends.count(None) == 1
    assert all(isinstance(end, Forbidden) for end in ends if end), ends
    assert await followees(town) == LIMIT
