"""A status is published once, whatever its followers."""

import pytest
from bson import ObjectId

from app.stack import Hint
from app.stack.bus import Listener
from tests.live.listeners import carried
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("followers", [10, pytest.param(100_000, marks=pytest.mark.scale)])
async def test_a_status_is_published_once(world: World, followers: int) -> None:
    await world.people("bob")
    bob, heard = world.ids["bob"], list[Hint]()
    edges = [{"_id": ObjectId(), "follower": ObjectId(), "followee": bob} for _ in range(followers)]
    await world.stack.db["follows"].insert_many(edges, ordered=False)
    world.stack.bus.listen(Listener(heard.append, lambda: None))
    await carried(world.stack)
    heard.clear()
    row, _ = await world.social.post(bob, "to all of them", "followers")
    await carried(world.stack)
    assert [hint for hint in heard if hint.kind != "concerns"] == [Hint("posted", bob, row.id)]
