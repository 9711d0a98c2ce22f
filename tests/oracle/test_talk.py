"""A short slice of the random conversations; `make prove` runs the long one."""

import pytest

from app.stack import Addresses
from tests.oracle.histories import CRASH_LEAVES, batch
from tests.oracle.talk import Talking

pytestmark = pytest.mark.filterwarnings(f"ignore:{CRASH_LEAVES}:RuntimeWarning")


def test_what_everybody_sees_after_every_step_of_a_random_conversation(addresses: Addresses) -> None:
    """One seed, so that this is the same test every time."""
    histories = 12 if addresses.one_process else 3
    tally = batch(Talking, addresses, 4, histories=histories, steps=40, shrink=False)
    assert tally["steps"] > 20
    if addresses.one_process:
        assert min(tally[name] for name in ("send", "receive", "delete", "crashes", "given up", "sent at once")) > 9
