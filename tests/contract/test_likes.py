"""Likes: exact, as of the answer, in every phase on every stack, however often somebody clicks."""

import asyncio

import pytest

from app.errors import NotFound
from app.models import StatusRow
from app.stack.cost import counted
from tests.world import KEEPING, SLUGS, World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(world: World) -> World:
    """Ann and Ben follow Zoe; nobody follows Dot."""
    await world.sign_up("ann", "ben", "zoe", "dot")
    for reader in ("ann", "ben"):
        await world.follow(reader, "zoe")
    return world


async def are_seen(town: World, reader: str, *likes: tuple[str, int, bool]) -> None:
    """(text, how many like it, whether the reader does), newest first: in every phase, cold, warm and remembered."""
    for phase in SLUGS:
        for _ in range(3):
            page = await town.page(reader, phase)
            assert [(row.text, row.likes, row.you_like) for row in page.statuses] == list(likes), phase
    for phase in KEEPING:
        await town.chill(reader)
        page = await town.page(reader, phase)
        assert [(row.text, row.likes, row.you_like) for row in page.statuses] == list(likes), f"{phase}, cold"
    await town.warm(reader)


async def like(town: World, reader: str, status: StatusRow) -> None:
    await town.statuses.like(town.ids[reader], status.id)


async def unlike(town: World, reader: str, status: StatusRow) -> None:
    await town.statuses.unlike(town.ids[reader], status.id)


async def test_likes_are_counted_on_the_next_page_of_everybody(town: World) -> None:
    status = await town.post("zoe", "liked")
    await town.post("zoe", "not liked")
    await town.drain()
    await town.warm("ann", "ben", "zoe")
    for reader, n in (("ann", 1), ("ben", 2), ("zoe", 3)):
        await like(town, reader, status)
        await are_seen(town, reader, ("not liked", 0, False), ("liked", n, True))
    await are_seen(town, "ann", ("not liked", 0, False), ("liked", 3, True))
    await unlike(town, "ann", status)
    await are_seen(town, "ann", ("not liked", 0, False), ("liked", 2, False))
    await are_seen(town, "ben", ("not liked", 0, False), ("liked", 2, True))
    await unlike(town, "ben", status)
    await unlike(town, "zoe", status)
    for reader in ("ann", "ben"):
        await are_seen(town, reader, ("not liked", 0, False), ("liked", 0, False))


@pytest.mark.parametrize("phase", KEEPING)
async def test_whoever_is_new_to_a_process_is_shown_what_others_were_shown_as_it_is_now(
    town: World, phase: str
) -> None:
    liked, gone = await town.post("zoe", "liked"), await town.post("zoe", "deleted")
    await town.drain()
    await town.warm("ann", "ben")
    await like(town, "ben", liked)
    await town.statuses.delete(gone.user_id, gone.id)
    for reader, yours in (("ann", False), ("ben", True)):
        town.timelines.forget(town.ids[reader])
        page = await town.page(reader, phase)
        seen = [(status.text, status.likes, status.you_like) for status in page.statuses]
        assert (seen, page.source) == ([("liked", 1, yours)], "list")


async def test_a_single_status_and_a_persons_page_say_the_same(town: World) -> None:
    status = await town.post("zoe", "liked")
    await like(town, "ann", status)
    for reader, yours in (("ann", True), ("ben", False)):
        alone = await town.statuses.by_id(town.ids[reader], status.id)
        listed, _ = await town.statuses.by_author(town.ids[reader], town.ids["zoe"], before=None, limit=5)
        assert [(row.likes, row.you_like) for row in (alone, *listed)] == [(1, yours)] * 2


async def test_a_status_that_is_pending_is_liked_like_any_other(town: World) -> None:
    await town.warm("ann")
    status = await town.post("zoe", "just posted")
    await like(town, "ann", status)
    await are_seen(town, "ann", ("just posted", 1, True))


async def test_repeating_a_like_or_its_end_changes_nothing(town: World) -> None:
    status = await town.post("zoe", "liked")
    for _ in range(3):
        await like(town, "ann", status)
    await are_seen(town, "ann", ("liked", 1, True))
    for _ in range(3):
        await unlike(town, "ann", status)
    await are_seen(town, "ann", ("liked", 0, False))


async def test_many_likes_at_once_are_counted_one_by_one(town: World) -> None:
    """More than MongoDB lets change one document in the time that a transaction has, if all try at once."""
    fans = [f"fan{n}" for n in range(60)]
    await town.sign_up(*fans)
    for fan in fans:
        await town.follow(fan, "zoe")
    status = await town.post("zoe", "liked by everybody")
    await asyncio.gather(*(like(town, fan, status) for fan in (*fans, *fans)))
    assert (await town.statuses.by_id(town.ids["fan0"], status.id)).likes == len(fans)


async def test_what_cannot_be_seen_cannot_be_liked(town: World) -> None:
    status = await town.post("zoe", "not for dot")
    with pytest.raises(NotFound):
        await like(town, "dot", status)
    with pytest.raises(NotFound):
        await unlike(town, "dot", status)
    await are_seen(town, "ann", ("not for dot", 0, False))


async def test_a_like_can_be_taken_back_from_what_can_be_seen_no_more(town: World) -> None:
    status = await town.post("zoe", "liked")
    for reader in ("ann", "ben"):
        await like(town, reader, status)
    await town.relations.unfollow(town.ids["ann"], town.ids["zoe"])
    await unlike(town, "ann", status)
    with pytest.raises(NotFound):
        await unlike(town, "ann", status)
    await are_seen(town, "ben", ("liked", 1, True))


async def test_a_deleted_status_has_no_likes(town: World) -> None:
    status = await town.post("zoe", "regretted")
    await like(town, "ann", status)
    await town.warm("ann")
    await town.statuses.delete(town.ids["zoe"], status.id)
    await are_seen(town, "ann")
    with pytest.raises(NotFound):
        await like(town, "ben", status)
    stored = await town.stack.db["statuses"].find_one({"_id": status.id})
    assert stored
    assert "likes" not in stored
    await unlike(town, "ann", status)  # whoever likes it still may take that back
    assert await town.stack.db["statuses"].find_one({"_id": status.id}) == stored
    assert await town.stack.db["likes"].count_documents({}) == 0


async def test_the_answer_to_a_repeated_post_knows_its_likes(town: World) -> None:
    zoe = town.ids["zoe"]
    status, _ = await town.statuses.post(zoe, "once", idempotency_key="k")
    for reader in ("ann", "zoe"):
        await like(town, reader, status)
    again, created = await town.statuses.post(zoe, "once", idempotency_key="k")
    assert (again.likes, again.you_like, created) == (2, True, False)


async def test_likes_cost_a_page_no_command(town: World) -> None:
    statuses = [await town.post("zoe", str(n)) for n in range(8)]
    await town.drain()
    await town.warm("ann")
    for status in statuses[::2]:
        await like(town, "ann", status)
    for phase in KEEPING:
        await town.page("ann", phase)
        with counted() as cost:
            page = await town.page("ann", phase)
        assert sum(row.likes for row in page.statuses) == 4
        assert cost.mongodb == 1, phase
