"""Running random histories: in batches of known seeds, until enough steps are made."""

import logging
import traceback
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from app.stack import Addresses
from tests.oracle.machine import Histories

STEPS_A_HISTORY = 60
HISTORIES_A_BATCH = 10
CRASH_LEAVES = "coroutine .* was never awaited"  # the other look-ups of a read whose process has died


@dataclass
class Outcome:
    """`story`: the shrunk history that failed, as Hypothesis tells it."""

    tally: Counter[str] = field(default_factory=Counter)
    seeds: list[int] = field(default_factory=list)
    elapsed_s: float = 0.0
    story: str | None = None


def batch(
    machine: type[RuleBasedStateMachine],
    addresses: Addresses,
    seed_: int,
    *,
    histories: int,
    steps: int,
    shrink: bool = True,
) -> Counter[str]:
    """What was done. `machine` has `addresses` and a `tally`. Raises what the system did wrong, with Hypothesis' story
    in its notes.
    """
    tally: Counter[str] = Counter()
    placed = type(machine.__name__, (machine,), {"addresses": addresses, "tally": tally})
    quiet = settings(
        max_examples=histories,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )
    run_state_machine_as_test(seed(seed_)(placed), settings=quiet)
    return tally


def run(where: str, addresses: Addresses, seed_: int, steps: int) -> Outcome:
    """Batches from this seed on, one more each, until the steps are made or one fails."""
    logging.disable(logging.WARNING)  # servers go away all the time here
    outcome = Outcome()
    began_s = perf_counter()
    while outcome.tally["steps"] < steps and outcome.story is None:
        outcome.seeds.append(seed_)
        try:
            outcome.tally += batch(Histories, addresses, seed_, histories=HISTORIES_A_BATCH, steps=STEPS_A_HISTORY)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            outcome.story = "".join(traceback.format_exception(error))
        print(f"  {where}: seed {seed_}, {outcome.tally['steps']:,} of {steps:,} steps", flush=True)  # noqa: T201
        seed_ += 1
    outcome.elapsed_s = perf_counter() - began_s
    return outcome
