"""What a stream says, on stand-ins and on real servers."""

import json

import pytest

from app.inbox.notifications import Notifications
from app.inbox.notifier import Notifier
from tests.live.listeners import Client, fetched, new_hub, settled
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(world: World) -> World:
    world.timelines.outbox.add(Notifier(world.stack, world.timelines.outbox))
    await world.people("ann", "ben", "cat")
    await world.follow("ann", "ben", "cat")
    return world


async def told(client: Client) -> list[str]:
    """What is said from now on, in short."""
    await settled(client.hub)
    return [f"{event.name} {event.data}" for event in client.take()]


async def test_everything_that_happens_is_told_once(town: World) -> None:
    hub = await new_hub(town)
    ann = Client(hub, town.ids["ann"])
    await ann.connect()
    assert await told(ann) == ['ready {"unread":0,"messages_unread":0}']
    ann.state = await fetched(town, ann.me)
    status = await town.post("ben", "hello")
    await town.post("ben", "for my circle", "circle")
    await settled(hub)
    assert [event.name for event in ann.take()] == ["status"]
    await town.social.like(ann.me, status.id)
    await town.social.rename((await town.social.people([town.ids["ben"]]))[town.ids["ben"]], "Benjamin")
    await settled(hub)
    assert sorted(event.name for event in ann.take()) == ["likes", "person"]
    await town.follow("ben", "ann")
    await town.post("cat", "@ann look")
    await town.drain()
    await settled(hub)
    assert sorted(event.name for event in ann.take()) == ["notification", "notification", "status"]
    await Notifications(town.stack).mark_read(ann.me, 2)
    await settled(hub)
    assert [json.loads(event.data) for event in ann.take()] == [{"unread": 0, "messages_unread": 0}]
    await town.social.block(ann.me, town.ids["ben"])
    await settled(hub)
    assert [event.name for event in ann.take()] == ["status_gone", "notification_gone"]
    assert ann.state == await fetched(town, ann.me)
