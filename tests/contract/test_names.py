"""Names change: the next page of every process shows it, at no command more while nobody is renamed."""

import asyncio
from typing import Any
from unittest.mock import patch

import pytest
from bson import ObjectId

from app.errors import Invalid
from app.models import Account, User
from app.social.people import People
from app.stack.cost import counted
from app.stack.mongodb.find import together
from tests.world import KEEPING, SLUGS, World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(world: World) -> World:
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.post("zoe", "hello")
    await world.drain()
    await world.warm("ann")
    return world


async def rename(town: World, handle: str, name: str) -> None:
    await town.people.rename(Account(town.ids[handle], handle), name)


async def called(town: World, people: People, phase: str) -> str:
    """Zoe, on Ann's first page."""
    page = await town.page("ann", phase)
    return (await people.by_ids({row.user_id for row in page.statuses}, page.names))[town.ids["zoe"]].name


async def test_every_process_shows_a_new_name_on_its_next_page(town: World) -> None:
    processes = [town.people, People(town.stack)]
    for n, phase in enumerate((*SLUGS, *SLUGS)):
        for people in processes:
            await called(town, people, phase)
        await rename(town, "zoe", f"Zoe {n}")
        assert [await called(town, people, phase) for people in processes] == [f"Zoe {n}"] * 2, phase
        for people in processes:
            assert (await people.by_ids([town.ids["zoe"]]))[town.ids["zoe"]].name == f"Zoe {n}"


async def test_names_cost_a_remembered_page_no_command(town: World) -> None:
    for phase in SLUGS:
        await called(town, town.people, phase)
        with counted() as page:
            await town.page("ann", phase)
        with counted() as both:
            await called(town, town.people, phase)
        assert both.mongodb == page.mongodb, phase
    for phase in KEEPING:
        assert page.mongodb == 1, phase


async def test_more_renames_than_are_looked_at_are_all_seen(town: World) -> None:
    names = [f"fan{n}" for n in range(5)]
    await town.sign_up(*names)
    ids = {town.ids[name] for name in names}
    await town.people.by_ids(ids)
    with patch("app.names.RENAMED_AT_ONCE", 3):
        for name in names:
            await rename(town, name, f"New {name}")
        people = await town.people.by_ids(ids)
    assert sorted(person.name for person in people.values()) == [f"New {name}" for name in names]


async def test_a_look_that_began_before_another_does_not_vouch_for_its_names(town: World) -> None:
    """It asks for nobody who was renamed since, as nothing was remembered when it began."""
    people, going = People(town.stack), asyncio.Event()

    async def held(*given: Any, **finds: Any) -> Any:
        await going.wait()
        return await together(*given, **finds)

    with patch("app.names.together", held):
        late = asyncio.create_task(people.by_ids([town.ids["ann"]]))
        await asyncio.sleep(0)
    await people.by_ids([town.ids["zoe"]])
    await rename(town, "zoe", "Zoe Z.")
    going.set()
    await late
    assert await called(town, people, "cache") == "Zoe Z."


async def test_only_so_many_names_are_remembered(town: World) -> None:
    with patch("app.names.REMEMBERED", 1):
        for _ in range(3):
            for handle in ("ann", "zoe"):
                assert (await town.people.by_ids([town.ids[handle]]))[town.ids[handle]].handle == handle
    assert await town.people.by_ids([ObjectId()]) == {}
    assert await town.people.by_ids([]) == {}


async def test_renames_at_once_are_all_made(town: World) -> None:
    names = [f"fan{n}" for n in range(40)]
    await town.sign_up(*names)
    await asyncio.gather(*(rename(town, name, f"New {name}") for name in names))
    people = await town.people.by_ids({town.ids[name] for name in names})
    assert {person.handle: person.name for person in people.values()} == {name: f"New {name}" for name in names}


async def test_a_new_name_is_found_and_checked(town: World) -> None:
    await rename(town, "zoe", "  Quokka Q. ")
    assert [person.name for person in (await town.people.search("quok", "", 5))[0]] == ["Quokka Q."]
    with pytest.raises(Invalid):
        await rename(town, "zoe", "a\nb")
    await rename(town, "zoe", " ")
    user = await User.get(town.ids["zoe"])
    assert user
    assert (user.name, user.found_by) == ("zoe", ["zoe"])
