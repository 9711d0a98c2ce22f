"""`feedlab bench faults`: the whole system as processes, broken at random under a load that checks every page."""

import asyncio
import time
from itertools import product
from random import Random

from app.demo.graph import Graph
from app.servers.start import say
from benchmarks.faults.client import Client, client, persist
from benchmarks.faults.disturb import Injector
from benchmarks.faults.load import SLUGS, Load
from benchmarks.faults.outcome import Outcome, Plan, giving_up, shown
from benchmarks.faults.system import ADMIN, CAST, System, logs_of, serving

__all__ = ["Plan", "run"]

THINK_S = 0.8  # mean pause of everybody between two things
DRAIN_DEADLINE_S = 150.0  # after the last fault, until nothing is owed
WALKERS = 6  # walks at the same time


def run(plan: Plan, *, as_json: bool, crowd: Graph | None = None) -> int:
    """Run the faults. Return 0 when nothing was missing, wrong or doubled and every error was clean; else 1.

    With 1 the logs are kept. `crowd`: people who are there beside those who are watched.
    """
    outcome = Outcome(plan=plan)
    with (
        logs_of("faults", lambda: outcome.good) as directory,
        serving(directory, plan, crowd) as system,
        shown(outcome, as_json=as_json),
    ):
        say(f"breaking what runs at {system.url} {plan.faults} times")
        asyncio.run(_observe(system, plan, outcome))
        outcome.serve_ended_with = system.process.poll()
    return 0 if outcome.good else 1


async def _observe(system: System, plan: Plan, outcome: Outcome) -> None:
    began_s = time.monotonic()
    async with client(system.url, outcome) as http:
        load = Load(http, CAST, plan.seed, THINK_S)
        try:
            with giving_up(outcome):
                await load.prepare()
                await _break_under(load, Injector(plan, system, http, outcome, Random(plan.seed)))
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_drained(http))
                    tasks.create_task(_walk_everything(load))  # whatever is still owed
                await _walk_everything(load)
        finally:
            outcome.elapsed_s = round(time.monotonic() - began_s, 1)
    letters = await asyncio.to_thread(system.feedlab, "deliveries", "--failed")
    outcome.dead_letters = "" if letters == "no dead letters" else letters


async def _break_under(load: Load, injector: Injector) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())
        await asyncio.sleep(2 * THINK_S)
        await injector.run()
        await _everything_works(load)
        load.stop.set()


async def _everything_works(load: Load) -> None:
    """Wait until every kind of operation has succeeded after every fault. Raises NeverRecovered."""

    async def attempt(_: int) -> bool | None:
        return None if load.outcome.never_recovered else True

    await persist(attempt)


async def _walk_everything(load: Load) -> None:
    limit = asyncio.Semaphore(WALKERS)

    async def walk(reader: str, slug: str) -> None:
        async with limit:
            await load.walk(reader, slug)

    async with asyncio.TaskGroup() as tasks:
        for reader, slug in product(load.cast.everybody, SLUGS):
            tasks.create_task(walk(reader, slug))
        tasks.create_task(load.talks.read_everything())


async def _drained(http: Client) -> None:
    """Wait until no phase owes a delivery."""
    began_s, outcome = time.monotonic(), http.outcome
    while time.monotonic() < began_s + DRAIN_DEADLINE_S:
        answer = await http.call(ADMIN, "phases", "GET", "/phases", 200)
        if answer is not None:
            outcome.owed = {phase["slug"]: phase["pending"] for phase in answer.json()["phases"] if phase["pending"]}
            outcome.drain_s = round(time.monotonic() - began_s, 1)
            if not outcome.owed:
                return
        await asyncio.sleep(0.5)
