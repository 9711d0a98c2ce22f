"""`pytest -p tests.another`: one phase more, whatever is tested. Nothing else knows of it.

Tests of one of ours, by their parameters, are left to the runs without it.
"""

import pytest

import phases
from phases.base import Phase
from tests.another.p7_board import BOARD

OURS = {phase.slug for phase in phases.PHASES}
phases.PHASES = (*phases.PHASES, BOARD)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    elsewhere = [item for item in items if phases_of(item) & OURS and BOARD.slug not in phases_of(item)]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def phases_of(item: pytest.Item) -> set[object]:
    """Slugs among what a test is given, and whatever else it is given."""
    given = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    return {value.slug if isinstance(value, Phase) else value for value in given if isinstance(value, Phase | str)}
