"""Who is here, on the stand-in and on Redis; and who may know it."""

import asyncio
from typing import Any

import pytest
from bson import ObjectId

from app.departures import depart
from app.errors import TooMany
from app.live import presence
from app.live.connection import EACH
from app.live.presence import GRACE_S, RENEW_S, STORED_S, Presence, Presences
from app.stack.cost import counted
from app.stack.heartbeats import AT_ONCE, TTL_S, RedisHeartbeats
from tests.conftest import free_port
from tests.world import World

pytestmark = pytest.mark.anyio


class Process(Presences):
    """A web process. `told`: the hints that it has given."""

    def __init__(self, world: World) -> None:
        self.told: list[str] = []
        self.ids = world.ids
        names = {id: name for name, id in world.ids.items()}

        async def tell(person: ObjectId) -> None:
            self.told.append(names[person])

        super().__init__(world.stack, tell)

    async def shows(self, *names: str) -> list[Presence | None]:
        """What Kim sees of them."""
        people = [self.ids[name] for name in names]
        seen = await self.seen_by(self.ids["kim"], people)
        return [seen[person] for person in people]

    async def shows_online(self, *names: str) -> list[bool]:
        return [bool(one and one.online) for one in await self.shows(*names)]


@pytest.fixture
async def town(world: World) -> World:
    """Zoe and Ann follow each other, and Kim and everybody do."""
    await world.sign_up("ann", "zoe", "ben", "kim")
    await world.follow("ann", "zoe")
    await world.follow("zoe", "ann")
    for name in ("ann", "zoe", "ben"):
        await world.follow("kim", name)
        await world.follow(name, "kim")
    return world


async def passes(world: World, seconds: float) -> None:
    """By our clock, and by Redis' for what is there: everything ends that much earlier."""
    world.clock.advance(seconds)
    if isinstance(world.stack.heartbeats, RedisHeartbeats):
        await redis_goes_on(world.stack.heartbeats, seconds)


async def redis_goes_on(heartbeats: RedisHeartbeats, seconds: float) -> None:
    """Its clock does, or goes back: everything ends that much earlier."""
    client: Any = heartbeats._redis
    async for key in client.scan_iter(b"*here*"):
        for member, ends in await client.zrange(key, 0, -1, withscores=True):
            await client.zadd(key, {member: ends - seconds * 1000})


async def test_several_devices_are_one_person(town: World) -> None:
    zoe, one, other = town.ids["zoe"], Process(town), Process(town)
    assert await one.shows("zoe") == [Presence(False, None)]
    await one.connected(zoe, "phone")
    await other.connected(zoe, "laptop")
    await other.connected(zoe, "tablet")
    assert (one.here, other.here) == (1, 1), "people, not connections"
    await other.gone(zoe, "tablet")
    assert await other.shows_online("zoe") == [True]
    await one.gone(zoe, "phone")
    await passes(town, GRACE_S + 1)
    await other.look()
    assert await one.shows_online("zoe") == [True]
    await other.gone(zoe, "laptop")
    assert await one.shows_online("zoe") == [True]  # within the grace
    await passes(town, GRACE_S + 1)
    assert await one.shows_online("zoe") == [False]
    for process in (one, other, one):
        await process.look()
    assert (one.told, other.told) == (["zoe", "zoe"], [])


async def test_a_person_has_so_many_connections_in_all_processes_together(town: World) -> None:
    zoe, one, other = town.ids["zoe"], Process(town), Process(town)
    for n in range(EACH):
        await (one, other)[n % 2].connected(zoe, str(n))
    for process in (one, other):
        with pytest.raises(TooMany):
            await process.connected(zoe, "more")
    await one.gone(zoe, "0")
    await other.connected(zoe, "more")
    await other.connected(town.ids["ben"], "first")
    await passes(town, RENEW_S)
    await other.renew()
    await passes(town, TTL_S - GRACE_S - RENEW_S)  # the first one was killed
    await other.renew()
    for n in range(EACH // 2 - 1):
        await other.connected(zoe, f"again {n}")
    with pytest.raises(TooMany):
        await other.connected(zoe, "one more")


async def test_who_comes_back_within_the_grace_has_not_been_away(town: World) -> None:
    zoe, process = town.ids["zoe"], Process(town)
    await process.connected(zoe, "0")
    for n in range(5):
        await process.gone(zoe, str(n))
        await process.gone(zoe, str(n))
        await passes(town, GRACE_S - 1)
        await process.look()
        assert await process.shows_online("zoe") == [True]
        await process.connected(zoe, str(n + 1))
    await passes(town, GRACE_S + 1)
    await process.look()
    assert await process.shows_online("zoe") == [True]
    assert process.told == ["zoe"]


async def test_connections_that_have_ended_are_not_kept_for_who_stays(town: World) -> None:
    """A page that is open for weeks, and others that come and go."""
    zoe, process, heartbeats = town.ids["zoe"], Process(town), town.stack.heartbeats
    await process.connected(zoe, "stays")
    for n in range(5):
        await process.connected(zoe, str(n))
        await process.gone(zoe, str(n))
        await passes(town, GRACE_S + 1)
        await process.renew()
        await process.look()
    if isinstance(heartbeats, RedisHeartbeats):
        client: Any = heartbeats._redis
        assert await client.zcard(heartbeats._keys[0] + zoe.binary) == 1
    else:
        assert list(heartbeats._ends_s) == [(zoe, "stays")]
    assert process.told == ["zoe"]


async def test_the_people_of_a_killed_process_go_and_those_of_others_stay(town: World) -> None:
    ids, killed, other = town.ids, Process(town), Process(town)
    for process, name in ((killed, "zoe"), (other, "ann"), (killed, "ben"), (other, "ben")):
        await process.connected(ids[name], f"{name} {process is killed}")
    assert TTL_S + presence.LOOK_S <= 45
    for _ in range(3):
        await passes(town, RENEW_S)
        await other.renew()
        await other.look()
    assert await other.shows_online("ann", "ben", "zoe") == [True, True, False]
    assert (killed.told, other.told) == (["zoe", "ben"], ["ann", "zoe"])


async def test_last_seen_moves_forward_and_is_written_once_a_minute(town: World) -> None:
    zoe, process = town.ids["zoe"], Process(town)

    async def seen() -> object:
        (shown,) = await process.shows("zoe")
        return shown and shown.last_seen_at

    came = town.clock.now()
    await process.connected(zoe, "phone")
    assert await seen() == came
    for _ in range(3):
        await passes(town, RENEW_S)
        with counted() as cost:
            await process.renew()
        assert (cost.mongodb, cost.redis) == (0, 1)
    assert await seen() == came
    await passes(town, STORED_S - 3 * RENEW_S)
    await process.renew()
    assert await seen() == town.clock.now()
    await passes(town, 7)
    await process.gone(zoe, "phone")
    await passes(town, GRACE_S + 1)
    await process.look()
    gone = town.clock.now()
    assert await seen() == gone
    town.clock._elapsed -= 3_600  # another machine's clock
    await process.connected(zoe, "laptop")
    assert await seen() == gone


@pytest.mark.thorough
async def test_many_are_renewed_and_looked_up_in_one_round_trip(town: World) -> None:
    heard: list[ObjectId] = []

    async def tell(person: ObjectId) -> None:
        heard.append(person)

    process = Presences(town.stack, tell)
    people, kim, db = [ObjectId() for _ in range(AT_ONCE + 1)], town.ids["kim"], town.stack.db
    await db["users"].insert_many([{"_id": id, "handle": str(id), "name": ""} for id in people])
    edges = [pair for id in people for pair in ((kim, id), (id, kim))]
    await db["follows"].insert_many([{"follower": one, "followee": other} for one, other in edges])
    process._connections = {(person, "phone"): 0.0 for person in people}
    process._connections[people[0], "laptop"] = 0.0
    with counted() as cost:
        await process.renew()
    assert cost.redis == 2, "scripts: nobody else is served while one runs"
    with counted() as cost:
        found = await process.seen_by(kim, [*people, town.ids["zoe"]])
    assert (cost.redis, cost.mongodb) == (2, 1)
    assert [one and one.online for one in found.values()] == [True] * len(people) + [False]
    assert sorted(heard) == sorted(people), "they came"
    heard.clear()
    await passes(town, TTL_S + 1)
    await process.look()
    assert sorted(heard) == sorted(people)


async def test_only_mutual_followers_see_it_unless_it_is_hidden(town: World) -> None:
    ids, process, db = town.ids, Process(town), town.stack.db
    ann, zoe, ben = (ids[name] for name in ("ann", "zoe", "ben"))
    for person in (ann, zoe, ben):
        await process.connected(person, "phone")

    async def seen(viewer: ObjectId, person: ObjectId) -> bool:
        shown = (await process.seen_by(viewer, [person]))[person]
        assert shown is None or shown == Presence(True, shown.last_seen_at)
        return shown is not None

    assert await seen(ann, zoe)
    assert await seen(zoe, ann)
    assert not await seen(ann, ben)
    await town.follow("ann", "ben")
    assert not await seen(ann, ben)
    assert not await seen(ben, ann)
    await town.follow("ben", "ann")
    assert await seen(ann, ben)
    await town.relations.unfollow(ann, ben)
    assert not await seen(ann, ben)
    assert not await seen(ann, ann)
    await db["users"].update_one({"_id": zoe}, {"$set": {"presence": "nobody"}})
    assert not await seen(ann, zoe)
    assert await seen(zoe, ann)  # hiding is one-sided
    await db["users"].update_one({"_id": zoe}, {"$unset": {"presence": ""}})
    for pair in ({"blocker": ann, "blocked": zoe}, {"blocker": zoe, "blocked": ann}):
        await db["blocks"].insert_one(dict(pair))  # by hand: the use case ends the follows as well
        assert not await seen(ann, zoe)
        assert not await seen(zoe, ann)
        await db["blocks"].delete_one(pair)
    assert await seen(ann, zoe)
    await depart(db, town.clock, zoe)
    assert not await seen(ann, zoe)


async def test_without_redis_nobody_is_said_to_be_here_and_nothing_fails(town: World) -> None:
    away = RedisHeartbeats(f"redis://127.0.0.1:{free_port()}", "test", 0.5)
    zoe, process = town.ids["zoe"], Process(town)
    process._heartbeats = away
    await process.connected(zoe, "phone")
    await process.renew()
    await process.look()
    assert await process.shows("zoe") == [Presence(False, None)]
    await process.gone(zoe, "phone")
    await away.close()
    process._heartbeats = town.stack.heartbeats
    await process.connected(zoe, "phone")
    assert await process.shows_online("zoe") == [True]


@pytest.mark.parametrize("addresses", [pytest.param("servers", marks=pytest.mark.servers)], indirect=True)
async def test_redis_itself_ends_what_nobody_renews(town: World) -> None:
    zoe, process, beats = town.ids["zoe"], Process(town), town.stack.heartbeats
    assert isinstance(beats, RedisHeartbeats)
    await process.connected(zoe, "phone")
    # Not by a pattern with the id in it: a byte of that may be a sign of patterns.
    [key] = [key async for key in beats._redis.scan_iter(b"*:here:*") if key.endswith(zoe.binary)]
    assert 0 < await beats._redis.pttl(key) <= TTL_S * 1000
    await beats._redis.pexpire(key, 1)  # as if nobody had renewed it for so long
    for _ in range(1_000):
        if not await beats._redis.exists(key):
            break
        await asyncio.sleep(0.05)
    assert not await beats._redis.exists(key)
    assert await process.shows_online("zoe") == [False]
    await passes(town, TTL_S)
    await process.look()
    assert process.told == ["zoe", "zoe"]


@pytest.mark.parametrize("addresses", [pytest.param("servers", marks=pytest.mark.servers)], indirect=True)
async def test_whoever_is_gone_is_not_here_for_as_long_as_redis_clock_is_set_back(town: World) -> None:
    zoe, ann, killed, other = town.ids["zoe"], town.ids["ann"], Process(town), Process(town)
    for device in range(EACH):
        await killed.connected(zoe, f"device {device}")
    await killed.connected(ann, "phone")
    beats = town.stack.heartbeats
    assert isinstance(beats, RedisHeartbeats)
    await redis_goes_on(beats, -600)
    assert await other.shows_online("zoe", "ann") == [False, False]
    await other.connected(zoe, "one more")
    await other.look()
    assert other.told == ["zoe", "ann"], "she came, and she has gone"
    assert await other.shows_online("zoe", "ann") == [True, False]


async def test_a_process_that_stops_takes_its_people_with_it(town: World) -> None:
    """After the grace, as with any connection that ends."""
    zoe, stopping, other = town.ids["zoe"], Process(town), Process(town)
    keeping = asyncio.create_task(stopping.keep())
    await asyncio.sleep(0)
    await stopping.connected(zoe, "phone")
    keeping.cancel()
    await asyncio.wait([keeping])
    assert await other.shows_online("zoe") == [True]
    await passes(town, GRACE_S + 1)
    await other.look()
    assert (other.told, await other.shows_online("zoe")) == (["zoe"], [False])
