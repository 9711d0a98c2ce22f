"""The laboratory runs experiments for visitors: one at a time among all web processes, beside the event loop, bounded.

An experiment runs in a thread with an event loop and connections of its own, so that pages are answered meanwhile. The
state of a run is in MongoDB: any web process can show it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from app.config import Config
from app.errors import NotFound, TooMany
from app.stack import Addresses, Stack, is_away
from app.stack.scratch import scratch
from app.walkthrough.experiments import EXPERIMENTS
from app.walkthrough.experiments.base import Experiment
from app.walkthrough.lab import ForwardClock, Lab
from app.walkthrough.result import Result

log = logging.getLogger(__name__)

LIMIT_S = 60.0  # a run that takes longer is given up
LOCK_S = LIMIT_S + 15  # with the dropping of its database
KEPT = timedelta(days=1)  # how long what was found can be looked up
PER_MINUTE = 10  # runs, whoever asks for them
CAP = 100  # entries of a timeline in the laboratory: its lists leave the demo's Memcached alone
TTL_S = 120
BUSY_RETRY_S = 3

State = Literal["running", "done", "failed"]


@dataclass(frozen=True)
class Run:
    id: ObjectId
    slug: str
    values: Mapping[str, int]
    state: State
    progress: str
    begun_at: datetime
    result: Result | None

    @classmethod
    def of(cls, document: Mapping[str, Any], now: datetime) -> "Run":
        """Return the run of a document. A run whose process has died counts as failed."""
        state, progress = document["state"], document["progress"]
        if state == "running" and now > document["begun_at"] + timedelta(seconds=LOCK_S):
            state, progress = "failed", "It did not come to its end."
        result = Result.model_validate(document["result"]) if document["result"] else None
        return cls(document["_id"], document["slug"], document["values"], state, progress, document["begun_at"], result)


class Laboratory:
    """The laboratory of one web process."""

    def __init__(self, stack: Stack, per_minute: int = PER_MINUTE) -> None:
        self._stack, self._clock = stack, stack.clock
        self._runs, self._lock = stack.db["experiments"], stack.db["experiment_lock"]
        enough = "Enough experiments for one minute."
        self._begun = stack.rates.rate("experiments", per_minute, enough)
        self._begun_each = stack.rates.rate("experiments each", max(1, per_minute // 2), enough)
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, slug: str, given: Mapping[str, str], whose: str) -> ObjectId:
        """Begin an experiment, and return the run's id. `whose`: one visitor may begin half of what all may.

        Who asks for what is under way, as by pressing twice, gets the run that has begun.

        Raises NotFound, Invalid for a knob, and TooMany while another is running or after many.
        """
        if slug not in EXPERIMENTS:
            raise NotFound("There is no such experiment.")
        experiment = EXPERIMENTS[slug]
        values = experiment.values(given, real=not self._stack.addresses.one_process)
        run = self._clock.new_id()
        await self._begun_each.check(whose)
        if not await self._locked(run):
            if under_way := await self._under_way(slug, values):
                return under_way
            raise TooMany("Another experiment is running; they would disturb each other.", BUSY_RETRY_S)
        try:
            await self._begun.count("run")
        except TooMany:
            await self._unlock(run)
            raise
        await self._begun_each.hit(whose)
        now = self._clock.now()
        await self._runs.delete_many({"begun_at": {"$lt": now - KEPT}})
        begun = {"state": "running", "progress": "Starting", "begun_at": now, "result": None}
        await self._runs.insert_one({"_id": run, "slug": slug, "values": values, **begun})
        task = asyncio.create_task(self._run(run, experiment, values))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def run(self, id: ObjectId) -> Run:
        """Return a run by its id. Raises NotFound."""
        document = await self._runs.find_one({"_id": id})
        if document is None:
            raise NotFound("There is no such run; what was found is kept for a day.")
        return Run.of(document, self._clock.now())

    async def _locked(self, run: ObjectId) -> bool:
        now = self._clock.now()
        held = {"run": run, "until": now + timedelta(seconds=LOCK_S)}
        try:
            await self._lock.update_one({"_id": "lock", "until": {"$lt": now}}, {"$set": held}, upsert=True)
        except DuplicateKeyError:  # somebody holds it
            return False
        return True

    async def _under_way(self, slug: str, values: Mapping[str, int]) -> ObjectId | None:
        """Return the run that holds the lock, where it is of this experiment and these values."""
        held = await self._lock.find_one({"_id": "lock"})
        run = await self._runs.find_one({"_id": held["run"], "slug": slug, "values": values}) if held else None
        return run["_id"] if run else None

    async def _unlock(self, run: ObjectId) -> None:
        await self._lock.delete_one({"_id": "lock", "run": run})

    async def _run(self, run: ObjectId, experiment: Experiment, values: Mapping[str, int]) -> None:
        loop = asyncio.get_running_loop()

        def say(words: str) -> None:
            asyncio.run_coroutine_threadsafe(self._note(run, progress=words), loop)

        try:
            result = await run_once(self._stack.addresses, self._stack.config, experiment, values, run, say)
            await self._note(run, state="done", progress="Done", result=result.model_dump())
        except TimeoutError:
            await self._note(run, state="failed", progress=f"It took longer than {LIMIT_S:.0f} s and was given up.")
        except Exception as error:  # told to whoever waits for it; a task has nobody else
            if is_away(error):
                log.warning("experiment %s: %s", experiment.slug, error)
                words = "A server did not answer."
            else:
                log.exception("experiment %s", experiment.slug)
                words = "It broke; the server’s log says where."
            await self._note(run, state="failed", progress=words)
        finally:
            await self._unlock(run)

    async def _note(self, run: ObjectId, **fields: Any) -> None:
        """Write fields of a run that is under way. Progress that arrives late changes no run that has ended."""
        await self._runs.update_one({"_id": run, "state": "running"}, {"$set": fields})


async def run_once(
    addresses: Addresses,
    config: Config,
    experiment: Experiment,
    values: Mapping[str, int],
    run: ObjectId | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Run one experiment in a thread, with its own loop, connections and database.

    Raises TimeoutError after LIMIT_S. Cancelling it cancels the experiment, which cleans up.
    """
    family = f"{config.database}_lab_"
    database = f"{family}{run or ObjectId()}"
    own = config.model_copy(update={"database": database, "demo": True, "cap": CAP, "timeline_ttl_s": TTL_S})
    cancel: list[Callable[[], object]] = []

    async def measured() -> Result:
        task = asyncio.current_task()
        assert task
        cancel.append(partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel))
        clock = ForwardClock()
        async with asyncio.timeout(LIMIT_S), scratch(addresses, own, family, clock) as stack:
            lab = await Lab.open(stack, clock, say)
            result = await experiment.run(lab, values)
            return result.model_copy(update={"meaningless": not lab.real})

    thread = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(measured())))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        for each in cancel:
            each()
        raise
