"""Random histories against an oracle. `prove` runs them for long."""

import multiprocessing
import os
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.config import Config
from app.servers.borrow import running_servers
from app.stack import Addresses
from tests.prove import Asked, say
from tests.world import STAND_INS

if TYPE_CHECKING:
    from tests.oracle.histories import Outcome

APART = 1_000_000  # between the seeds of processes that run at once


def prove(asked: Asked) -> bool:
    """On stand-ins in one process per core, and meanwhile on real servers in one (they are shared by everything)."""
    from tests.oracle.histories import run

    cores = os.cpu_count() or 1
    with (
        _servers(asked.server_steps) as servers,
        ProcessPoolExecutor(cores + 1, mp_context=multiprocessing.get_context("spawn")) as processes,
    ):
        on_servers = [processes.submit(run, "real servers", servers, asked.seed, asked.server_steps)] if servers else []
        share = -(-asked.steps // cores)
        on_stand_ins = (
            []
            if not asked.steps
            else [processes.submit(run, "stand-ins", STAND_INS, asked.seed + n * APART, share) for n in range(cores)]
        )
        return all([_talked(asked), _told("stand-ins", on_stand_ins), _told("real servers", on_servers)])


def _talked(asked: Asked) -> bool:
    """Conversations, beside them in this process."""
    from tests.oracle.histories import batch
    from tests.oracle.talk import Talking

    try:
        tally = batch(Talking, STAND_INS, asked.seed, histories=max(1, asked.steps // 100), steps=60, shrink=False)
    except AssertionError as error:
        say("".join(traceback.format_exception(error)))
        return False
    say(f"conversations: {tally['steps']:,} steps")
    return True


@contextmanager
def _servers(steps: int) -> Iterator[Addresses | None]:
    if not steps:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory, running_servers(Path(directory), Config()) as addresses:
        yield addresses


def _told(where: str, runs: "Sequence[Future[Outcome]]") -> bool:
    outcomes = [run.result() for run in runs]
    if not outcomes:
        return True
    tally = sum((outcome.tally for outcome in outcomes), Counter[str]())
    seeds = ", ".join(f"{outcome.seeds[0]} to {outcome.seeds[-1]}" for outcome in outcomes if outcome.seeds)
    slowest_s = max(outcome.elapsed_s for outcome in outcomes)
    say(f"{where}: {tally['steps']:,} steps in {tally['histories']:,} histories, seeds {seeds}, {slowest_s:.0f} s")
    say("  " + ", ".join(f"{name} {n:,}" for name, n in sorted(tally.items()) if name not in ("steps", "histories")))
    stories = [outcome.story for outcome in outcomes if outcome.story]
    for story in stories:
        say(story)
    return not stories
