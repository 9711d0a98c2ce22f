"""Seeding: everything in the stored shapes, the same for the same seed, and never over somebody's data unasked."""

import asyncio
import io
import re
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, nullcontext
from dataclasses import replace
from datetime import timedelta
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import click
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from rq import Queue

from app.accounts import HANDLE, Accounts
from app.config import Config
from app.demo import seed as seeding
from app.demo import seed_command
from app.demo.graph import Graph, powerlaw
from app.demo.seed import NEWEST_S, SeedRefused, SeedReport, World, handles, seed
from app.edges import raise_version
from app.errors import WrongPassword
from app.models import Block, CircleMember, Follow, Status, Token, User
from app.stack import Addresses, DeliveryQueue, Stack, connected
from app.stack.schema import identity
from phases.timelines import Timelines
from tests.dates import NOON, ManualClock
from tests.world import KEEPING, SLUGS, STAND_INS

GRAPH = powerlaw(40, 5, 3)
OWED = ObjectId(b"some status.")


def run(test: Callable[[Stack], Awaitable[None]]) -> None:
    async def body() -> None:
        async with connected(STAND_INS, Config.from_environment({}), ManualClock(NOON)) as stack:
            await test(stack)

    asyncio.run(body())


async def seeded(stack: Stack, graph: Graph = GRAPH, **changed: Any) -> SeedReport:
    options = {"statuses": 300, "days": 10, "seed": 1, "password": None, "reset": False}
    return await seed(stack, graph, **(options | changed))


async def stored(stack: Stack, name: str) -> list[dict[str, Any]]:
    return await stack.db[name].find({}).sort("_id", 1).to_list(None)


def test_people_and_edges_are_those_of_the_graph() -> None:
    async def test(stack: Stack) -> None:
        report = await seeded(stack)
        users = await stored(stack, "users")
        assert [user["handle"] for user in users] == list(GRAPH.people)
        assert users[0]["name"].startswith("Ada ")
        place = {user["_id"]: number for number, user in enumerate(users)}
        follows = await stored(stack, "follows")
        assert {(place[edge["follower"]], place[edge["followee"]]) for edge in follows} == set(GRAPH.follows())
        assert await stored(stack, "active_readers") == [], "nobody has been here yet"
        assert (report.users, report.follows, report.statuses) == (40, 200, 300)
        assert set(report.handles) < set(GRAPH.people)

    run(test)


def test_documents_have_the_shapes_that_the_models_store() -> None:
    async def test(stack: Stack) -> None:
        await seeded(stack)
        a = (await stored(stack, "users"))[0]
        examples = (
            User(handle="new", name="New", created_at=NOON),
            Follow(follower=a["_id"], followee=a["_id"]),
            CircleMember(owner=a["_id"], member=a["_id"]),
            Status(user_id=a["_id"], text="Hello", audience="followers"),
        )
        for example in examples:
            name = example.get_settings().name
            assert name
            before = await stored(stack, name)
            await example.insert()
            shape = await stack.db[name].find_one({"_id": example.id})
            assert shape
            assert {frozenset(document) for document in before} == {frozenset(shape)}

    run(test)


def test_statuses_are_spread_over_the_period_and_written_in_its_order() -> None:
    ids = [status["_id"] for status in World(GRAPH, 1, NOON, 2).statuses(20_000)]
    times = [id.generation_time for id in ids]
    assert times == sorted(times)
    assert len(set(ids)) == 20_000
    assert NOON - timedelta(days=2, seconds=1) <= times[0] < times[-1] <= NOON - timedelta(seconds=NEWEST_S)
    per_hour = Counter((NOON - moment) // timedelta(hours=1) for moment in times)
    assert set(per_hour) == set(range(48))
    assert all(400 <= count <= 430 for count in per_hour.values())


def test_audiences_and_authors_are_mixed_and_circles_exist() -> None:
    world = World(GRAPH, 1, NOON, 30)
    place = {id: number for number, id in enumerate(world.ids)}
    statuses = list(world.statuses(10_000))
    share = {audience: n / 10_000 for audience, n in Counter(s["audience"] for s in statuses).items()}
    assert share == pytest.approx({"followers": 0.93, "mutuals": 0.05, "circle": 0.02}, abs=0.01)
    posted = [count for _, count in Counter(s["user_id"] for s in statuses).most_common()]
    assert len(posted) == 40
    assert posted[0] > 4 * posted[-1]
    circles = {(place[c["member"]], place[c["owner"]]) for c in world.circles()}
    assert {place[s["user_id"]] for s in statuses if s["audience"] == "circle"} <= {owner for _, owner in circles}
    assert circles < set(GRAPH.follows()), "a circle is drawn from followers"


def test_texts_are_short_and_varied() -> None:
    texts = [status["text"] for status in World(GRAPH, 1, NOON, 30).statuses(10_000)]
    assert all(1 <= len(text) <= 200 and text == text.strip() and text[0].isupper() for text in texts)
    assert not any("{" in text or "  " in text for text in texts)
    assert len(set(texts)) > 4_000


def test_people_whom_nobody_follows_write_to_their_followers_only() -> None:
    lonely = Graph(("a", "b"), array("I"), array("I"))
    assert {status["audience"] for status in World(lonely, 1, NOON, 1).statuses(100)} <= {"followers"}


def _without_ids(documents: Iterable[dict[str, Any]], place: dict[Any, int]) -> list[list[Any]]:
    def plain(value: Any) -> Any:
        return value if isinstance(value, list) else place.get(value, value)

    return [[plain(value) for key, value in document.items() if key != "_id"] for document in documents]


def test_the_same_seed_writes_the_same_and_another_does_not() -> None:
    async def test(stack: Stack) -> None:
        written = []
        for number in (1, 1, 2):
            await seeded(stack, seed=number, reset=True)
            users = await stored(stack, "users")
            place = {user["_id"]: index for index, user in enumerate(users)}
            names = ("users", "follows", "circles", "statuses")
            written.append({name: _without_ids(await stored(stack, name), place) for name in names})
        assert written[0] == written[1]
        for name in ("users", "circles", "statuses"):
            assert written[0][name] != written[2][name]

    run(test)


def test_a_database_with_people_is_refused_and_left_as_it_was() -> None:
    async def test(stack: Stack) -> None:
        await Accounts(stack).sign_up("ada", None, "correct horse")
        with pytest.raises(SeedRefused, match="--reset"):
            await seeded(stack)
        assert await User.count() == 1
        assert await Follow.count() + await Status.count() == 0

    run(test)


def test_an_interrupted_seeding_is_refused_the_next_time() -> None:
    async def test(stack: Stack) -> None:
        def interrupt(stage: str, done: int, total: int) -> None:
            if stage == "follows":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await seeded(stack, progress=interrupt)
        with pytest.raises(SeedRefused, match="interrupted"):
            await seeded(stack)
        await seeded(stack, reset=True)
        assert await User.count() == 40

    run(test)


@pytest.mark.parametrize("slice_size", [1, 7, 20_000])
def test_reset_erases_everything_first(monkeypatch: pytest.MonkeyPatch, slice_size: int) -> None:
    monkeypatch.setattr(seeding, "ERASE_SLICE", slice_size)

    async def test(stack: Stack) -> None:
        await seeded(stack, statuses=20)
        old = {name: {d["_id"] for d in await stored(stack, name)} for name in ("users", "follows", "statuses")}
        a, b = list(old["users"])[:2]
        await Accounts(stack).new_token(a)
        await Block(blocker=a, blocked=b).insert()
        await stack.db["home_entries_x"].insert_one({"_id": 1})
        await stack.queue.offer("queue", a)
        await seeded(stack, statuses=20, reset=True)
        for name, ids in old.items():
            now = {d["_id"] for d in await stored(stack, name)}
            assert len(now) == len(ids)
            assert not now & ids
        assert await Token.count() + await Block.count() == 0
        assert await stored(stack, "home_entries_x") == []
        assert await stack.queue.known() == set()

    run(test)


def test_an_interrupted_loading_of_edges_leaves_every_index() -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from islice(World(GRAPH, 1, NOON, 1).follows(), 50)
        raise KeyboardInterrupt

    async def test(stack: Stack) -> None:
        before = await stack.db["follows"].index_information()
        with pytest.raises(KeyboardInterrupt):
            await seeding.insert_follows(stack, broken(), 200)
        assert await stack.db["follows"].index_information() == before

    run(test)


def test_loading_and_erasing_go_in_bounded_steps_that_no_request_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def step() -> nullcontext[None]:
        steps.append("step")
        return nullcontext()

    monkeypatch.setattr(seeding, "housekeeping", step)
    monkeypatch.setattr(seeding, "BATCH", 20)
    monkeypatch.setattr(seeding, "ERASE_SLICE", 30)
    said: list[tuple[str, int, int]] = []

    async def test(stack: Stack) -> None:
        await seeding.insert(stack, Follow, World(GRAPH, 1, NOON, 1).follows(), 200)
        assert len(steps) == 10
        await seeding.empty(stack, "follows", lambda *step: said.append(step))
        assert len(steps) == 10 + 7
        assert await stored(stack, "follows") == []

    run(test)
    assert said == [("erasing follows", 30 * step, 200) for step in range(1, 7)]


def test_versions_of_readers_are_erased_with_the_statuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ids are of another type, of which as many as a slice has come first."""
    monkeypatch.setattr(seeding, "ERASE_SLICE", 3)
    steps = count()

    def step(*_: object) -> None:
        assert next(steps) < 8, "it goes on for ever"

    async def test(stack: Stack) -> None:
        for _ in range(3):
            await raise_version(stack.db, ObjectId())
        await stack.db["statuses"].insert_many([{"_id": ObjectId(), "user_id": ObjectId()} for _ in range(5)])
        await seeding.empty(stack, "statuses", step)
        assert await stored(stack, "statuses") == []

    run(test)


@pytest.mark.parametrize("wrong", [{"statuses": -1}, {"days": 0}, {"days": 10**6}, {"password": "short"}])
def test_numbers_out_of_range_are_refused_before_anything_is_erased(wrong: dict[str, Any]) -> None:
    async def test(stack: Stack) -> None:
        await seeded(stack, statuses=5)
        with pytest.raises(SeedRefused):
            await seeded(stack, reset=True, **wrong)
        assert await Status.count() == 5

    run(test)


def test_everybody_has_the_given_password_or_none() -> None:
    async def test(stack: Stack) -> None:
        await seeded(stack, statuses=0, password="correct horse")
        for handle in GRAPH.people[:2]:
            await Accounts(stack).sign_in(handle, "correct horse")
        await seeded(stack, statuses=0, reset=True)
        with pytest.raises(WrongPassword):
            await Accounts(stack).sign_in(GRAPH.people[0], "correct horse")

    run(test)


@pytest.mark.parametrize("slug", SLUGS)
def test_who_reads_while_it_runs_misses_nothing_afterwards(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list made before the statuses are there says that it is complete, and is not."""
    insert = seeding.insert
    busiest = Counter(GRAPH.followers).most_common(1)[0][0]

    async def test(stack: Stack) -> None:
        clock = stack.clock
        assert isinstance(clock, ManualClock)
        timelines = await Timelines.open(stack)
        await timelines.change(read=slug, delivering=KEEPING)
        clock.advance(6_000)

        async def insert_and_read(stack: Stack, model: Any, *rest: Any) -> None:
            await insert(stack, model, *rest)
            if model is Follow:
                assert not (await timelines.refresh(await reader())).statuses

        async def reader() -> ObjectId:
            found = await User.find_one({"handle": GRAPH.people[busiest]})
            assert found
            return found.id

        monkeypatch.setattr(seeding, "insert", insert_and_read)
        await seeded(stack)
        clock.advance(600)
        page = await timelines.page(await reader(), limit=50)
        expected = await timelines.page(await reader(), phase="query", limit=50)
        assert page.statuses == expected.statuses
        assert len(expected.statuses) == 50

    run(test)


def test_progress_counts_every_document() -> None:
    async def test(stack: Stack) -> None:
        told: dict[str, tuple[int, int]] = {}
        await seeded(stack, progress=lambda stage, done, total: told.update({stage: (done, total)}))
        assert list(told) == ["users", "follows", "index by followee", "circles", "statuses"]
        assert all(done == total for done, total in told.values())
        assert told["statuses"] == (300, 300)

    run(test)


@given(st.lists(st.text(min_size=1, max_size=40), unique=True, max_size=30))
def test_handles_are_valid_and_different(labels: list[str]) -> None:
    found = handles(labels)
    assert len(set(found)) == len(found) == len(labels)
    assert all(HANDLE.fullmatch(handle) for handle in found)


def test_handles_stay_close_to_the_labels() -> None:
    labels = ["0", "17", "Ada", "ada", "u17", "Zoë.K", "_x_", "日本", "a" * 40, "a" * 41]
    assert handles(labels) == ["u0", "u17_2", "ada_2", "ada", "u17", "zoe_k", "x", "u", "a" * 30, "a" * 28 + "_2"]


def lasting(stack: Stack) -> Stack:
    """The stand-ins, for a command that insists on a server that outlives it."""
    return replace(stack, addresses=Addresses("mongodb://127.0.0.1", None, None))


def test_the_command_refuses_a_database_that_would_end_with_it() -> None:
    async def test(stack: Stack) -> None:
        with pytest.raises(SeedRefused, match="end with it"):
            await seed_command.run(stack, GRAPH, statuses=0, days=3, seed=1, password=None, reset=False, yes=False)
        assert await User.count() == 0

    run(test)


def test_the_command_says_what_was_done_and_how_to_sign_in(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(stack: Stack) -> None:
        await seed_command.run(
            lasting(stack), GRAPH, statuses=20, days=3, seed=1, password=None, reset=False, yes=False
        )
        told = capsys.readouterr()
        password = re.search(r"^password of every seeded person: (\S+)$", told.out, re.MULTILINE)
        people = re.search(r"^people to sign in as: (\S+)", told.out, re.MULTILINE)
        assert password
        assert people
        await Accounts(stack).sign_in(people[1], password[1])
        assert re.search(r"^seeded 40 people, 200 follow edges and 20 statuses in \d+\.\d s$", told.out, re.MULTILINE)
        assert "statuses: 20 of 20" in told.err

        await seed_command.run(
            lasting(stack), GRAPH, statuses=0, days=3, seed=1, password="correct horse", reset=True, yes=True
        )
        assert "correct horse" not in capsys.readouterr().out, "whoever chose it knows it"
        await Accounts(stack).sign_in(people[1], "correct horse")

    run(test)


def test_an_interrupted_command_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(stack: Stack) -> None:
        task = asyncio.current_task()
        assert task

        def interrupted(password: str) -> str:
            loop.call_soon_threadsafe(task.cancel)
            return password

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(seeding, "HASHER", SimpleNamespace(hash=interrupted))
        with pytest.raises(asyncio.CancelledError):
            await seed_command.run(lasting(stack), GRAPH, statuses=300, days=3, seed=1, password=None, reset=False)
        task.uncancel()
        assert "Start again with --reset" in capsys.readouterr().err

    run(test)


def test_the_command_says_what_it_would_erase_and_erases_nothing_without_a_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def again(stack: Stack, yes: bool) -> None:
        await seed_command.run(lasting(stack), GRAPH, statuses=0, days=3, seed=1, password=None, reset=True, yes=yes)

    async def test(stack: Stack) -> None:
        await seeded(stack, statuses=20)
        for answer in ("n\n", "\n", ""):
            monkeypatch.setattr("sys.stdin", io.StringIO(answer))
            with pytest.raises(click.Abort):
                await again(stack, yes=False)
            told = capsys.readouterr().err
            assert "40 accounts, 20 statuses" in told
            assert f"{stack.config.database!r} at mongodb://127.0.0.1" in told
            assert await Status.count() == 20
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        await again(stack, yes=False)
        assert await Status.count() == 0
        await again(stack, yes=True)

    run(test)


def test_reset_touches_nothing_of_others_on_the_same_servers(addresses: Addresses) -> None:
    """Other Feedlabs, also one of the same name on another MongoDB, and somebody else's keys, RQ queues among them."""
    in_memory = addresses.mongodb is None  # every stand-in is another server
    names = ("reset-2", "reset-deliver", *(["reset"] if in_memory else []), "reset")
    configs = [Config.model_validate({"database": name}) for name in names]

    async def test() -> None:
        async with AsyncExitStack() as stacks:
            *others, mine = [await stacks.enter_async_context(connected(addresses, config)) for config in configs]
            redis: Any = mine.queue.connection
            if in_memory:
                for other in others:
                    other.queue = DeliveryQueue(redis, await identity(other.db))
            for stack in (mine, *others):
                await stack.queue.offer("queue", OWED)
                await stack.queue.go_on("queue", OWED, OWED)
            await mine.memcached.add("somebody-elses", b"value", 60)
            redis.set("somebody-elses", "value")
            Queue("deliver-first", connection=redis).enqueue(print, job_id="somebody-elses")
            before = set(redis.keys())
            await seeded(mine, statuses=0, reset=True)
            assert await mine.memcached.gets("somebody-elses")
            gone = before - set(redis.keys())
            assert gone
            ours = re.compile(rb"rq:\w+:reset-[0-9a-f]{8}-(deliver-(first|more)|queue-[-\w]+)")
            assert all(ours.fullmatch(key) for key in gone), gone
            assert await mine.queue.known() == set()
            for other in others:
                assert await other.queue.known() == {("queue", str(OWED))}
                assert await other.queue.depth() == {"queue": 2}
                await other.queue.forget()
            for stack in (mine, *others):
                await stack.db.client.drop_database(stack.config.database)

    asyncio.run(test())
