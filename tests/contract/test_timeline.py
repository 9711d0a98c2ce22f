"""What a page promises, sentence by sentence, in every phase on every stack."""

import pytest

from app.errors import Forbidden, Invalid, NotFound
from tests.world import SLUGS, World

pytestmark = pytest.mark.anyio

AUDIENCES = ("followers", "mutuals", "circle")


@pytest.fixture
async def town(world: World) -> World:
    """Ann follows Bob and Cid; Bob follows Ann back; Ann is in Cid's circle; Dot is a stranger."""
    await world.sign_up("ann", "bob", "cid", "dot")
    await world.follow("ann", "bob", "cid")
    await world.follow("bob", "ann")
    await world.relations.add_to_circle(world.ids["cid"], world.ids["ann"])
    return world


async def test_the_audience_decides_who_sees_a_status(town: World) -> None:
    for author in ("bob", "cid", "dot"):
        for audience in AUDIENCES:
            await town.post(author, f"{author} to {audience}", audience)  # type: ignore[arg-type]
    await town.drain()
    await town.sees("ann", "cid to circle", "cid to followers", "bob to mutuals", "bob to followers")
    await town.sees("dot", "dot to circle", "dot to mutuals", "dot to followers")  # one's own, all of them


async def test_a_status_is_there_at_once_for_its_author_and_its_readers(town: World) -> None:
    for phase in SLUGS:
        await town.post("bob", f"hello {phase}")
        assert (await town.page("bob", phase)).statuses[0].text == f"hello {phase}"
        assert (await town.page("ann", phase)).statuses[0].text == f"hello {phase}"


async def test_what_is_taken_back_is_gone_at_the_next_read(town: World) -> None:
    kept = await town.post("bob", "kept")
    gone = await town.post("bob", "gone")
    await town.post("cid", "unfollowed")
    await town.drain()
    await town.warm("ann")
    await town.statuses.delete(town.ids["bob"], gone.id)
    await town.relations.unfollow(town.ids["ann"], town.ids["cid"])
    await town.sees("ann", "kept")
    await town.relations.block(town.ids["bob"], town.ids["ann"])
    await town.sees("ann")
    with pytest.raises(NotFound):
        await town.statuses.by_id(town.ids["ann"], kept.id)
    await town.relations.unblock(town.ids["bob"], town.ids["ann"])
    await town.sees("ann")  # a block ends the follow for good
    await town.follow("ann", "bob")
    await town.sees("ann", "kept")


async def test_a_narrower_circle_acts_on_the_next_read(town: World) -> None:
    await town.post("cid", "for the circle", "circle")
    await town.drain()
    await town.warm("ann")
    await town.sees("ann", "for the circle")
    await town.relations.remove_from_circle(town.ids["cid"], town.ids["ann"])
    await town.sees("ann")


async def test_pages_are_full_and_scroll_to_the_first_status_far_beyond_the_cap(town: World) -> None:
    texts = [f"status {n}" for n in range(35)]  # the cap is 10
    for n, text in enumerate(texts):
        await town.post("bob" if n % 3 else "cid", text)
        if n % 4 == 0:
            await town.post("cid", "unseen", "mutuals")  # a page is filled up again after filtering
    await town.drain()
    await town.sees("ann", *reversed(texts))
    for phase in SLUGS:
        for limit in (1, 9, 10, 11, 100):
            assert await town.walk("ann", phase, limit) == texts[::-1], (phase, limit)


async def test_the_end_is_known_when_the_last_page_is_exactly_full(town: World) -> None:
    for n in range(6):
        await town.post("bob", str(n))
    await town.drain()
    for phase in SLUGS:
        first = await town.page("ann", phase, limit=3)
        second = await town.page("ann", phase, first.next, limit=3)
        assert (len(second.statuses), second.next) == (3, None), phase


async def test_a_walk_is_not_disturbed_by_what_is_posted_meanwhile(town: World) -> None:
    for n in range(9):
        await town.post("bob", str(n))
    await town.drain()
    for phase in SLUGS:
        first = await town.page("ann", phase, limit=4)
        await town.post("cid", f"during {phase}")
        rest = await town.page("ann", phase, first.next, limit=100)
        walked = [status.text for status in (*first.statuses, *rest.statuses)]
        assert [text for text in walked if text.isdigit()] == [str(n) for n in reversed(range(9))], phase
        assert f"during {phase}" not in walked


async def test_counts_and_single_statuses_follow_the_same_rule(town: World) -> None:
    shown = {audience: await town.post("bob", audience, audience) for audience in AUDIENCES}  # type: ignore[arg-type]
    counts = await town.people.counts(town.ids["ann"], town.ids["bob"])
    assert (counts.followers, counts.following, counts.statuses) == (1, 1, 2)
    assert (await town.people.counts(town.ids["dot"], town.ids["bob"])).statuses == 0
    assert (await town.people.counts(town.ids["bob"], town.ids["bob"])).statuses == 3
    assert (await town.statuses.by_id(town.ids["ann"], shown["mutuals"].id)).text == "mutuals"
    with pytest.raises(NotFound):
        await town.statuses.by_id(town.ids["ann"], shown["circle"].id)
    seen = {"ann": ["mutuals", "followers"], "bob": ["circle", "mutuals", "followers"], "dot": []}
    for reader, texts in seen.items():
        own, _ = await town.statuses.by_author(town.ids[reader], town.ids["bob"], before=None, limit=10)
        assert [status.text for status in own] == texts


async def test_nobody_follows_across_a_block_or_themselves(town: World) -> None:
    await town.relations.block(town.ids["dot"], town.ids["ann"])
    for reader, followee in (("ann", "dot"), ("dot", "ann")):
        with pytest.raises(Forbidden):
            await town.follow(reader, followee)
    with pytest.raises(Invalid):
        await town.follow("ann", "ann")
    assert (await town.people.counts(town.ids["ann"], town.ids["dot"])).followers == 0
