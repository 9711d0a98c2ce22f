"""A short slice of the random histories; `python -m tests.live` runs as many as it is told to."""

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis.stateful import run_state_machine_as_test

from tests.live.equation import Equation


def run(histories: int, steps: int = 30, seed: int = 1) -> None:
    limits = settings(
        max_examples=histories,
        stateful_step_count=steps,
        database=None,
        phases=[Phase.generate],  # to shrink a history takes minutes
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(with_seed(seed)(Equation), settings=limits)


def test_a_state_with_the_events_applied_is_the_state_now() -> None:
    run(25, seed=3)
    seen = ["status", "status_gone", "likes", "notification", "message", "conversation", "presence", "resumed"]
    assert min(Equation.tally[each] for each in seen) > 2
