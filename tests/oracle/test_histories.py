"""A short slice of the random histories; `make prove` runs the long one."""

import pytest

from app.stack import Addresses
from phases import PHASES
from phases.p6_hybrid import HYBRID
from tests.oracle.histories import CRASH_LEAVES, batch
from tests.oracle.machine import Histories

pytestmark = pytest.mark.filterwarnings(f"ignore:{CRASH_LEAVES}:RuntimeWarning")


def test_every_page_after_every_step_of_a_random_history(addresses: Addresses) -> None:
    """One seed, so that this is the same test every time. Longer, and with other seeds: `make prove`."""
    whole = addresses.one_process and PHASES[-1] is HYBRID  # servers take long, and a further phase draws others
    histories = 5 if whole else 1 if addresses.one_process else 2  # the first is the simplest there is
    tally = batch(Histories, addresses, 56, histories=histories, steps=40)
    assert tally["steps"] > 15 * histories
    assert min(tally[f"pages from {source}"] for source in ("query", "list", "rebuilt")) > 0
    if whole:
        assert tally["posts that are pulled"] > 9
        assert tally["notifications compared"] > 9
        assert tally["accounts deleted"] > 0
        assert tally["given up"] > 5
