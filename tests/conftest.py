"""Stacks for tests: stand-ins, and real servers of their own that stop with the session."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from argon2 import PasswordHasher

from app import accounts
from app.config import Config
from app.demo import seed
from app.models import SETTINGS
from app.servers.borrow import running_servers
from app.servers.programs import ServersError
from app.stack import Addresses, connected
from app.stack.mongodb.connection import Database
from app.stack.schema import OURS, SCHEMA, VERSION
from tests.dates import NOON, ManualClock
from tests.site import Site, opened
from tests.world import STAND_INS, World

THOROUGH = (
    "interleavings/",
    "oracle/",
    "mutations/",
    "benchmarks/",
    "live/",
    "contract/test_away",
    "contract/test_claims",
    "contract/test_costs",
    "contract/test_departures",
    "contract/test_hostile_jobs",
    "contract/test_jobs",
    "contract/test_notifications",
    "contract/test_pictures.py::test_the_largest_pictures",
    "contract/test_pulled",
    "contract/test_restored",
    "contract/test_rules.py::test_a_long_backfill",
    "contract/test_rules.py::test_a_page_crosses_the_floor",
    "contract/test_rules.py::test_sweeping",
    "contract/test_rules.py::test_switching_needs_no_migration",
    "contract/test_rules.py::test_the_queue_may_be_far_behind",
    "contract/test_timeline.py::test_pages_are_full_and_scroll",
    "test_api.py::test_the_servers_are_asked_once",
    "test_cli.py::test_doctor_names_what_does_not_answer",
    "test_dashboard",
    "test_door",
    "test_graph",
    "test_logs",
    "test_openapi",
    "test_protocol",
    "test_queue",
    "test_schema",
    "test_seed",
    "test_sending",
    "test_servers",
    "test_shared",
    "test_side_by_side",
    "test_talking",
    "test_visibility",
    "test_walkthrough",
)

HERE = Path(__file__).parent
FAST = "not servers and not browser and not thorough and not scale"  # as in the Makefile
PATIENCE_S = 10.0  # with a cache


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """What makes a password slow to guess makes a person slow to sign up: 25 ms a time, in half of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (accounts, seed):
            patch.setattr(module, "HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Tests with servers wait for them about half of the time: three of them keep two cores busy."""
    cores = os.cpu_count() or 1
    return cores if config.getoption("markexpr") == FAST else ceil(1.5 * cores)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What is thorough all of it need not be imported for the fast tests."""
    name = collection_path.relative_to(HERE).as_posix() if HERE in collection_path.parents else ""
    return (config.getoption("markexpr") == FAST and name.startswith(THOROUGH)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Many orders, histories and whole processes take their time, wherever they run."""
    no_mongod = pytest.mark.skip(f"mongod has 31 bits for its seconds, and today is {NOON:%Y-%m-%d}")
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(THOROUGH):
            item.add_marker("thorough")
        if NOON.timestamp() >= 2**31 and {"servers", "browser"} & {mark.name for mark in item.iter_markers()}:
            item.add_marker(no_mongod)


@contextmanager
def real_servers() -> Iterator[None]:
    """Skip when a server program is missing, but in CI that is a failure."""
    try:
        yield
    except ServersError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def free_port() -> int:
    """For a server that cannot be handed a socket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A real MongoDB, Redis and Memcached. Missing ones are skipped, but in CI they are a failure."""
    directory: Path = tmp_path_factory.mktemp("servers")
    with real_servers(), running_servers(directory, Config()) as addresses:
        yield addresses


@pytest.fixture(params=["memory", pytest.param("servers", marks=pytest.mark.servers)])
def addresses(request: pytest.FixtureRequest) -> Addresses:
    return STAND_INS if request.param == "memory" else request.getfixturevalue("servers")


@pytest.fixture
def settings() -> dict[str, Any]:
    """What the test's Config is made of; a test module overrides it."""
    return {}


@pytest.fixture
async def world(addresses: Addresses, settings: dict[str, Any]) -> AsyncIterator[World]:
    """An empty system in which every phase delivers and the grace is over."""
    small = {"cap": 10, **dict.fromkeys(("chunk", "inline_chunk", "list_chunk"), 4)}
    config = Config.model_validate({"database": "test", "demo": True} | small | settings)
    clock = ManualClock(NOON)
    # To a process that serves people a cache is away after half a second; here the machine may be busy for as long.
    with patch.multiple("app.stack", MEMCACHED_TIMEOUT_S=PATIENCE_S, SETS_TIMEOUT_S=PATIENCE_S):
        async with connected(addresses, config, clock) as stack:
            stack.queue.connection.flushdb()  # the tests' own, which others have left something in
            world = await World.open(stack, clock)
            yield world
            await as_new(stack.db)


async def as_new(db: Database) -> None:
    """Somebody else's database, for the next test: our collections and their indexes take half a second to make."""

    async def emptied(name: str) -> None:
        if name in OURS:
            await db[name].delete_many({"_id": {"$ne": SCHEMA}})
        else:
            await db.drop_collection(name)

    await asyncio.gather(*map(emptied, await db.list_collection_names()))
    await db[SETTINGS].replace_one({"_id": SCHEMA}, {"version": VERSION})


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """The application on stand-ins, for browsers."""
    async with opened() as site:
        yield site


@pytest.fixture
async def demo() -> AsyncIterator[Site]:
    """The same in demo mode."""
    async with opened(demo=True) as site:
        yield site
