"""A short slice of the random histories; `python -m tests.live` runs as many as it is told to."""

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis.stateful import run_state_machine_as_test

from tests.live.equation import Equation


def run(histories: int, steps: int = 30, seed: int | None = None) -> None:
    """`seed`: None is always the same one."""
    limits = settings(
        max_examples=histories,
        stateful_step_count=steps,
        derandomize=seed is None,
        database=None,
        phases=[Phase.generate],  # to shrink a history takes minutes
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine = Equation if seed is None else with_seed(seed)(Equation)
    run_state_machine_as_test(machine, settings=limits)


def test_a_state_with_the_events_applied_is_the_state_now() -> None:
    run(25)
    assert min(Equation.tally[each] for each in ("status", "status_gone", "likes", "notification", "resumed")) > 5
