"""People who write to each other while everything breaks, and read all that is there.

What failed is tried again with its `client_id`; some hang up early and try again, as if the answer had been lost.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any
from uuid import UUID

from httpx import Response

from benchmarks.dialogue import Dialogue, Wrong
from benchmarks.faults.client import NEVER_REPLAYED, Client, patience_s, persist
from benchmarks.faults.worlds import Violation

READ = 0.3  # share of the messages after which their sender reads the conversation
RECEIPTS = 0.5  # and says so
PAGE = 100


@dataclass
class Talk:
    """A conversation between two people, who may both be writing."""

    path: str
    people: tuple[str, str]
    dialogue: Dialogue = field(default_factory=Dialogue)


class Talks:
    """The conversations of each of these people with the next one."""

    def __init__(self, client: Client, people: Sequence[str]) -> None:
        self._client, self._outcome, self._people = client, client.outcome, people
        self._talks: list[Talk] = []
        self._numbers = count(1)

    async def prepare(self) -> None:
        for one, other in zip(self._people, [*self._people[1:], self._people[0]], strict=True):
            answer = await self._client.call(one, "conversation", "PUT", f"/conversations/{other}", 200, 201)
            assert answer is not None, "nothing has been broken yet"
            self._talks.append(Talk(f"/conversations/{answer.json()['id']}", (one, other)))

    async def turn(self, me: str, random: Random) -> None:
        talk = random.choice([talk for talk in self._talks if me in talk.people])
        seq = await self._send(me, talk, random)
        if seq and random.random() < READ:
            await self.read(me, talk)
            if random.random() < RECEIPTS:
                await self._client.call(me, "receipt", "PUT", f"{talk.path}/receipt", 204, json={"read": seq})

    async def _send(self, me: str, talk: Talk, random: Random) -> int | None:
        """Send a message; return its number, or None where it was not acknowledged."""
        text, id = f"{me} writes {next(self._numbers)}", str(UUID(int=random.getrandbits(128)))
        talk.dialogue.begin(text)

        async def attempt(number: int) -> Response | None:
            self._outcome.messages_replayed += number > 1
            options: Any = {"json": {"client_id": id, "text": text}, "patience_s": patience_s(number, random)}
            return await self._client.call(me, "message", "POST", f"{talk.path}/messages", 200, 201, **options)

        answer = await (persist(attempt) if random.random() >= NEVER_REPLAYED else attempt(1))
        if answer is None:
            return None
        self._outcome.messages_acknowledged += 1
        seq: int = answer.json()["seq"]
        self._judged(me, "acknowledged", talk.dialogue.acknowledge(text, seq))
        return seq

    async def read_everything(self) -> None:
        for talk in self._talks:
            for me in talk.people:
                await self.read(me, talk)

    async def read(self, me: str, talk: Talk) -> None:
        """Check a whole conversation, to its very first message."""
        due, shown = dict(talk.dialogue.acknowledged), list[tuple[int, str]]()
        before: int | None = None

        async def attempt(_: int) -> Response | None:
            parameters = {"limit": str(PAGE)} | ({"before": str(before)} if before else {})
            return await self._client.call(me, "messages", "GET", f"{talk.path}/messages", 200, params=parameters)

        while True:
            page = (await persist(attempt)).json()
            shown += [(message["seq"], message["text"]) for message in page["messages"]]
            before = page["next"]
            if before is None:
                break
        self._outcome.pages_checked += 1
        self._judged(me, talk.path, talk.dialogue.check(shown, due))

    def _judged(self, me: str, where: str, wrongs: Iterable[Wrong]) -> None:
        self._outcome.violations += [Violation(kind, me, what, where, time.monotonic()) for kind, what in wrongs]
