"""The faults: which there are, when they come, and how they are made."""

import asyncio
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from urllib.parse import unquote, urlsplit

import psutil
from pymongo.errors import PyMongoError

from app.models import SETTINGS
from app.servers.probe import dial
from benchmarks import answers
from benchmarks.faults.client import Client
from benchmarks.faults.load import SLUGS
from benchmarks.faults.outcome import Outcome, Plan
from benchmarks.faults.system import ADMIN, CAST, System, until_alive
from workers.tailer import DOCUMENT

SHORTEST_PAUSE_S = 1.0  # how long a process is stopped, at least
ALIVE_DEADLINE_S = 40.0  # for a target to be there again
FLUSH_TIMEOUT_S = 2.0
NO_PLACE = {"_data": "82" + "00" * 30}
CHOICES = ("pulled", "pulled", "delivered", "rule")
PROCESSES = ("web", "worker", "memcached", "redis", "mongodb")


def deck(plan: Plan) -> list[str]:
    """Return the kinds of fault, each as often as it is to happen in one round."""
    kinds = [f"{how} {what}" for how in ("kill", "pause") for what in PROCESSES]
    kinds += ["flush memcached", "flush redis", "switch phases"]
    kinds += ["kill tailer", "pause tailer", "forget place", "force author"]
    if not plan.aof:
        kinds += ["kill redis"] * 3
    if plan.replica_set:
        kinds = [kind for kind in kinds if not kind.endswith("mongodb")] + ["kill primary"] * 6 + ["pause primary"] * 2
    return kinds


@dataclass
class Injector:
    plan: Plan
    system: System
    client: Client
    outcome: Outcome
    random: Random
    _began_s: float = field(default_factory=time.monotonic)
    _pauses: set["asyncio.Task[None]"] = field(default_factory=set)

    async def run(self) -> None:
        coming: list[str] = []
        while len(self.outcome.happened) < self.plan.faults:
            if not coming:
                coming = deck(self.plan)
                self.random.shuffle(coming)
            await asyncio.sleep(self.random.uniform(0.3, 1.7) * self.plan.seconds / self.plan.faults)
            await self._inject(coming.pop())
        await asyncio.gather(*self._pauses)

    async def _inject(self, kind: str) -> None:
        how, what = kind.split()
        match how:
            case "kill" | "pause":
                detail = await self._signal(how, what)
            case "flush":
                detail = await asyncio.to_thread(self._flush, what)
            case "forget":
                detail = await self._signal("kill", "tailer") and await asyncio.to_thread(self._forget)
            case "force":
                detail = await asyncio.to_thread(self._force)
            case _:
                detail = await self._switch()
        if detail is None:
            self.outcome.skipped[kind] += 1  # it is away already
            return
        self.outcome.happened.append((round(time.monotonic() - self._began_s, 3), kind, detail))

    async def _signal(self, how: str, what: str) -> str | None:
        least = 0 if what == "tailer" else 1  # nobody has to follow for now
        if not (alive := await until_alive(self.system, what, ALIVE_DEADLINE_S, least)):
            return None
        name, process = self.random.choice(alive)
        self.outcome.fault()
        with suppress(psutil.NoSuchProcess):
            if how == "kill":
                process.kill()
                return f"{name} ({process.pid})"
            process.suspend()
            seconds = self.random.uniform(SHORTEST_PAUSE_S, self.plan.longest_pause_s)
            task = asyncio.create_task(_resume(process, seconds))
            self._pauses.add(task)
            task.add_done_callback(self._pauses.discard)
            return f"{name} ({process.pid}) for {seconds:.1f} s"
        return None

    def _flush(self, what: str) -> str | None:
        """Flush a server, and return its answer; None when it does not answer."""
        note = self.system.directory.note()
        address = note.redis if what == "redis" else (note.memcached or ("",))[0]
        self.outcome.fault()
        with suppress(OSError), dial(unquote(urlsplit(str(address)).path), FLUSH_TIMEOUT_S) as connection:
            connection.sendall(b"FLUSHALL\r\n" if what == "redis" else b"flush_all\r\n")
            return connection.recv(100).decode().strip() or None
        return None

    def _forget(self) -> str | None:
        """Make MongoDB's log not reach back to where the stream was left: error 286, for whoever follows it next."""
        with suppress(PyMongoError), self.system.mongodb() as db:
            changed = db[SETTINGS].update_one({"_id": DOCUMENT}, {"$set": {"place": NO_PLACE}})
            return "the tailer was killed before" if changed.matched_count else None
        return None

    def _force(self) -> str | None:
        handle, choice = self.random.choice(CAST.authors), self.random.choice(CHOICES)
        self.outcome.fault()
        with suppress(subprocess.CalledProcessError):  # a server is away
            self.system.feedlab("author", handle, "--force", choice, check=True)
            return f"{handle} is {choice}"
        return None

    async def _switch(self) -> str | None:
        keeping = [phase.slug for phase in answers.KEEPING]
        body = {
            "read": self.random.choice(SLUGS),
            "delivering": self.random.sample(keeping, self.random.randint(0, len(keeping))),
        }
        self.outcome.fault()
        answer = await self.client.call(ADMIN, "switch", "PUT", "/phases", 200, json=body)
        return ",".join(body["delivering"]) or "nothing" if answer is not None else None


async def _resume(process: psutil.Process, after_s: float) -> None:
    try:
        await asyncio.sleep(after_s)
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()
