"""The system of a live run, and its people: who follows whom, and tokens for everybody."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Self

import psutil

from app.demo.graph import Graph
from app.demo.seed import handles
from benchmarks.faults.system import System, until_alive
from benchmarks.tokens import TOKENS, VERSIONS, Given

DAYS = 1  # that the tokens are valid for
AWAY_S = 60.0  # for a process to be there again
UNCOUNTED = {
    "hello",
    "isMaster",
    "ismaster",
    "ping",
    "serverStatus",
    "endSessions",
    "buildInfo",
}  # commands that drivers send by themselves, and that we send to count


@dataclass
class People:
    """The people of a live run, by number. `readers`: in a random order."""

    handles: list[str]
    numbers: dict[str, int]
    tokens: list[str]
    readers: list[int]
    follows: set[tuple[int, int]]
    circles: set[tuple[int, int]]
    followees: dict[int, set[int]]

    @classmethod
    def entered(cls, system: System, graph: Graph, random: Random) -> Self:
        """Give everybody a token, past the API: 4,000 passwords take minutes to check."""
        names = handles(graph.people)
        numbers = {handle: number for number, handle in enumerate(names)}
        until = datetime.now(UTC) + timedelta(days=DAYS)
        with system.mongodb() as db:
            by_id = {user["_id"]: numbers[user["handle"]] for user in db["users"].find({}, {"handle": True})}
            given = Given.to(sorted(by_id, key=by_id.__getitem__), until)
            db[TOKENS].insert_many(given.documents)
            db[VERSIONS].bulk_write(given.versions)
            circles = {(by_id[row["owner"]], by_id[row["member"]]) for row in db["circles"].find()}
        readers = list(range(len(names)))
        random.shuffle(readers)
        followees = {number: set(graph.followees_of(number)) for number in readers}
        return cls(names, numbers, given.tokens, readers, set(graph.follows()), circles, followees)


def rss(system: System) -> int:
    """Return the resident bytes of all web processes."""
    return sum(process.memory_info().rss for _, process in system.alive("web"))


def commands(system: System) -> int:
    """Return the number of commands that everybody has given MongoDB since it began."""
    with system.mongodb() as db:
        counts = db.command("serverStatus")["metrics"]["commands"]
    return sum(each["total"] for name, each in counts.items() if name not in UNCOUNTED and isinstance(each, dict))


async def new_web_processes(system: System) -> None:
    """Kill the web processes, and wait for new ones, in which nothing has been allocated yet."""
    old = {process.pid for _, process in system.alive("web")}
    for pid in old:
        psutil.Process(pid).kill()
    await until_alive(system, "web", AWAY_S, len(old), old)
