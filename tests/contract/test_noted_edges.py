"""Edges as they are noted for other processes: true at their version, and believed only with our seal."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from bson import ObjectId

from app.edges import VERSIONS, OwnEdges, Version, relation, version_key
from app.stack.cost import Cost, counted
from phases.keeping import noted_edges
from phases.keeping.lists import edges_key
from phases.keeping.store import Container
from phases.p1_query import QUERY
from phases.timelines import Timelines
from tests.world import IN_MEMCACHED, World

pytestmark = pytest.mark.anyio

KNOWN = Cost(mongodb=1, memcached=3)  # a glance at the list and at what is noted, one look, the list
UNNOTED = Cost(mongodb=2, memcached=3)  # the edges to authors of whom the first look told are looked up, and not noted
SECRET, ANN, AT = b"secret", ObjectId(), Container("lists", ObjectId())


@pytest.fixture
async def town(world: World) -> World:
    """Ann follows Zoe and Yan; her lists are kept, and what she may see of whom is noted."""
    await world.sign_up("ann", "zoe", "yan", "dot")
    await world.follow("ann", "zoe", "yan")
    await world.post("yan", "by yan")
    await world.post("zoe", "by zoe")
    await world.post("zoe", "for the circle", "circle")
    await world.post("dot", "by dot")
    await world.drain()
    await world.warm("ann")
    for phase in IN_MEMCACHED:
        await comes_elsewhere(world, phase)
    return world


async def comes_elsewhere(town: World, phase: str) -> tuple[list[str], Cost]:
    """The texts that Ann gets from a process that has shown nothing to anybody yet, and what it takes."""
    started = Timelines(town.stack)
    await started.pulls.markers.known((await started.switch.current()).epoch)
    with counted() as cost:
        page = await started.page(town.ids["ann"], phase=phase)
    return [status.text for status in page.statuses], cost


async def container(town: World, phase: str) -> Container:
    kept = town.timelines.kept_by(phase)
    found = (await town.timelines.switch.current()).current(kept.name) if kept else None
    assert found
    return found


async def noted(town: World, phase: str, of: str = "ann") -> bytes:
    found = await town.stack.memcached.gets(edges_key(await container(town, phase), town.ids[of]))
    assert found
    return found[0]


def sealed(at: Container, edges: OwnEdges, secret: bytes = SECRET) -> bytes:
    value = noted_edges.packed(secret, at, edges)
    assert value
    return value


async def test_one_command_makes_the_page_of_a_reader_whom_the_process_does_not_know(town: World) -> None:
    for phase in IN_MEMCACHED:
        assert await comes_elsewhere(town, phase) == (["by zoe", "by yan"], KNOWN)


async def test_a_process_that_knows_the_reader_notes_them_once(world: World) -> None:
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.post("zoe", "by zoe")
    await world.drain()
    for phase in IN_MEMCACHED:
        costs = []
        for _ in range(4):
            with counted() as cost:
                await world.page("ann", phase)
            costs.append(cost.memcached)
        assert costs[1:] == [2, 1, 1], "the first page rebuilds the list, the second finds that nothing is owed"
        assert await comes_elsewhere(world, phase) == (["by zoe"], KNOWN)


async def test_an_author_who_was_not_noted_is_looked_up_once(world: World) -> None:
    await world.sign_up("ann", "zoe", "yan")
    await world.follow("ann", "zoe", "yan")
    await world.post("zoe", "by zoe")
    await world.drain()
    await world.warm("ann")
    for phase in IN_MEMCACHED:
        await comes_elsewhere(world, phase)
    await world.post("yan", "by yan")
    await world.drain()
    for phase in IN_MEMCACHED:
        for cost in (replace(UNNOTED, memcached=4), KNOWN):
            assert await comes_elsewhere(world, phase) == (["by yan", "by zoe"], cost), phase


Change = Callable[[World], Awaitable[object]]
CHANGES: dict[str, tuple[Change, list[str]]] = {
    "unfollow": (lambda town: town.relations.unfollow(town.ids["ann"], town.ids["zoe"]), ["by yan"]),
    "block": (lambda town: town.relations.block(town.ids["ann"], town.ids["zoe"]), ["by yan"]),
    "blocked": (lambda town: town.relations.block(town.ids["zoe"], town.ids["ann"]), ["by yan"]),
    "mute": (lambda town: town.relations.mute(town.ids["ann"], town.ids["yan"]), ["by zoe"]),
    "circle": (
        lambda town: town.relations.add_to_circle(town.ids["zoe"], town.ids["ann"]),
        ["for the circle", "by zoe", "by yan"],
    ),
    "follow": (lambda town: town.follow("ann", "dot"), ["by dot", "by zoe", "by yan"]),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_is_noted_ends_with_any_change(town: World, change: str) -> None:
    """Made by another process, and with no worker at work: a backfill is owed since."""
    make, texts = CHANGES[change]
    await make(town)
    for phase in (QUERY.slug, *IN_MEMCACHED):
        assert (await comes_elsewhere(town, phase))[0] == texts, phase
    await town.drain()
    for phase in IN_MEMCACHED:
        await comes_elsewhere(town, phase)
        assert await comes_elsewhere(town, phase) == (texts, KNOWN), "it is noted anew"


async def test_who_can_write_to_memcached_lets_nobody_in(town: World) -> None:
    """Neither by what we have sealed for somebody else or elsewhere, nor by what we have not."""
    await town.sign_up("eve")
    await town.follow("eve", "zoe", "yan")
    await town.relations.add_to_circle(town.ids["zoe"], town.ids["eve"])
    await town.drain()
    for phase in IN_MEMCACHED:
        at = await container(town, phase)
        zoe = {town.ids["zoe"]: relation(True, False, True, False)}
        edges = OwnEdges(town.ids["ann"], await version(town, phase), zoe, backfilled=True)
        ours = await noted(town, phase)
        for forged in (
            sealed(at, replace(edges, reader=town.ids["eve"]), town.stack.secret),
            sealed(replace(at, since=ObjectId()), edges, town.stack.secret),
            sealed(at, edges, b"another secret"),
            ours[:-1] + bytes([ours[-1] ^ 4]),
            ours[: noted_edges.SEAL],
            b"",
        ):
            await town.stack.memcached.put(edges_key(at, town.ids["ann"]), forged, 60)
            assert (await comes_elsewhere(town, phase))[0] == ["by zoe", "by yan"], phase
        await town.stack.memcached.put(edges_key(at, town.ids["ann"]), sealed(at, edges, town.stack.secret), 60)
        assert (await comes_elsewhere(town, phase))[0] == ["for the circle", "by zoe", "by yan"], "our seal is believed"


async def version(town: World, phase: str) -> Version:
    found = noted_edges.unpacked(
        town.stack.secret, await container(town, phase), town.ids["ann"], await noted(town, phase)
    )
    assert found
    assert found.version
    return found.version


async def test_in_a_restored_database_nothing_is_true_that_was_noted_of_another_history(town: World) -> None:
    """It was restored by somebody's own means, and no process has noticed yet. The changes are as many as before."""
    await town.relations.remove_from_circle(town.ids["zoe"], town.ids["ann"])
    backup = await town.dump()
    await town.relations.add_to_circle(town.ids["zoe"], town.ids["ann"])
    await town.drain()
    for phase in IN_MEMCACHED:
        assert (await comes_elsewhere(town, phase))[0] == ["for the circle", "by zoe", "by yan"]
    await town.load(backup)
    await town.relations.add_to_circle(town.ids["dot"], town.ids["ann"])
    for phase in IN_MEMCACHED:
        assert (await comes_elsewhere(town, phase))[0] == ["by zoe", "by yan"], phase


async def test_a_version_that_may_come_back_is_not_noted(town: World) -> None:
    """It is of an earlier release, which counted the changes."""
    await town.stack.db[VERSIONS].update_one(version_key(town.ids["ann"]), {"$set": {"version": 3}})
    for phase in IN_MEMCACHED:
        await town.stack.memcached.delete(edges_key(await container(town, phase), town.ids["ann"]))
        await comes_elsewhere(town, phase)
        assert await comes_elsewhere(town, phase) == (["by zoe", "by yan"], UNNOTED), phase
    await town.relations.mute(town.ids["ann"], town.ids["dot"])
    for phase in IN_MEMCACHED:
        await comes_elsewhere(town, phase)
        assert await comes_elsewhere(town, phase) == (["by zoe", "by yan"], KNOWN), phase


def test_what_is_noted_is_what_was_looked_up_last_and_no_more() -> None:
    relations = {
        ObjectId(): relation(bool(n & 1), bool(n & 2), bool(n & 4), bool(n & 8)) for n in range(noted_edges.MOST + 16)
    }
    version = ObjectId()
    raw = sealed(AT, OwnEdges(ANN, version, relations, backfilled=True))
    assert len(raw) == noted_edges.SEAL + noted_edges.HEAD.size + noted_edges.MOST * noted_edges.ROW.size
    last = dict(list(relations.items())[-noted_edges.MOST :])
    found = noted_edges.unpacked(SECRET, AT, ANN, raw)
    assert found == OwnEdges(ANN, version, last, backfilled=True, noted_in=(AT.name,))
    assert list(found.relations) == list(last), "the next one, too, leaves out those that were looked up first"


def test_another_form_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of two versions share a Memcached during an update."""
    edges = OwnEdges(ANN, 0, backfilled=True, noted_in=(AT.name,))
    monkeypatch.setattr(noted_edges, "FORM", noted_edges.FORM + 1)
    later = sealed(AT, edges)
    assert noted_edges.unpacked(SECRET, AT, ANN, later) == edges
    monkeypatch.undo()
    assert noted_edges.unpacked(SECRET, AT, ANN, later) is None
