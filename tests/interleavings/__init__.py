"""Every order in which the small races can happen, on the real code: `python -m tests.interleavings`."""

from typing import Any


def prove(asked: Any) -> bool:
    """Every race, to its end."""
    from tests.interleavings.__main__ import run
    from tests.interleavings.races import RACES

    return run(RACES)
