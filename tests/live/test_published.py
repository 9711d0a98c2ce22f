"""A status is published once, whatever its followers."""

from typing import Any

import pytest
from bson import ObjectId

from app.config import Config
from app.demo.seed import insert
from app.models import Follow
from app.stack import Hint
from app.stack.bus import Listener
from tests.live.listeners import carried
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings() -> dict[str, Any]:
    """Deliveries take steps of their ordinary size: tests have tiny ones, 25,000 of them for so many followers."""
    return {name: Config.model_fields[name].default for name in ("chunk", "inline_chunk", "list_chunk")}


@pytest.mark.parametrize(
    ("addresses", "followers"),
    [
        ("memory", 10),
        pytest.param("servers", 10, marks=pytest.mark.servers),
        pytest.param("servers", 100_000, marks=[pytest.mark.servers, pytest.mark.scale]),
    ],
    indirect=["addresses"],
)
async def test_a_status_is_published_once(world: World, followers: int) -> None:
    await world.sign_up("bob")
    bob, heard = world.ids["bob"], list[Hint]()
    edges = ({"_id": ObjectId(), "follower": ObjectId(), "followee": bob} for _ in range(followers))
    await insert(world.stack, Follow, edges, followers)
    world.stack.bus.listen(Listener(heard.append, lambda: None))
    await carried(world.stack)
    heard.clear()
    row, _ = await world.statuses.post(bob, "to all of them", "followers")
    await carried(world.stack)
    assert [hint for hint in heard if hint.kind != "concerns"] == [Hint("posted", bob, row.id)]
