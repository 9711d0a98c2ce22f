"""A short slice of the random histories; `make prove` runs the long one."""

import pytest

from app.stack import Addresses
from phases import PHASES
from phases.p6_hybrid import HYBRID
from tests.oracle.histories import CRASH_LEAVES, batch

pytestmark = pytest.mark.filterwarnings(f"ignore:{CRASH_LEAVES}:RuntimeWarning")


def test_every_page_after_every_step_of_a_random_history(addresses: Addresses) -> None:
    """One seed, so that this is the same test every time. Longer, and with other seeds: `make prove`."""
    histories, steps = (5, 40) if addresses.one_process else (1, 40)
    tally = batch(addresses, 8, histories=histories, steps=steps)
    assert tally["steps"] > 15 * histories
    assert min(tally[f"pages from {source}"] for source in ("query", "list", "rebuilt")) > 0
    assert tally["notifications compared"] > 2 * histories or not addresses.one_process
    if PHASES[-1] is HYBRID and addresses.one_process:  # a further phase, or one history, draws another one
        assert tally["posts that are pulled"] > 9
