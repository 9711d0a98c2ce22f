"""Every guard taken away, one at a time: some test must notice. `python -m tests.mutations`."""

from typing import Any


def prove(asked: Any) -> bool:
    """All mutants are killed."""
    from tests.mutations.__main__ import run
    from tests.mutations.mutants import MUTANTS

    return run(MUTANTS)
