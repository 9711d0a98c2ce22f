"""The connections of a process, and their end."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from unittest.mock import AsyncMock, patch

import pytest
from mongomock_motor import AsyncMongoMockClient

from app.clock import Clock
from app.config import Config, ConfigError
from app.stack import Addresses, DeliveryQueue, Stack, connected, opened
from app.stack.memcached import MemcachedNodes
from app.stack.mongodb.connection import disconnect
from app.stack.rates import Rates
from app.stack.scratch import scratch
from tests.world import STAND_INS

pytestmark = pytest.mark.anyio

Opening = Callable[[Addresses, Config, Clock], AbstractAsyncContextManager[Stack]]


@pytest.mark.parametrize("opening", [opened, connected])
async def test_what_cannot_be_closed_leaves_nothing_else_open(opening: Opening) -> None:
    closed = AsyncMock(wraps=disconnect)
    with (
        patch("app.stack.disconnect", closed),
        patch.object(Rates, "close", side_effect=ConnectionError("away")),
        pytest.raises(ConnectionError, match="away"),
    ):
        async with opening(STAND_INS, Config(database="test"), Clock()) as stack:
            pass
    closed.assert_awaited_once_with(stack.db)


async def test_what_cannot_be_opened_leaves_nothing_else_open(tmp_path: Path) -> None:
    redis = f"rediss://127.0.0.1:9/0?ssl_ca_certs={tmp_path / 'none.pem'}"
    closed, cache_closed = AsyncMock(wraps=disconnect), AsyncMock()
    with (
        patch("app.stack.disconnect", closed),
        patch.object(MemcachedNodes, "close", cache_closed),
        pytest.raises(ConfigError, match="FEEDLAB_REDIS_URL"),
    ):
        async with opened(Addresses("mongodb://127.0.0.1:9", redis, ("127.0.0.1:9",)), Config(), Clock()):
            raise AssertionError("it cannot be opened")
    assert (closed.await_count, cache_closed.await_count) == (1, 1)


@pytest.mark.parametrize(("owner", "fails"), [(AsyncMongoMockClient, "drop_database"), (DeliveryQueue, "forget")])
async def test_a_scratch_stack_clears_away_what_it_can(owner: type[object], fails: str) -> None:
    forgotten, dropped = AsyncMock(), AsyncMock()
    with patch.object(DeliveryQueue, "forget", forgotten), patch.object(AsyncMongoMockClient, "drop_database", dropped):
        getattr(owner, fails).side_effect = ConnectionError("away")
        with pytest.raises(ConnectionError, match="away"):
            async with scratch(STAND_INS, Config(database="lab"), "lab", Clock()):
                pass
    assert (forgotten.await_count, dropped.await_count) == (1, 1)
