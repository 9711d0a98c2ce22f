"""Readers over HTTP: their tokens, and the page that each of them is to be shown, by the oracle."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import psutil
from bson import ObjectId

from app.demo.graph import powerlaw
from app.demo.progress import Progress, silent
from benchmarks.generator import WRONG_PAGE, Answered, Reader, checksum
from benchmarks.record import Record
from benchmarks.rig import Rig
from benchmarks.subject import Failed, Http, WrongAnswer
from benchmarks.tokens import give

AT_ONCE = 8
LIMIT = 20
MEAN_FOLLOWEES, STATUSES_EACH = 30, 10


class NotAnswered(Exception):
    """A page was refused, or a connection broke: the run has failed."""


def checked(answered: Answered) -> Answered:
    """Return an outcome without errors. Raises WrongAnswer, NotAnswered."""
    if count := answered.errors.get(WRONG_PAGE):
        raise WrongAnswer(f"{count} of {count + answered.answered} answers show {WRONG_PAGE}")
    if answered.errors:
        raise NotAnswered(", ".join(f"{what}: {count}" for what, count in answered.errors.items()))
    return answered


class Readers:
    """Some readers among the people of the rig. `record`: what is true of the pages now."""

    def __init__(self, rig: Rig, numbers: Sequence[int], limit: int) -> None:
        self._rig, self.numbers, self._limit = rig, list(numbers), limit
        self.record = Record(rig.loaded)
        self.tokens: dict[int, str] = {}

    async def enter(self, numbers: Iterable[int]) -> None:
        """Give tokens to those who have none."""
        by_id = {self._rig.loaded.ids[number]: number for number in numbers if number not in self.tokens}
        self.tokens |= {by_id[id]: token for id, token in (await give(self._rig.stack, list(by_id))).items()}

    def path(self, slug: str) -> str:
        return f"/api/v1/timeline?phase={slug}&limit={self._limit}"

    async def shown(self, slug: str, ports: Sequence[int], progress: Progress = silent) -> list[Reader]:
        """Return what everybody is shown by each of these processes, after comparing it with the oracle.

        The processes know the readers then. Raises WrongAnswer, Failed.
        """
        await self.enter(self.numbers)
        expected: dict[int, int] = {}
        for port in ports:
            http, waiting = Http("127.0.0.1", port), iter(enumerate(self.numbers))

            async def client(http: Http = http, waiting: Iterable[tuple[int, int]] = waiting, port: int = port) -> None:
                for done, number in waiting:
                    progress(f"{slug}: comparing pages with the oracle's", done, len(self.numbers))
                    page = await self._page(http, slug, number)
                    if expected.setdefault(number, page) != page:
                        raise WrongAnswer(f"{slug}: reader {number} is shown another page by the process on {port}")

            try:
                await asyncio.gather(*(client() for _ in range(AT_ONCE)))
            finally:
                await http.close()
        return [Reader(self.tokens[number], expected[number]) for number in self.numbers]

    async def _page(self, http: Http, slug: str, number: int) -> int:
        """Read one reader's page, and return its checksum. Raises WrongAnswer, Failed."""
        status, body = await http.ask("GET", self.path(slug), None, f"Authorization: Bearer {self.tokens[number]}\r\n")
        if status != HTTPStatus.OK:
            raise Failed(f"HTTP {status}")
        page = json.loads(body)
        due, more = self.record.oracle(number).page(self._rig.loaded.ids[number], None, self._limit)
        ids = list(map(str, due))
        if [status["id"] for status in page["statuses"]] != ids or page["next"] != (ids[-1] if more else None):
            raise WrongAnswer(f"{slug}: the page of reader {number} is not the oracle's")
        return checksum(body)


@asynccontextmanager
async def workers_stopped(rig: Rig) -> AsyncIterator[None]:
    worker = psutil.Process(rig.processes["worker"])
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


async def post(
    readers: Readers, ports: Sequence[int], authors: Sequence[int], count: int, progress: Progress = silent
) -> list[ObjectId]:
    """Post so many statuses over HTTP, by each of the authors in turn, and note them in `readers.record`.

    Raises NotAnswered.
    """
    await readers.enter(authors[:count])
    coming, statuses = iter(list(zip(range(count), itertools.cycle(authors)))), list[ObjectId]()
    clients = [Http("127.0.0.1", port) for port in ports]

    async def client(http: Http) -> None:
        for number, author in coming:
            progress("posting", number, count)
            headers = f"Authorization: Bearer {readers.tokens[author]}\r\n"
            status, body = await http.ask("POST", "/api/v1/statuses", {"text": f"backlog {number}"}, headers)
            if status != HTTPStatus.CREATED:
                raise NotAnswered(f"a post: HTTP {status}")
            statuses.append(ObjectId(json.loads(body)["id"]))
            readers.record.post(statuses[-1], author, "followers")

    try:
        await asyncio.gather(*(client(http) for http, _ in zip(itertools.cycle(clients), range(AT_ONCE))))
    finally:
        for http in clients:
            await http.close()
    return statuses


def followed(rig: Rig, readers: Iterable[int]) -> list[int]:
    """Return the people whom these readers follow, in a random order."""
    authors = sorted({author for reader in readers for author in rig.loaded.graph.followees_of(reader)})
    random.Random(1).shuffle(authors)
    return authors


async def crowd(rig: Rig, people: int, readers: int) -> Readers:
    """Return some readers of a small world, which is made at the first call.

    They have been here lately, and their first page is full.
    """
    if not rig.is_loaded:
        await rig.load(powerlaw(people, MEAN_FOLLOWEES, 1), 1, STATUSES_EACH, range(0, people, people // readers))
    ids, before = rig.loaded.ids, Record(rig.loaded)
    full = [each for each in rig.loaded.readers if before.oracle(each).page(ids[each], None, LIMIT)[1]]
    return Readers(rig, full, LIMIT)
