"""`feedlab bench live`: the whole system as processes, many open streams, and one equation to check.

What was fetched once, with the events applied, has to equal what is fetched now.
"""

import asyncio
import time
from random import Random

from app.demo.graph import Graph
from app.servers.start import say
from benchmarks.faults.outcome import giving_up, shown
from benchmarks.faults.system import System, allow_descriptors, logs_of, served
from benchmarks.live.disturb import ADMIN, break_it, disconnect
from benchmarks.live.outcome import Outcome, Plan, Silent
from benchmarks.live.reader import Stream
from benchmarks.live.run import Run
from benchmarks.live.system import People, commands, new_web_processes, rss
from benchmarks.measure import measuring_loop
from benchmarks.wire import EventSource, WebSocket

__all__ = ["Plan", "run"]

STATUSES_EACH = 5  # before the run: pages are full
FEW = 10  # the memory of one is told from a tenth of them, and all
ALONE_S = 10.0  # at most, of MongoDB's commands without any connection
SETTLE_S = 3.0
WEBSOCKETS = 4  # every so many readers have one
SPARE = 200  # descriptors beside those of the streams


def run(plan: Plan, graph: Graph, *, as_json: bool) -> int:
    """Run the load.

    Return 0 when nobody missed anything, was told twice, was shown what is not theirs, or got `reset` too early.

    Otherwise return 1, and keep the logs.
    """
    allow_descriptors(plan.connections + SPARE)
    outcome, began_s, statuses = Outcome(plan=plan), time.monotonic(), STATUSES_EACH * len(graph.people)
    with (
        logs_of("live", lambda: outcome.good) as directory,
        served(directory, {}, graph, plan.seed, statuses=statuses, workers=1) as system,
        shown(outcome, as_json=as_json),
    ):
        try:
            people = People.entered(system, graph, Random(plan.seed))
            system.feedlab("admin", people.handles[ADMIN], check=True)
            with giving_up(outcome), asyncio.Runner(loop_factory=measuring_loop) as runner:
                runner.run(_observe(system, people, plan, outcome))
            outcome.serve_ended_with = system.process.poll()
        finally:
            outcome.elapsed_s = round(time.monotonic() - began_s, 1)
    return 0 if outcome.good else 1


async def _observe(system: System, people: People, plan: Plan, outcome: Outcome) -> None:
    if plan.silent_s:
        outcome.commands_per_s["alone"] = await _commands_per_s(system, min(plan.silent_s, ALONE_S))
        for kind in (EventSource, WebSocket):
            if outcome.silent:
                await new_web_processes(system)  # what the first kind has left would be used again
            await _silent(system, people, plan, outcome, kind)
    say(f"{plan.connections:,} readers open their streams")
    run = Run(system.url, people, outcome, Random(plan.seed))
    try:
        await run.open(plan.connections, [WebSocket, *[EventSource] * (WEBSOCKETS - 1)])
        await run.prepare()
        for rate in plan.rates:
            say(f"{rate:g} posts a second for {plan.seconds:g} s")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(run.load(rate, plan.seconds))
                if plan.faults:
                    each = Random(f"{plan.seed} faults")
                    tasks.create_task(break_it(run, system, plan.faults, plan.seconds, each))
                if plan.disconnects:
                    each = Random(f"{plan.seed} disconnects")
                    tasks.create_task(disconnect(run, plan.disconnects, plan.seconds, each))
            if outcome.steps[-1].is_too_late:
                say("a higher rate would be later still")
                break
        say("it is quiet: everybody's state is compared")
        await run.compare()
    finally:
        await run.close()


async def _silent(system: System, people: People, plan: Plan, outcome: Outcome, kind: Stream) -> None:
    say(f"{plan.connections:,} silent connections of {kind.kind}")
    run = Run(system.url, people, Outcome(plan=plan), Random(plan.seed))
    few, measured = max(1, plan.connections // FEW), list[int]()
    try:
        for count in (few, plan.connections):
            await run.open(count, [kind])
            await asyncio.sleep(min(SETTLE_S, plan.silent_s))
            measured.append(rss(system))
        if kind is EventSource:  # the hub does not know which kind it is
            say(f"MongoDB's commands are counted for {plan.silent_s:g} s")
            outcome.commands_per_s["silent"] = await _commands_per_s(system, plan.silent_s)
    finally:
        await run.close()
        outcome.wrongs.update(run.outcome.wrongs)
        outcome.words += run.outcome.words
    silent = Silent(kind=kind.kind, few=few, many=plan.connections, rss_few=measured[0], rss_many=measured[1])
    outcome.silent.append(silent)


async def _commands_per_s(system: System, seconds: float) -> float:
    before, began_s = await asyncio.to_thread(commands, system), time.monotonic()
    await asyncio.sleep(seconds)
    return (await asyncio.to_thread(commands, system) - before) / (time.monotonic() - began_s)
