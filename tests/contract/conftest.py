"""Every test of the contract suite on real servers is heard for commands that would ask every shard."""

from collections.abc import Iterator

import pytest
from pymongo import monitoring

from tests.conftest import STAND_INS
from tests.sharding import SCATTERED, Listener, listening

monitoring.register(Listener())  # for every client that is made from now on


@pytest.fixture(autouse=True)
def no_hot_command_asks_every_shard(request: pytest.FixtureRequest) -> Iterator[None]:
    """But those that are listed, with their reason."""
    if "addresses" not in request.fixturenames or request.getfixturevalue("addresses") == STAND_INS:
        yield
        return
    with listening() as seen:
        yield
    unknown = seen - {(one.collection, one.fields) for one in SCATTERED}
    assert not unknown, f"these carry no shard key, see tests/sharding.py: {unknown}"
