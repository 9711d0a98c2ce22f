"""Mutes: `on_home` is `visible` and not muted, in every phase on every stack; nothing that is kept changes by it."""

import pytest
from bson import ObjectId

from app.errors import Invalid
from app.stack.cost import counted
from tests.world import KEEPING, SLUGS, World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(world: World) -> World:
    """Ann follows Zoe and Yan; Zoe follows her back."""
    await world.sign_up("ann", "zoe", "yan", "dot")
    await world.follow("ann", "zoe", "yan")
    await world.follow("zoe", "ann")
    return world


async def mute(town: World, reader: str, *muted: str) -> None:
    for name in muted:
        await town.relations.mute(town.ids[reader], town.ids[name])


async def unmute(town: World, reader: str, *muted: str) -> None:
    for name in muted:
        await town.relations.unmute(town.ids[reader], town.ids[name])


async def test_who_is_muted_leaves_the_timeline_at_the_next_read_and_comes_back(town: World) -> None:
    await town.post("zoe", "by zoe")
    await town.post("yan", "by yan")
    await town.drain()
    await town.warm("ann", "zoe")
    await mute(town, "ann", "zoe")
    await town.sees("ann", "by yan")
    await town.post("zoe", "while muted")
    await town.sees("ann", "by yan")
    await town.drain()
    await town.sees("ann", "by yan")
    await unmute(town, "ann", "zoe")
    await town.sees("ann", "while muted", "by yan", "by zoe")
    await town.sees("zoe", "while muted", "by zoe")


async def test_unmuting_owes_no_backfill(town: World) -> None:
    """What was built for somebody who had been away, while an author was muted, holds what that author wrote."""
    await town.post("dot", "before")
    await town.drain()
    await town.follow("ann", "dot")
    await mute(town, "ann", "dot")
    config = town.stack.config
    town.clock.advance(config.timeline_ttl_s + config.activity_slack_s + 1)
    await town.timelines.sweep()
    await town.warm("ann")  # from nothing
    await town.post("dot", "delivered")
    await town.drain()
    await unmute(town, "ann", "dot")
    for phase in KEEPING:
        page = await town.page("ann", phase)
        assert ([row.text for row in page.statuses], page.source) == (["delivered", "before"], "list"), phase
    for rows in ("follows", "circles"):
        assert await town.stack.db[rows].count_documents({"debt": True}) == 0


async def test_a_single_status_and_a_persons_page_show_who_is_muted(town: World) -> None:
    status = await town.post("zoe", "by zoe")
    await mute(town, "ann", "zoe")
    ann, zoe = town.ids["ann"], town.ids["zoe"]
    assert (await town.statuses.by_id(ann, status.id)).text == "by zoe"
    listed, _ = await town.statuses.by_author(ann, zoe, before=None, limit=5)
    assert [row.text for row in listed] == ["by zoe"]
    assert (await town.people.counts(ann, zoe)).statuses == 1
    await town.statuses.like(ann, status.id)


async def test_a_mute_is_nobody_elses_business(town: World) -> None:
    await mute(town, "ann", "zoe", "dot")
    await mute(town, "ann", "zoe")
    await town.post("ann", "by ann")
    await town.sees("zoe", "by ann")
    await town.sees("ann", "by ann")
    relations = [
        await town.people.relation(town.ids[one], town.ids[other]) for one, other in (("ann", "zoe"), ("zoe", "ann"))
    ]
    assert [(each.muted, each.you_follow, each.follows_you) for each in relations] == [
        (True, True, True),
        (False, True, True),
    ]
    with pytest.raises(Invalid):
        await mute(town, "ann", "ann")


async def test_who_is_muted_before_they_are_followed_stays_muted(town: World) -> None:
    await town.post("dot", "by dot")
    await town.drain()
    await town.warm("ann")
    await mute(town, "ann", "dot")
    await town.follow("ann", "dot")
    await town.sees("ann")
    await unmute(town, "ann", "dot")
    await town.sees("ann", "by dot")


async def test_pages_are_full_however_much_of_what_is_kept_is_by_somebody_muted(town: World) -> None:
    """Far beyond the cap, which is 10."""
    for n in range(4):
        await town.post("yan", f"yan {n}")
        for m in range(6):
            await town.post("zoe", f"zoe {n} {m}")
    await town.drain()
    await mute(town, "ann", "zoe")
    await town.sees("ann", *(f"yan {n}" for n in reversed(range(4))))
    for phase in SLUGS:
        assert [row.text for row in (await town.page("ann", phase, limit=2)).statuses] == ["yan 3", "yan 2"], phase


async def test_phase_1_does_not_look_at_what_the_muted_wrote(town: World) -> None:
    await town.post("yan", "old")
    for n in range(60):
        await town.post("zoe", str(n))
    await mute(town, "ann", "zoe")
    for _ in range(2):
        with counted() as cost:
            page = await town.page("ann", "query")
        assert [row.text for row in page.statuses] == ["old"]
        assert cost.mongodb == 3, "whom she follows, what they wrote, what of it is visible"


async def test_lists_of_people_are_newest_account_first(town: World) -> None:
    ann = town.ids["ann"]
    await mute(town, "ann", "dot", "zoe", "yan")
    await town.relations.add_to_circle(ann, town.ids["yan"])
    for name in ("zoe", "dot"):
        await town.relations.block(ann, town.ids[name])
    for listed, names in (
        (town.people.muted, ["dot", "yan", "zoe"]),
        (town.people.blocked, ["dot", "zoe"]),
        (town.people.circle, ["yan"]),
    ):
        found: list[str] = []
        before: ObjectId | None = None
        while True:
            people, before = await listed(ann, before=before, limit=2)
            found += [person.handle for person in people]
            if before is None:
                break
        assert found == names
        assert await listed(town.ids["dot"], before=None, limit=2) == ([], None)
