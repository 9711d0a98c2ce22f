"""What the walkthrough says a phase costs is what it costs."""

import pytest

from app.clock import id_at
from app.stack.cost import Cost, counted
from app.walkthrough.costs import CLAIMS, Claim
from phases import PHASES
from phases.authors import FEW, GROUP, PACED
from tests.contract.test_costs import CHUNK, star
from tests.world import World

pytestmark = pytest.mark.anyio
FOLLOWERS = (0, 3, 4, 9)
FOLLOWEES = (1, GROUP - 1, GROUP, FEW)


def agrees(claim: Claim, n: int, found: Cost) -> bool:
    exact = (claim.mongodb(n, CHUNK), claim.memcached(n, CHUNK)) == (found.mongodb, found.memcached)
    return exact and found.redis <= claim.redis_at_most


def claimed(action: str) -> list[Claim]:
    return [claim for claim in CLAIMS if claim.action == action]


def by_phase(claim: Claim) -> str:
    return claim.phase


@pytest.mark.parametrize("n", FOLLOWERS)
@pytest.mark.parametrize("claim", claimed("post"), ids=by_phase)
async def test_a_post(world: World, claim: Claim, n: int) -> None:
    await star(world, claim.phase, n)
    await world.post("zoe", "RQ asks Redis for its version, once")
    await world.drain()
    with counted() as found:
        await world.post("zoe", "hello")
    assert agrees(claim, n, found)


@pytest.mark.parametrize("n", FOLLOWERS)
@pytest.mark.parametrize("claim", claimed("deliver"), ids=by_phase)
async def test_a_delivery(world: World, claim: Claim, n: int) -> None:
    await star(world, claim.phase, FOLLOWERS[-1] if "active" in claim.grows_with else n, n)
    await world.post("zoe", "hello")
    with counted() as found:
        await world.drain()
    found.redis = 0  # RQ's own business in a worker
    assert agrees(claim, n, found)


@pytest.mark.parametrize(
    ("claim", "n"),
    [(claim, n) for claim in claimed("read") for n in FOLLOWEES[:-1]]
    + [pytest.param(claim, FEW, marks=pytest.mark.thorough) for claim in claimed("read")]
    + [(claim, n) for claim in claimed("return") for n in FOLLOWEES[:-1]],
    ids=lambda value: f"{value.phase}-{value.action}" if isinstance(value, Claim) else str(value),
)
async def test_a_page(world: World, claim: Claim, n: int) -> None:
    await world.timelines.switch(read=claim.phase, delivering=[claim.phase])
    world.pass_grace()
    await world.people("ann", "zoe")
    await world.follow("ann", "zoe")
    now = world.clock.now()
    edges = [{"_id": id_at(now), "follower": world.ids["ann"], "followee": id_at(now)} for _ in range(n - 1)]
    if edges:
        await world.stack.db["follows"].insert_many(edges)
    busy = claim.phase == "query" and n >= FEW
    if busy:  # a window of them holds enough
        old = {"text": "old", "audience": "followers", "deleted": False}
        statuses = [{"_id": id_at(now), "user_id": edge["followee"], **old} for edge in edges]
        await world.stack.db["statuses"].insert_many(statuses)
    for _ in range(2):  # Ann is no stranger
        await world.page("ann", claim.phase)
    await world.post("zoe", "hello")
    await world.drain()
    if claim.action == "return":
        for _ in range(2 * PACED):  # enough to guess how far back they reach
            await world.post("zoe", "hello")
        await world.drain()
        await world.chill("ann")
    with counted() as found:
        page = await world.page("ann", claim.phase)
    hellos = min(20, 1 + (2 * PACED if claim.action == "return" else 0))
    assert [status.text for status in page.statuses] == ["hello"] * hellos + ["old"] * (19 if busy else 0)
    assert agrees(claim, n, found)


def test_every_phase_says_what_a_post_and_a_page_cost() -> None:
    for action in ("post", "read"):
        assert [claim.phase for claim in claimed(action)] == [phase.slug for phase in PHASES]
