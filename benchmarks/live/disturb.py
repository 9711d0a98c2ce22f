"""Disturbances of a live system: processes are killed, Redis is restarted, phases are switched, clients do not read."""

import asyncio
from contextlib import suppress
from random import Random

import psutil

from benchmarks.faults.load import SLUGS
from benchmarks.faults.system import System, until_alive
from benchmarks.live.run import Run
from benchmarks.live.system import AWAY_S

ADMIN = 0  # the number of whoever may switch phases
KINDS = ("kill web", "kill redis", "kill worker", "restart redis", "switch phases", "slow clients")
SLOW = 0.05  # share of the readers
SLOW_S = (1.0, 40.0)  # the server gives up after 30


async def break_it(run: Run, system: System, faults: int, seconds: float, random: Random) -> None:
    """Make so many faults within that time, each kind as often as the others."""
    clock, begun = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
    kinds = random.sample(KINDS * (faults // len(KINDS) + 1), faults) if faults > len(KINDS) else list(KINDS[:faults])
    for kind in kinds:
        await asyncio.sleep(random.uniform(0.5, 1.0) * seconds / faults)
        how, what = kind.split()
        match how:
            case "switch":
                keeping = random.sample(SLUGS[1:], random.randint(0, len(SLUGS) - 1))
                body = {"read": random.choice(SLUGS), "delivering": keeping}
                await run.ask(ADMIN, "PUT", "/phases", 200, body=body)
            case "slow":
                readers = [reader for reader in run.readers if reader.ready.is_set()]
                for reader in random.sample(readers, min(len(readers), max(1, round(SLOW * len(run.readers))))):
                    run.spawn(reader.read_nothing(random.uniform(*SLOW_S)))
            case _:
                _, process = random.choice(await until_alive(system, what, AWAY_S))
                with suppress(psutil.NoSuchProcess):
                    process.kill() if how == "kill" else process.terminate()
        run.outcome.happened.append((round(clock() - begun, 1), kind))


async def disconnect(run: Run, count: int, seconds: float, random: Random) -> None:
    """Make so many disconnects within that time, or as many as there are clients that have come back."""
    clock, begun = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
    target = run.outcome.disconnects + count
    while (done := run.outcome.disconnects) < target:
        due_s = begun + seconds * (1 - (target - done) / count)
        if due_s > clock():
            await asyncio.sleep(due_s - clock())
        here = [reader for reader in run.readers if reader.ready.is_set() and not reader.is_slow]
        if here:
            random.choice(here).break_off()
        else:
            await asyncio.sleep(0.01)
