"""What the walkthrough says a phase costs is what it costs."""

import pytest

from app.clock import id_at
from app.stack.cost import Cost, counted
from phases import PHASES
from phases.base import Phase
from phases.claims import Action, Claim
from phases.home.newest import FEW, GROUP, PACED
from tests.world import World

pytestmark = pytest.mark.anyio
CHUNK = 4  # as `world` has it
FOLLOWERS = (0, 4, 9)
FOLLOWEES = (1, GROUP - 1, GROUP, FEW)


async def star(world: World, phase: str, followers: int, active: int | None = None) -> None:
    """`followers` follow Zoe; all of them, or `active`, have a warm timeline. Only `phase` delivers."""
    await world.timelines.change(read=phase, delivering=[phase])
    world.pass_grace()
    fans = [f"fan{n}" for n in range(followers)]
    await world.sign_up("zoe", *fans)
    now = world.clock.now()
    rows = [{"_id": id_at(now), "follower": world.ids[fan], "followee": world.ids["zoe"]} for fan in fans]
    if rows:
        await world.stack.db["follows"].insert_many(rows)
    world.clock.advance(1)
    for fan in fans if active is None else fans[:active]:
        await world.page(fan, phase)


def agrees(claim: Claim, n: int, found: Cost) -> bool:
    exact = (claim.mongodb(n, CHUNK), claim.memcached(n, CHUNK)) == (found.mongodb, found.memcached)
    return exact and found.redis <= claim.redis_at_most


def claimed(action: Action) -> list[tuple[Phase, Claim]]:
    return [(phase, claim) for phase in PHASES for claim in phase.costs if claim.action == action]


def by_phase(value: object) -> str:
    return value.slug if isinstance(value, Phase) else value.action if isinstance(value, Claim) else str(value)


@pytest.mark.parametrize("n", FOLLOWERS)
@pytest.mark.parametrize(("phase", "claim"), claimed("post"), ids=by_phase)
async def test_a_post(world: World, phase: Phase, claim: Claim, n: int) -> None:
    await star(world, phase.slug, n)
    await world.post("zoe", "RQ asks Redis for its version, once")
    await world.drain()
    with counted() as found:
        await world.post("zoe", "hello")
    assert agrees(claim, n, found)
    if world.stack.addresses.redis:
        assert bool(found.redis) == bool(claim.redis_at_most)
    if not claim.grows_with:
        await world.sign_up("shy")
        with counted() as without_followers:
            await world.post("shy", "hello")
        assert without_followers == found


@pytest.mark.parametrize("n", FOLLOWERS)
@pytest.mark.parametrize(("phase", "claim"), claimed("deliver"), ids=by_phase)
async def test_a_delivery(world: World, phase: Phase, claim: Claim, n: int) -> None:
    await star(world, phase.slug, FOLLOWERS[-1] if "active" in claim.grows_with else n, n)
    await world.post("zoe", "hello")
    with counted() as found:
        await world.drain()
    found.redis = 0  # RQ's own business in a worker
    assert agrees(claim, n, found)


@pytest.mark.parametrize(
    ("phase", "claim", "n", "known"),
    [(*claim, n, True) for claim in claimed("read") for n in FOLLOWEES]
    + [(*claim, n, known) for claim in claimed("return") for n in (FOLLOWEES[0], GROUP) for known in (True, False)],
    ids=by_phase,
)
async def test_a_page(world: World, phase: Phase, claim: Claim, n: int, known: bool) -> None:
    await world.timelines.change(read=phase.slug, delivering=[phase.slug])
    world.pass_grace()
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    now = world.clock.now()
    edges = [{"_id": id_at(now), "follower": world.ids["ann"], "followee": id_at(now)} for _ in range(n - 1)]
    if edges:
        await world.stack.db["follows"].insert_many(edges)
    busy = not phase.keeps and n >= FEW
    if busy:  # a window of them holds enough
        old = {"text": "old", "audience": "followers", "deleted": False}
        statuses = [{"_id": id_at(now), "user_id": edge["followee"], **old} for edge in edges]
        await world.stack.db["statuses"].insert_many(statuses)
    for _ in range(2):  # Ann is no stranger
        await world.page("ann", phase.slug)
    await world.post("zoe", "hello")
    await world.drain()
    if claim.action == "return":
        for _ in range(2 * PACED):  # enough to guess how far back they reach
            await world.post("zoe", "hello")
        await world.drain()
        await world.chill("ann")
    if not known:
        world.timelines.forget(world.ids["ann"])
    with counted() as found:
        page = await world.page("ann", phase.slug)
    hellos = min(20, 1 + (2 * PACED if claim.action == "return" else 0))
    assert [status.text for status in page.statuses] == ["hello"] * hellos + ["old"] * (19 if busy else 0)
    if claim.action == "return":  # one command of those that are claimed is for the other kind of process
        found.mongodb += not known
        found.memcached += known and claim.memcached(n, CHUNK) > 0
    assert agrees(claim, n, found)
    if claim.action == "return":  # that was it: the next page is warm
        [warm] = [other for other in phase.costs if other.action == "read"]
        with counted() as found:
            page = await world.page("ann", phase.slug)
        assert not page.cold
        assert (found.memcached, found.redis) == (warm.memcached(n, CHUNK), warm.redis_at_most)


def test_every_phase_says_what_a_post_and_a_page_cost() -> None:
    for phase in PHASES:
        assert {"post", "read"} <= {claim.action for claim in phase.costs}
