"""What holds for every test of the contract suite."""

from collections.abc import Iterator

import pytest
from pymongo import monitoring

from phases.delivering import delivery
from tests.sharding import SCATTERED, Listener, listening
from tests.world import STAND_INS

monitoring.register(Listener())  # for every client that is made from now on


@pytest.fixture(autouse=True)
def no_hot_command_asks_every_shard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each is heard for such commands, on real servers. Some are allowed, with their reason."""
    if "addresses" not in request.fixturenames or request.getfixturevalue("addresses") == STAND_INS:
        yield
        return
    with listening() as seen:
        yield
    unknown = seen - {(one.collection, one.fields) for one in SCATTERED}
    assert not unknown, f"these carry no shard key, see tests/sharding.py: {unknown}"


@pytest.fixture(autouse=True)
def a_busy_machine_ends_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not delivered in time is left to another job, so what a job does would depend on the machine's load."""
    monkeypatch.setattr(delivery, "PATIENCE_S", 30.0)
